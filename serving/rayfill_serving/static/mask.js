// The mask: an opaque tint where the hole is. Its history is a list of what was done, replayed to
// undo, so that a large photo does not cost one more copy of itself per stroke.

const TINT = "#ff2d6f";

export class Mask {
  constructor(canvas, onChange) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.onChange = onChange;
    this.done = [];
    this.undone = [];
    this.stroke = null;
  }

  reset(width, height) {
    this.canvas.width = width;
    this.canvas.height = height;
    this.done = [];
    this.undone = [];
    this.stroke = null;
    this.onChange();
  }

  begin(point, size, erase) {
    this.stroke = { kind: "stroke", points: [point], size, erase };
    this.#drawFrom(this.stroke, 0);
  }

  extend(point) {
    if (!this.stroke) return;
    this.stroke.points.push(point);
    this.#drawFrom(this.stroke, this.stroke.points.length - 1);
  }

  end() {
    if (!this.stroke) return;
    const stroke = this.stroke;
    this.stroke = null;
    this.#remember(stroke);
  }

  // A second finger came down: this was going to be a pinch, not a stroke.
  abandon() {
    if (!this.stroke) return;
    this.stroke = null;
    this.#replay();
  }

  clear() { this.#do({ kind: "clear" }); }
  invert() { this.#do({ kind: "invert" }); }
  replace(stencil) { this.#do({ kind: "replace", stencil }); }

  // The whole pixels that a box touches, added or taken out; outside the photo there is nothing.
  box(from, to, erase) {
    const [left, right] = [from.x, to.x].sort((a, b) => a - b);
    const [top, bottom] = [from.y, to.y].sort((a, b) => a - b);
    const x = Math.max(0, Math.floor(left));
    const y = Math.max(0, Math.floor(top));
    const width = Math.min(this.canvas.width, Math.ceil(right)) - x;
    const height = Math.min(this.canvas.height, Math.ceil(bottom)) - y;
    if (width > 0 && height > 0) this.#do({ kind: "box", x, y, width, height, erase });
  }

  // A shape from shapeFrom(), added or taken out.
  stamp({ sheet, x, y }, erase) { this.#do({ kind: "stamp", sheet, x, y, erase }); }

  undo() {
    if (!this.canUndo) return;
    this.undone.push(this.done.pop());
    this.#replay();
    this.onChange();
  }

  redo() {
    if (!this.canRedo) return;
    const action = this.undone.pop();
    this.done.push(action);
    this.#apply(action);
    this.onChange();
  }

  get canUndo() { return this.done.length > 0; }
  get canRedo() { return this.undone.length > 0; }

  get isEmpty() {
    const { width, height } = this.canvas;
    const scale = Math.min(1, 512 / Math.max(width, height));
    const small = new OffscreenCanvas(Math.ceil(width * scale), Math.ceil(height * scale));
    const context = small.getContext("2d");
    context.drawImage(this.canvas, 0, 0, small.width, small.height);
    const { data } = context.getImageData(0, 0, small.width, small.height);
    for (let index = 3; index < data.length; index += 4) if (data[index]) return false;
    return true;
  }

  // White on black with hard edges, as the server wants it.
  toBlob() {
    const { width, height } = this.canvas;
    const pixels = this.context.getImageData(0, 0, width, height);
    const { data } = pixels;
    for (let index = 0; index < data.length; index += 4) {
      const level = data[index + 3] >= 128 ? 255 : 0;
      data[index] = level;
      data[index + 1] = level;
      data[index + 2] = level;
      data[index + 3] = 255;
    }
    const sheet = new OffscreenCanvas(width, height);
    sheet.getContext("2d").putImageData(pixels, 0, 0);
    return sheet.convertToBlob({ type: "image/png" });
  }

  async save(name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await this.toBlob());
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  #do(action) {
    this.#apply(action);
    this.#remember(action);
  }

  #remember(action) {
    this.done.push(action);
    this.undone = [];
    this.onChange();
  }

  #replay() {
    this.#wipe();
    for (const action of this.done) this.#apply(action);
  }

  #apply(action) {
    const { context, canvas } = this;
    if (action.kind === "stroke") {
      for (let index = 0; index < action.points.length; index += 1) this.#drawFrom(action, index);
    } else if (action.kind === "clear") {
      this.#wipe();
    } else if (action.kind === "invert") {
      this.#fill("source-out");
    } else if (action.kind === "box" || action.kind === "stamp") {
      context.save();
      context.globalCompositeOperation = action.erase ? "destination-out" : "source-over";
      context.fillStyle = TINT;
      if (action.kind === "box") context.fillRect(action.x, action.y, action.width, action.height);
      else context.drawImage(action.sheet, action.x, action.y);
      context.restore();
    } else {
      this.#wipe();
      context.drawImage(action.stencil, 0, 0, canvas.width, canvas.height);
      this.#fill("source-in");
    }
  }

  #wipe() { this.context.clearRect(0, 0, this.canvas.width, this.canvas.height); }

  #fill(operation) {
    const { context, canvas } = this;
    context.save();
    context.globalCompositeOperation = operation;
    context.fillStyle = TINT;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.restore();
  }

  // Draw the piece of a stroke that ends at points[index]: a curve between two midpoints.
  #drawFrom({ points, size, erase }, index) {
    const { context } = this;
    const at = points[index];
    const before = points[Math.max(0, index - 1)];
    const earlier = points[Math.max(0, index - 2)];
    context.save();
    context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    context.strokeStyle = TINT;
    context.lineWidth = size;
    context.lineCap = "round";
    context.lineJoin = "round";
    context.beginPath();
    context.moveTo((earlier.x + before.x) / 2, (earlier.y + before.y) / 2);
    context.quadraticCurveTo(before.x, before.y, (before.x + at.x) / 2, (before.y + at.y) / 2);
    context.lineTo(at.x, at.y + (index === 0 ? 0.01 : 0));
    context.stroke();
    context.restore();
  }
}

// A black and white picture as a stencil: opaque where it is white.
export async function stencilFrom(blob) {
  const bitmap = await createImageBitmap(blob);
  const sheet = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = sheet.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const pixels = context.getImageData(0, 0, sheet.width, sheet.height);
  for (let index = 0; index < pixels.data.length; index += 4) {
    pixels.data[index + 3] = pixels.data[index] >= 128 ? 255 : 0;
  }
  context.putImageData(pixels, 0, 0);
  return sheet;
}

// The white part of a black and white picture, tinted and cut out: a history of whole photos would
// fill the memory.
export async function shapeFrom(blob) {
  const stencil = await stencilFrom(blob);
  const { width, height } = stencil;
  const { data } = stencil.getContext("2d").getImageData(0, 0, width, height);
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0, index = 3; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, index += 4) {
      if (!data[index]) continue;
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      bottom = y;
    }
  }
  const sheet = new OffscreenCanvas(Math.max(1, right - left + 1), Math.max(1, bottom - top + 1));
  const context = sheet.getContext("2d");
  context.drawImage(stencil, -left, -top);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = TINT;
  context.fillRect(0, 0, sheet.width, sheet.height);
  return { sheet, x: left, y: top };
}
