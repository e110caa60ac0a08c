// Where the photo lies on the stage: fitted, zoomed, dragged.

const MARGIN = 24;
const MAX_SCALE = 16;

export class View {
  constructor(stage, sheet, onMove) {
    this.stage = stage;
    this.sheet = sheet;
    this.onMove = onMove;
    this.width = 1;
    this.height = 1;
    this.fitted = true;
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    new ResizeObserver(() => (this.fitted ? this.fit() : this.#place())).observe(stage);
  }

  show(width, height) {
    this.width = width;
    this.height = height;
    this.sheet.style.width = `${width}px`;
    this.sheet.style.height = `${height}px`;
    this.fit();
  }

  fit() {
    this.scale = this.#fitScale();
    this.x = (this.stage.clientWidth - this.width * this.scale) / 2;
    this.y = (this.stage.clientHeight - this.height * this.scale) / 2;
    this.fitted = true;
    this.#place();
  }

  zoom(factor, centre = this.#middle()) {
    const scale = Math.min(MAX_SCALE, Math.max(this.#fitScale() / 2, this.scale * factor));
    this.x = centre.x - ((centre.x - this.x) * scale) / this.scale;
    this.y = centre.y - ((centre.y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.#place();
  }

  move(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.#place();
  }

  // A pointer event's place on the stage, in screen pixels.
  onStage(event) {
    const box = this.stage.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  // The same place in the photo's own pixels.
  onPhoto(event) {
    const { x, y } = this.onStage(event);
    return { x: (x - this.x) / this.scale, y: (y - this.y) / this.scale };
  }

  #fitScale() {
    const { clientWidth, clientHeight } = this.stage;
    const wide = Math.max(1, clientWidth - 2 * MARGIN) / this.width;
    const high = Math.max(1, clientHeight - 2 * MARGIN) / this.height;
    return Math.min(wide, high, 8);
  }

  #middle() { return { x: this.stage.clientWidth / 2, y: this.stage.clientHeight / 2 }; }

  #place() {
    // Some of the photo always stays in sight.
    const edge = 60;
    const { clientWidth, clientHeight } = this.stage;
    this.x = Math.min(clientWidth - edge, Math.max(edge - this.width * this.scale, this.x));
    this.y = Math.min(clientHeight - edge, Math.max(edge - this.height * this.scale, this.y));
    this.sheet.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.sheet.style.imageRendering = this.scale > 3 ? "pixelated" : "auto";
    this.onMove();
  }
}
