// The page: pick a photo, paint a mask, look at the result.

import { fetchModels, inpaint, readMask, Trouble } from "./api.js";
import { isControl, listen } from "./gestures.js";
import { Mask, stencilFrom } from "./mask.js";
import { fileName, openPhoto, paintOn } from "./photo.js";
import { describe, modelOption } from "./models.js";
import { tell } from "./outcome.js";
import { Search } from "./search.js";
import { boxer, painter, selector } from "./tools.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const body = document.body;
const stage = $("stage");

let limits = { max_pixels: 16e6, max_body_bytes: 20 * 2 ** 20 };
let models = [];
let photo = null; // { bitmap, blob, name }
let result = null; // { bitmap, blob }
let tool = "brush"; // a key of tools
let takingOut = false; // what box and select do to the mask
let variant = 0; // which of a model's fills is shown
let split = 0.5; // where the compare divider stands, 0 to 1 over the photo's width
let running = null; // AbortController of the request under way

const view = new View(stage, $("sheet"), onViewMoved);
const mask = new Mask($("mask"), onMaskChanged);
const search = new Search(stage, { found: onFound, failed: complain });

// ---- steps ------------------------------------------------------------------------------------

function go(step) {
  body.dataset.step = step;
  $("zoom").hidden = step === "pick";
  for (const id of ["divider", "tag-before", "tag-after"]) $(id).hidden = step !== "result";
  $("cursor").hidden = true;
  if (step === "result") placeDivider();
}

function say(text, { bad = false } = {}) {
  $("notice").textContent = text;
  $("notice").classList.toggle("bad", bad);
  $("notice").hidden = !text;
  if (text) $("notice").scrollIntoView({ block: "nearest" });
}

function complain(error) {
  if (!(error instanceof Trouble)) console.error(error);
  say(error instanceof Trouble ? error.message : "Something went wrong on this page. Reload it and try again.", { bad: true });
}

async function take(file) {
  if (!file || running) return;
  say("");
  try {
    setPhoto(await openPhoto(file, limits));
  } catch (error) {
    complain(error);
  }
}

function setPhoto(opened) {
  search.stop();
  photo?.bitmap.close();
  photo = opened;
  const { width, height } = photo.bitmap;
  paintOn($("photo"), photo.bitmap);
  mask.reset(width, height);
  forgetResult();
  go("paint");
  view.show(width, height);
  showSize();
  say(photo.note);
}

function forgetResult() {
  if (result) URL.revokeObjectURL($("download").href);
  result = null;
}

function startOver() {
  say("");
  search.stop();
  photo = null;
  forgetResult();
  mask.reset(1, 1);
  $("file").value = "";
  go("pick");
  loadModels();
}

// ---- tools --------------------------------------------------------------------------------------

const takesOut = (event) => takingOut || event.shiftKey || event.altKey || event.ctrlKey || event.button === 2;
const tools = {
  brush: painter(mask, view, { size: brushSize, erases: false }),
  eraser: painter(mask, view, { size: brushSize, erases: true }),
  box: boxer(view, $("marquee"), { cover: ({ from, to, out }) => mask.box(from, to, out), takesOut }),
  select: selector(view, $("marquee"), { pick, takesOut }),
};
const paints = () => tool === "brush" || tool === "eraser";

function pickTool(name) {
  tool = name;
  for (const id of Object.keys(tools)) $(id).setAttribute("aria-pressed", String(id === name));
  $("size-box").hidden = !paints();
  $("modes").hidden = paints();
  $("tool-hint").hidden = paints();
  showTool();
  $("cursor").hidden = true;
}

function pickMode(out) {
  takingOut = out;
  $("add").setAttribute("aria-pressed", String(!out));
  $("take-out").setAttribute("aria-pressed", String(out));
}

// The model trained to find what is clicked on: the chosen one, else the first; none is no matter,
// and what is in a rectangle needs none.
function finder() {
  const able = models.filter(({ labels }) => labels.length > 0);
  return able.find(({ name }) => name === $("model").value) ?? able[0];
}

function whatIsFound() { return finder() ? ` Clicks find: ${finder().labels.join(", ")}.` : ""; }

function showTool() {
  $("tool-hint").textContent = tool === "box"
    ? "Drag a rectangle over what should go."
    : `Drag a rectangle around what should go: the thing in it is found. Or click on it.${whatIsFound()}`;
}

function pick({ box, place, at, out }) {
  search.start({ photo: photo.blob, model: box ? undefined : finder()?.name, box, place, at, out });
}

