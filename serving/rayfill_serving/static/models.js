// What the page says of a model: in plain words, and its scores.

const NAMES = { hole_psnr: "PSNR in holes", hole_ssim: "SSIM in holes", psnr: "PSNR", ssim: "SSIM", lpips: "LPIPS", coherence: "Coherence", sharpness: "Sharpness", l1: "L1" };

function scoreRows(scores) {
  return Object.entries(NAMES).filter(([key]) => key in scores).map(([key, label]) => {
    const row = document.createElement("div");
    const name = document.createElement("dt");
    const value = document.createElement("dd");
    name.textContent = label;
    value.textContent = key.endsWith("psnr") ? `${scores[key].toFixed(1)} dB` : scores[key].toFixed(3);
    row.append(name, value);
    return row;
  });
}

export function modelOption({ title, name, version }) {
  return new Option(`${title || name} (${name} ${version})`, name);
}

export function describe(model, { about, scores }) {
  about.textContent = model?.about ?? "";
  scores.replaceChildren(...scoreRows(model?.scores ?? {}));
}
