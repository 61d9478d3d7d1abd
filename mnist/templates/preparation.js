import { MODEL } from "./model.js";

const SIDE = MODEL.side; // pixels of what the network sees

// Ink, [height * width] in [0, 1] row by row, as a Uint8Array [28 * 28] of grey levels; blank where there is no ink.
export function fit(ink, height, width) {
  const prepared = new Uint8Array(SIDE * SIDE);
  const cut = cutOut(ink, height, width);
  if (!cut) return prepared;
  const scale = MODEL.box / Math.max(cut.height, cut.width);
  const [tall, broad] = [cut.height, cut.width].map((side) => Math.max(1, Math.floor(side * scale + 0.5)));
  const narrowed = resizeAndTurn(cut.ink, cut.height, cut.width, broad);
  const small = resizeAndTurn(narrowed, broad, cut.height, tall);
  const [top, left] = places(small, tall, broad);
  small.forEach((value, i) => {
    const row = top + Math.floor(i / broad), column = left + i % broad;
    prepared[row * SIDE + column] = Math.min(Math.max(value, 0), 1) * 255 + 0.5;
  });
  return prepared;
}

// The smallest part that has all the ink, or null where there is none.
function cutOut(ink, height, width) {
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
  const cut = { height: bottom - top + 1, width: right - left + 1 };
  cut.ink = new Float32Array(cut.height * cut.width);
  for (let row = 0; row < cut.height; row++) {
    const start = (top + row) * width + left;
    cut.ink.set(ink.subarray(start, start + cut.width), row * cut.width);
  }
  return cut;
}

// Each row of `width` numbers becomes a column of `size` numbers: twice over, an image is resized and upright again.
function resizeAndTurn(image, height, width, size) {
  const turned = new Float32Array(size * height);
  triangles(width, size).forEach(({ first, weights }, i) => {
    for (let row = 0; row < height; row++) {
      let sum = 0;
      for (let k = 0; k < weights.length; k++) sum += image[row * width + first + k] * weights[k];
      turned[i * height + row] = sum;
    }
  });
  return turned;
}

// What each of `size` numbers takes from which of `length`, as Pillow's BILINEAR does it: a triangle about its place,
// a number of the smaller image wide either way, and no more than its share where it ends at the border.
function triangles(length, size) {
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

// Where the first row and the first column come, for the centre of mass to be at the centre.
function places(image, height, width) {
  const rows = new Float64Array(height), columns = new Float64Array(width);
  image.forEach((value, i) => {
    rows[Math.floor(i / width)] += value;
    columns[i % width] += value;
  });
  return [rows, columns].map((mass) => {
    const centre = mass.reduce((sum, m, i) => sum + m * i, 0) / mass.reduce((sum, m) => sum + m, 0);
    return Math.min(Math.max(0, Math.floor(MODEL.centre - centre + 0.5 + 1e-4)), SIDE - mass.length);
  });
}