function onFound({ shape, names, out }) {
  if (shape) mask.stamp(shape, out);
  const done = out ? "Taken out" : "Added";
  if (shape && names.length) say(`${done}: ${names.join(", ")}.`);
  else if (shape) say(`${done}. If it is not quite right, mend it with brush and eraser, or undo.`);
  else say(`Nothing was found there.${whatIsFound()} Drag a rectangle around it, or paint over it.`);
}

// The slider is geometric: from two pixels to a third of the photo.
function brushSize() {
  const largest = Math.max(8, Math.min(view.width, view.height) / 3);
  return 2 * (largest / 2) ** ($("size").value / 100);
}

function showSize() {
  $("size-text").textContent = `${Math.round(brushSize())} px`;
  const pixels = `${brushSize() * view.scale}px`;
  $("cursor").style.width = pixels;
  $("cursor").style.height = pixels;
}

function resize(step) {
  $("size").value = Number($("size").value) + step;
  showSize();
}

function onMaskChanged() {
  $("undo").disabled = !mask.canUndo;
  $("redo").disabled = !mask.canRedo;
}

function onViewMoved() {
  showSize();
  if (body.dataset.step === "result") placeDivider();
}

listen(stage, view, {
  begin(event) {
    if (running) return;
    if (body.dataset.step === "result") slideTo(event);
    else if (photo) tools[tool].begin(event);
  },
  extend(event) {
    if (body.dataset.step === "result") slideTo(event);
    else tools[tool].extend(event);
  },
  end: () => tools[tool].end(),
  abandon: () => tools[tool].abandon(),
  takesRight: () => body.dataset.step === "paint" && !paints(),
  hover(event) {
    const shown = body.dataset.step === "paint" && paints() && event.pointerType !== "touch" && !running;
    $("cursor").hidden = !shown;
    const { x, y } = view.onStage(event);
    $("cursor").style.transform = `translate(${x}px, ${y}px) translate(-50%, -50%)`;
  },
  leave: () => { $("cursor").hidden = true; },
});

// ---- compare ------------------------------------------------------------------------------------

function slideTo(event) {
  split = Math.min(1, Math.max(0, view.onPhoto(event).x / view.width));
  placeDivider();
}

function placeDivider() {
  $("result").style.clipPath = `inset(0 0 0 ${100 * split}%)`;
  const line = $("divider").style;
  line.left = `${view.x + split * view.width * view.scale}px`;
  line.top = `${view.y}px`;
  line.height = `${view.height * view.scale}px`;
}

function hold(held) {
  $("result").style.visibility = held ? "hidden" : "visible";
  $("divider").hidden = held || body.dataset.step !== "result";
}

// ---- the request --------------------------------------------------------------------------------

async function run(another = 0) {
  if (running || !photo) return;
  await search.settled;
  if (running || !photo) return;
  if (mask.isEmpty) {
    say("Paint over what should go first.", { bad: true });
    return;
  }
  say("");
  variant = another;
  running = new AbortController();
  const clock = startClock();
  try {
    const answer = await inpaint({
      photo: photo.blob,
      mask: await mask.toBlob(),
      fields: fields(),
      signal: running.signal,
      onWait: () => { $("working-text").textContent = "Waiting for a free place…"; },
    });
    await show(answer);
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
  } finally {
    clearInterval(clock);
    $("working").hidden = true;
    $("run").disabled = false;
    running = null;
  }
}

function fields() {
  const chosen = { expand_px: $("expand").value, feather_px: $("feather").value, variant };
  return $("model").value ? { ...chosen, model: $("model").value } : chosen;
}

function startClock() {
  const started = performance.now();
  const tick = () => { $("seconds").textContent = `${((performance.now() - started) / 1000).toFixed(1)} s`; };
  $("working-text").textContent = "Filling the hole…";
  $("working").hidden = false;
  $("run").disabled = true;
  tick();
  return setInterval(tick, 100);
}

async function show(answer) {
  const { picture, notes } = answer;
  forgetResult();
  result = { bitmap: await createImageBitmap(picture), blob: picture };
  paintOn($("result"), result.bitmap);
  $("download").href = URL.createObjectURL(picture);
  $("download").download = fileName(photo, "rayfill");
  tell(answer, result.bitmap, { blend: $("blend"), facts: $("facts") });
  $("another").hidden = (chosenModel()?.variants ?? 1) < 2;
  split = 0.5;
  go("result");
  say(notes ?? "");
}

async function goOn() {
  await take(new File([result.blob], photo.name, { type: result.blob.type }));
}

// ---- models -------------------------------------------------------------------------------------

