// A chosen file made ready: decoded for the screen, and as bytes the server accepts.

import { Trouble } from "./api.js";

const SENT_AS_IS = ["image/jpeg", "image/png", "image/webp"];
const ROOM_FOR_MASK = 0.8;

export async function openPhoto(file, limits) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Trouble("This browser cannot open that file as a picture. Use a JPEG, PNG or WebP.", "not_an_image");
  }
  const scale = Math.min(1, Math.sqrt(limits.max_pixels / (bitmap.width * bitmap.height)));
  const width = Math.max(1, Math.floor(bitmap.width * scale));
  const height = Math.max(1, Math.floor(bitmap.height * scale));
  const fits = file.size <= ROOM_FOR_MASK * limits.max_body_bytes;
  if (scale === 1 && fits && SENT_AS_IS.includes(file.type)) {
    return { bitmap, blob: file, name: file.name, note: "" };
  }
  const blob = await encode(bitmap, width, height, fits ? "image/png" : "image/jpeg");
  bitmap.close();
  const note = scale < 1 ? `The photo was scaled down to ${width}×${height}: this server takes up to ${Math.round(limits.max_pixels / 1e6)} megapixels.` : "";
  return { bitmap: await createImageBitmap(blob), blob: await within(blob, limits), name: file.name, note };
}

async function encode(bitmap, width, height, type) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  return canvas.convertToBlob({ type, quality: 0.95 });
}

async function within(blob, limits) {
  if (blob.size <= ROOM_FOR_MASK * limits.max_body_bytes) return blob;
  const bitmap = await createImageBitmap(blob);
  const smaller = await encode(bitmap, bitmap.width, bitmap.height, "image/jpeg");
  bitmap.close();
  return smaller;
}

// What a picture made from a photo is saved as.
export function fileName({ name }, what) { return `${name.replace(/\.[^.]*$/, "") || "photo"}-${what}.png`; }

export function paintOn(canvas, bitmap) {
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}
