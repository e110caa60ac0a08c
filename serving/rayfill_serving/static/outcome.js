// What the page says of a result: how well it blends in, who filled it, and in what time.

// Coherence, as the server measures it, below which a fill blends in well, or fairly: nine of ten true
// photos lie below the first, 97.5 % below the second (docs/fills.md).
const WELL = 0.55;
const FAIRLY = 0.6;

const WORDS = { well: "Blends in well", fairly: "Blends in fairly well", hardly: "Look closely: it may show" };

function degree(coherence) {
  if (coherence < WELL) return "well";
  return coherence < FAIRLY ? "fairly" : "hardly";
}

export function tell({ model, milliseconds, coherence }, { width, height }, { blend, facts }) {
  blend.hidden = coherence === null;
  if (coherence !== null) {
    blend.dataset.degree = degree(coherence);
    blend.textContent = WORDS[blend.dataset.degree];
    blend.title = `Coherence ${coherence.toFixed(2)}: lower is better, untouched photos have about 0.4`;
  }
  facts.textContent = `${model} · ${(milliseconds / 1000).toFixed(1)} s · ${width}×${height}`;
}