async function loadModels() {
  try {
    const answer = await fetchModels();
    limits = answer.limits;
    models = answer.models;
    $("expand").max = Math.min(48, limits.max_expand_px);
  } catch (error) {
    models = [];
    complain(error);
    return;
  }
  const before = $("model").value;
  $("model").replaceChildren(...models.map((model) => modelOption(model)));
  if (models.some((model) => model.name === before)) $("model").value = before;
  $("model").disabled = models.length < 2;
  $("model-box").hidden = models.length === 0;
  showScores();
  showTool();
  if (models.length === 0) {
    say("No model is ready yet. Train one and promote it; this page will notice.", { bad: true });
    setTimeout(loadModels, 5000);
  } else if ($("notice").textContent.startsWith("No model")) say("");
}

function chosenModel() { return models.find(({ name }) => name === $("model").value); }

function showScores() { describe(chosenModel(), { about: $("about"), scores: $("scores") }); }

// ---- mask files ---------------------------------------------------------------------------------

async function loadMask(file) {
  if (!file) return;
  try {
    const { picture, notes } = await readMask(file);
    const stencil = await stencilFrom(picture);
    const { width, height } = $("photo");
    if (stencil.width !== width || stencil.height !== height) {
      throw new Trouble(`That mask is ${stencil.width}×${stencil.height} pixels, but the photo is ${width}×${height}. They must be the same size.`, "size_mismatch");
    }
    mask.replace(stencil);
    say(notes ?? "");
  } catch (error) {
    complain(error);
  }
}

// ---- wiring -------------------------------------------------------------------------------------

const pixels = (id) => { $(`${id}-text`).textContent = `${$(id).value} px`; };
const clicks = {
  brush: () => pickTool("brush"), eraser: () => pickTool("eraser"),
  box: () => pickTool("box"), select: () => pickTool("select"),
  add: () => pickMode(false), "take-out": () => pickMode(true), undo: () => mask.undo(), redo: () => mask.redo(), clear: () => mask.clear(),
  invert: () => mask.invert(), "mask-save": () => mask.save(fileName(photo, "mask")), run: () => run(),
  another: () => run((variant + 1) % chosenModel().variants), cancel: () => running?.abort(),
  back: () => { go("paint"); say(""); }, "go-on": goOn,
  "zoom-in": () => view.zoom(1.4), "zoom-out": () => view.zoom(1 / 1.4), "zoom-fit": () => view.fit(),
};
for (const [id, act] of Object.entries(clicks)) $(id).addEventListener("click", act);
for (const button of document.querySelectorAll(".again")) button.addEventListener("click", startOver);
for (const id of ["expand", "feather"]) {
  $(id).addEventListener("input", () => pixels(id));
  pixels(id);
}
$("size").addEventListener("input", showSize);
$("model").addEventListener("change", () => { showScores(); showTool(); });
$("file").addEventListener("change", (event) => take(event.target.files[0]));
$("mask-file").addEventListener("change", async (event) => {
  await loadMask(event.target.files[0]);
  event.target.value = "";
});
$("hold").addEventListener("pointerdown", () => hold(true));
for (const type of ["pointerup", "pointerleave", "pointercancel", "blur"]) $("hold").addEventListener(type, () => hold(false));
$("hold").addEventListener("keydown", (event) => { if (event.key === " " || event.key === "Enter") hold(true); });
$("hold").addEventListener("keyup", () => hold(false));

addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
  if (file) take(file);
});
let inside = 0;
addEventListener("dragenter", () => { inside += 1; body.classList.add("dropping"); });
addEventListener("dragleave", () => { inside -= 1; if (inside <= 0) body.classList.remove("dropping"); });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  body.classList.remove("dropping");
  take(event.dataTransfer.files[0]);
});

const KEYS = { b: "brush", e: "eraser", r: "box", s: "select" };
addEventListener("keydown", (event) => {
  if (body.dataset.step !== "paint" || event.target.matches?.("select")) return;
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && key === "z") (event.shiftKey ? mask.redo() : mask.undo());
  else if ((event.ctrlKey || event.metaKey) && key === "y") mask.redo();
  else if (event.ctrlKey || event.metaKey || event.altKey) return;
  else if (key === "[") resize(-4);
  else if (key === "]") resize(4);
  else if (key in KEYS) pickTool(KEYS[key]);
  else if (key === "enter" && !isControl(event.target)) run();
  else return;
  event.preventDefault();
});

addEventListener("beforeunload", (event) => { if (mask.canUndo && body.dataset.step === "paint") event.preventDefault(); });

go("pick");
loadModels();
