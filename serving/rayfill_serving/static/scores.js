// A model's scores as rows of a description list.

const NAMES = { hole_psnr: "PSNR in holes", hole_ssim: "SSIM in holes", psnr: "PSNR", ssim: "SSIM", lpips: "LPIPS", l1: "L1" };

export function scoreRows(scores) {
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
