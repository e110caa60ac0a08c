// Calls to the server. Every failure becomes a Trouble whose message is fit to be shown.

const MAX_TRIES = 6;

export class Trouble extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

const PLAIN = {
  busy: "The server is busy with other photos. Please try again in a moment.",
  no_model: "No model is ready yet. Train one and promote it; this page will notice.",
  model_failed: "The model failed on this photo. Try a different mask or place.",
  body_too_large: "This photo is too large for the server. Use a smaller one.",
};

async function troubleFrom(response) {
  try {
    const { error, code } = await response.json();
    return new Trouble(PLAIN[code] ?? error, code);
  } catch {
    return new Trouble(`The server answered with status ${response.status}.`, "unknown");
  }
}

async function ask(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("The server cannot be reached. Is it still running?", "offline");
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    });
  });
}

export async function fetchModels() {
  const response = await ask("/api/v1/models");
  if (!response.ok) throw await troubleFrom(response);
  return response.json();
}

export async function inpaint({ photo, mask, fields, signal, onWait }) {
  const form = formOf({ image: photo, mask }, fields);
  const response = await post("/api/v1/inpaint", { form, signal, onWait });
  const coherence = response.headers.get("X-Coherence");
  return {
    picture: await response.blob(),
    model: decodeURIComponent(response.headers.get("X-Model") ?? ""),
    milliseconds: Number(response.headers.get("X-Latency-Ms")),
    notes: response.headers.get("X-Notes"),
    coherence: coherence === null ? null : Number(coherence),
  };
}

// The mask of what lies in a box or at a place of the photo, and its names where they are known; no
// mask where nothing was found.
export async function segment({ photo, box, place, model, signal }) {
  const fields = box ? { box: JSON.stringify(box.map(short)) } : { clicks: JSON.stringify([[short(place.x), short(place.y), 1]]) };
  if (model) fields.model = model;
  const response = await post("/api/v1/segment", { form: formOf({ image: photo }, fields), signal });
  const mask = await response.blob();
  if (response.headers.get("X-Found") !== "1") return { mask: null, names: [] };
  return { mask, names: (response.headers.get("X-Label") ?? "").split(",").filter(Boolean).map(decodeURIComponent) };
}

// Rounded down: what lies on the photo stays on it.
function short(value) { return Math.floor(value * 100) / 100; }

function formOf(files, fields) {
  const form = new FormData();
  for (const [name, file] of Object.entries(files)) form.append(name, file, name);
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  return form;
}

// Post a form, again where the server says it is busy; onWait is told.
async function post(path, { form, signal, onWait = () => {} }) {
  for (let attempt = 1; ; attempt += 1) {
    const response = await ask(path, { method: "POST", body: form, signal });
    if (response.ok) return response;
    const trouble = await troubleFrom(response);
    const wait = Number(response.headers.get("Retry-After"));
    if (trouble.code !== "busy" || !wait || attempt === MAX_TRIES) throw trouble;
    onWait();
    await pause(wait, signal);
  }
}

// The server reads a mask file the same way it will read it later: soft edges, alpha, EXIF.
export async function readMask(file) {
  const form = new FormData();
  form.append("mask", file, "mask");
  const response = await ask("/api/v1/adjust_mask", { method: "POST", body: form });
  if (!response.ok) throw await troubleFrom(response);
  return { picture: await response.blob(), notes: response.headers.get("X-Notes") };
}
