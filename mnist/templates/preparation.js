// Prepare a drawing as MNIST's digits were prepared: the same algorithm as mnist/preparation.py.

import { MODEL } from "./model.js";

const SIDE = MODEL.side;

// Convert ink, a Float32Array [height * width] of values in [0, 1], to grey levels, a Uint8Array [28 * 28].
// The result is all zeros if there is no ink.
export function fit(ink, height, width) {
  const prepared = new Uint8Array(SIDE * SIDE);
  const crop = cropToInk(ink, height, width);
  if (!crop) return prepared;
  const scale = MODEL.box / Math.max(crop.height, crop.width);
  const [newHeight, newWidth] = [crop.height, crop.width].map((side) => Math.max(1, Math.floor(side * scale + 0.5)));
  const narrowed = resizeRowsAndTranspose(crop.ink, crop.height, crop.width, newWidth);
  const resized = resizeRowsAndTranspose(narrowed, newWidth, crop.height, newHeight);
  const [top, left] = centredCorner(resized, newHeight, newWidth);
  resized.forEach((value, i) => {
    const row = top + Math.floor(i / newWidth), column = left + i % newWidth;
    prepared[row * SIDE + column] = Math.min(Math.max(value, 0), 1) * 255 + 0.5;
  });
  return prepared;
}

// Crop to the bounding box of the ink; return null if there is no ink.
function cropToInk(ink, height, width) {
  let top = height, bottom = -1, left = width, right = -1;
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      if (ink[row * width + column] === 0) continue;
      if (row < top) top = row;
      bottom = row;
      if (column < left) left = column;
      if (column > right) right = column;
    }
  }
  if (bottom < 0) return null;
  const crop = { height: bottom - top + 1, width: right - left + 1 };
  crop.ink = new Float32Array(crop.height * crop.width);
  for (let row = 0; row < crop.height; row++) {
    const start = (top + row) * width + left;
    crop.ink.set(ink.subarray(start, start + crop.width), row * crop.width);
  }
  return crop;
}

// Resize each row from `width` to `size` values and transpose the result to [size, height].
// Two calls resize both sides and restore the orientation.
function resizeRowsAndTranspose(image, height, width, size) {
  const transposed = new Float32Array(size * height);
  resamplingWeights(width, size).forEach(({ first, weights }, i) => {
    for (let row = 0; row < height; row++) {
      let sum = 0;
      for (let k = 0; k < weights.length; k++) sum += image[row * width + first + k] * weights[k];
      transposed[i * height + row] = sum;
    }
  });
  return transposed;
}

// Return for each of `size` output values the index of its first input value and the weights of that and the next
// inputs. The filter is Pillow's BILINEAR: a triangle whose half-width is one output pixel when the image shrinks and
// one input pixel when it grows, cut off at the border and normalized.
function resamplingWeights(length, size) {
  const scale = length / size, support = Math.max(1, scale);
  return Array.from({ length: size }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(length, Math.trunc(centre + support + 0.5));
    const weights = [];
    for (let k = first; k < end; k++) weights.push(Math.max(0, 1 - Math.abs((k - centre + 0.5) / support)));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return { first, weights: weights.map((weight) => weight / total) };
  });
}

// Return the [row, column] at which the image's top left corner is placed so that its centre of mass is centred.
function centredCorner(image, height, width) {
  const rowMasses = new Float64Array(height), columnMasses = new Float64Array(width);
  image.forEach((value, i) => {
    rowMasses[Math.floor(i / width)] += value;
    columnMasses[i % width] += value;
  });
  return [rowMasses, columnMasses].map((masses) => {
    const moment = masses.reduce((sum, mass, i) => sum + mass * i, 0);
    const centre = moment / masses.reduce((sum, mass) => sum + mass, 0);
    return Math.min(Math.max(0, Math.floor(MODEL.centre - centre + 0.5 + 1e-4)), SIDE - masses.length);
  });
}
