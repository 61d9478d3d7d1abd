// Place the ink of a digit in a 28 x 28 pixel image, as in MNIST: the same algorithm as mnist/preparation/placement.py.

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
    prepared[row * SIDE + column] = Math.min(Math.max(value, 0), 1) * 255 + 0.5 + 1e-3;
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

// For each of `size` output values, return the index of the first input value and the weights of the inputs from there
// on. The filter is Pillow's BILINEAR: a triangle, cut off at the border and normalized. Its half-width is one output
// pixel if the image shrinks, and one input pixel if it grows.
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

// Return the [row, column] for the image's top left corner that centres its centre of mass.
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

// ---- Stroke width ----

// Return the ink of a digit with strokes at least as wide as MNIST's: { data, height, width }, values in [0, 1].
// `strength` is the ink strength of each pixel, `mask` the pixels of the digit, and `side` its longer side.
export function drawInk(strength, mask, height, width, side) {
  const { smallSide, minStrokeHalfWidth, minSmallStrokeHalfWidth } = MODEL.preparation;
  const clamp = (value) => Math.min(Math.max(0, value), 1);
  if (side > smallSide) {
    const nearby = dilated(dilated(mask, height, width), height, width);
    const ink = strength.map((value, i) => nearby[i] ? clamp(2 * value - 0.5) : 0);
    const missing = minStrokeHalfWidth * side / MODEL.box - halfWidth(mask, height, width);
    return { data: missing > 0 ? widened(ink, mask, height, width, missing) : ink, height, width };
  }
  const nearby = dilated(mask, height, width);
  const inside = strength.filter((_, i) => mask[i]).sort();
  const full = Math.max(1, inside[Math.floor(MODEL.preparation.fullInkRank * (inside.length - 1))]);
  const ink = strength.map((value, i) => nearby[i] ? clamp(value / full) : 0);
  const factor = Math.ceil(2 * smallSide / side);
  const [newHeight, newWidth] = [factor * height, factor * width];
  const across = resizeRowsAndTranspose(ink, height, width, newWidth);
  const enlarged = resizeRowsAndTranspose(across, newWidth, height, newHeight);
  const thick = Uint8Array.from(enlarged, (value) => value > 0.5 ? 1 : 0);
  const scale = factor * side / MODEL.box, half = halfWidth(thick, newHeight, newWidth);
  if (half >= minSmallStrokeHalfWidth * scale) return { data: ink, height, width };
  const data = widened(enlarged, thick, newHeight, newWidth, minStrokeHalfWidth * scale - half);
  return { data, height: newHeight, width: newWidth };
}

// Estimate half the stroke width from the pixels' distances to the edge, whose mean is half their maximum.
export function halfWidth(mask, height, width) {
  const outside = Uint8Array.from(mask, (inked) => inked ? 0 : 1);
  const depths = distances(outside, height, width).filter((_, i) => mask[i]);
  return depths.length ? 2 * depths.reduce((sum, depth) => sum + depth, 0) / depths.length - 1.5 : 0;
}

// Add ink at all pixels whose distance from the mask is at most `margin`, with a soft edge.
function widened(ink, mask, height, width, margin) {
  if (!mask.includes(1)) return ink;
  const distance = distances(mask, height, width);
  return ink.map((value, i) => Math.max(value, Math.min(Math.max(0, margin + 0.5 - distance[i]), 1)));
}

// Return the distance of each pixel to the nearest pixel of the mask; pixels of the mask have the distance 0.
function distances(mask, height, width) {
  const FAR = 1e9;
  const squares = Float64Array.from(mask, (inked) => inked ? 0 : FAR);
  for (let column = 0; column < width; column++) lowerEnvelope(squares, column, width, height);
  for (let row = 0; row < height; row++) lowerEnvelope(squares, row * width, 1, width);
  return squares.map(Math.sqrt);
}

// Replace each of `length` values, `step` apart, with the minimum over all positions of value + squared distance
// (P. Felzenszwalb, D. Huttenlocher, "Distance transforms of sampled functions").
function lowerEnvelope(values, start, step, length) {
  const heights = Float64Array.from({ length }, (_, i) => values[start + i * step]);
  const vertices = [0], bounds = [-Infinity];
  const intersection = (a, b) => (heights[b] + b * b - heights[a] - a * a) / (2 * (b - a));
  for (let i = 1; i < length; i++) {
    while (vertices.length && intersection(vertices[vertices.length - 1], i) <= bounds[vertices.length - 1]) {
      vertices.pop();
      bounds.pop();
    }
    bounds.push(vertices.length ? intersection(vertices[vertices.length - 1], i) : -Infinity);
    vertices.push(i);
  }
  for (let i = 0, k = 0; i < length; i++) {
    while (k + 1 < vertices.length && bounds[k + 1] < i) k++;
    values[start + i * step] = heights[vertices[k]] + (i - vertices[k]) ** 2;
  }
}

// Add the neighbours of a mask's pixels: the four nearest neighbours, or all eight.
export function dilated(mask, height, width, withDiagonals = false) {
  const result = mask.slice();
  mask.forEach((inked, i) => {
    if (!inked) return;
    const row = Math.floor(i / width), column = i % width;
    for (let y = Math.max(0, row - 1); y <= Math.min(height - 1, row + 1); y++) {
      for (let x = Math.max(0, column - 1); x <= Math.min(width - 1, column + 1); x++) {
        if (withDiagonals || y === row || x === column) result[y * width + x] = 1;
      }
    }
  });
  return result;
}
