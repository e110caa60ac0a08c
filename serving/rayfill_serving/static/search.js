// Searches for what was clicked on or framed, one after the other, so that later clicks have the last word.

import { segment } from "./api.js";
import { shapeFrom } from "./mask.js";

export class Search {
  // found({ shape, names, out }) gets null as shape where nothing was found.
  constructor(stage, { found, failed }) {
    this.stage = stage;
    this.found = found;
    this.failed = failed;
    this.settled = Promise.resolve();
    this.leaving = new AbortController();
  }

  start({ photo, model, box, place, at, out }) {
    const spot = document.createElement("span");
    spot.className = out ? "spot out" : "spot";
    spot.style.left = `${at.x}px`;
    spot.style.top = `${at.y}px`;
    this.stage.append(spot);
    const { signal } = this.leaving;
    this.settled = this.settled
      .then(() => this.#look({ photo, model, box, place, out, signal }))
      .finally(() => spot.remove());
  }

  // Another photo is coming: what is found in this one is of no use.
  stop() {
    this.leaving.abort();
    this.leaving = new AbortController();
  }

  async #look({ photo, model, box, place, out, signal }) {
    if (signal.aborted) return;
    try {
      const { mask, names } = await segment({ photo, box, place, model, signal });
      const shape = mask && await shapeFrom(mask);
      if (!signal.aborted) this.found({ shape, names, out });
    } catch (error) {
      if (error.name !== "AbortError") this.failed(error);
    }
  }
}
