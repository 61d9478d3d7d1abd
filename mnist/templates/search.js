// Find the digit in a drawing: the same algorithm as mnist/preparation/search.py, copies.py and shape.py.

import { detachLines, removeClutter } from "./clutter.js";
import {
  boxContains,
  boxHeight,
  boxWidth,
  emptyBox,
  findComponents,
  groupComponents,
  growBox,
  joinBoxes,
  labelRegions,
  longerSide,
  maskInBox,
} from "./components.js";
import { MODEL } from "./model.js";
import { dilated, drawInk, fit } from "./placement.js";

const BOUNDS = MODEL.preparation;

// Find the only digit in a drawing, given the opacity of its ink, a Uint8Array [height * width].
// Return { pixels, doubtful, halves }: grey levels [28 * 28], true if the shape may be two digits, and the grey levels of
// both halves of a wide shape. Return { reason } if no digit was found.
export function findDigit(opacity, height, width) {
  let picture = { data: opacity, height, width };
  picture = reduceImage(picture, Math.ceil(Math.max(height, width) / BOUNDS.maxReadSide));
  const factor = Math.ceil(Math.max(picture.height, picture.width) / BOUNDS.searchSide);
  const copy = reduceImage(picture, factor);
  const max = copy.data.reduce((largest, value) => Math.max(largest, value), 0);
  if (!max) return { reason: "nothing-found" };
  const strength = strengthOf(copy.data, max);
  const labels = labelWithoutLines(strength, copy);
  const border = 2 * (copy.height + copy.width - 2);
  const parts = findComponents(strength, labels, copy.height, copy.width)
    .filter((part) => part.border <= BOUNDS.maxBorderFraction * border);
  const groups = groupComponents(removeClutter(labels, copy.width, parts));
  if (groups.length !== 1) {
    return { reason: groups.length ? "several-shapes" : "nothing-found" };
  }
  const detail = detailOf(picture, { ...copy, strength, labels, factor, max }, groups[0]);
  const reason = shapeProblem(detail, groups[0].length);
  return reason ? { reason } : prepareDetail(detail);
}

// Reduce an image by an integer factor, as Pillow's Image.reduce does.
function reduceImage({ data, height, width }, factor) {
  if (factor <= 1) return { data, height, width };
  const reduced = { height: Math.ceil(height / factor), width: Math.ceil(width / factor) };
  reduced.data = new Uint8Array(reduced.height * reduced.width);
  for (let i = 0; i < reduced.data.length; i++) {
    const top = Math.floor(i / reduced.width) * factor, left = i % reduced.width * factor;
    const bottom = Math.min(height, top + factor), right = Math.min(width, left + factor);
    const count = (bottom - top) * (right - left);
    let sum = Math.floor(count / 2);
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) sum += data[row * width + column];
    }
    // Pillow multiplies by a 24-bit reciprocal, which makes some exact means one level lower.
    reduced.data[i] = Math.floor(sum * Math.floor(Math.fround(2 ** 24 / count)) / 2 ** 24);
  }
  return reduced;
}

function strengthOf(data, max) {
  const unit = Math.fround(Math.fround(255 / max) / 255); // rounded as in Python
  return Float32Array.from(data, (value) => value * unit);
}

function weakInk(strength) {
  const limit = Math.fround(BOUNDS.weakInk); // rounded as in Python
  return Uint8Array.from(strength, (value) => value > limit ? 1 : 0);
}

function labelWithoutLines(strength, { height, width }) {
  const { labels } = labelRegions(weakInk(strength), height, width, true);
  if (!detachLines(labels, width, findComponents(strength, labels, height, width))) return labels;
  const rest = weakInk(strength).map((inked, i) => labels[i] < 0 ? 0 : inked);
  const relabelled = labelRegions(rest, height, width, true).labels;
  return relabelled.map((label, i) => labels[i] < 0 ? -1 : label);
}

function expandBox(box, margin, height, width) {
  return {
    top: Math.max(0, box.top - margin),
    left: Math.max(0, box.left - margin),
    bottom: Math.min(height, box.bottom + margin),
    right: Math.min(width, box.right + margin),
  };
}

function cropImage({ data, width }, box) {
  const cropped = { height: boxHeight(box), width: boxWidth(box) };
  cropped.data = new data.constructor(cropped.height * cropped.width);
  for (let row = 0; row < cropped.height; row++) {
    const start = (box.top + row) * width + box.left;
    cropped.data.set(data.subarray(start, start + cropped.width), row * cropped.width);
  }
  return cropped;
}

// Return the ink strength and the mask of a digit at a sufficient resolution: { strength, mask, height, width }.
function detailOf(picture, copy, parts) {
  const box = joinBoxes(parts.map((part) => part.box));
  const area = expandBox(box, Math.floor(BOUNDS.margin * longerSide(box)) + 3, copy.height, copy.width);
  const own = new Set(parts.map((part) => part.label));
  const labels = cropImage({ data: copy.labels, width: copy.width }, area);
  const mask = Uint8Array.from(labels.data, (label) => own.has(label) ? 1 : 0);
  const factor = Math.max(1, Math.floor(longerSide(box) * copy.factor / BOUNDS.minDetailSide));
  if (factor >= copy.factor) {
    const { data } = cropImage({ data: copy.strength, width: copy.width }, area);
    return { strength: data, mask, height: labels.height, width: labels.width };
  }
  const part = cropImage(picture, {
    top: area.top * copy.factor,
    left: area.left * copy.factor,
    bottom: Math.min(area.bottom * copy.factor, picture.height),
    right: Math.min(area.right * copy.factor, picture.width),
  });
  const { data, height, width } = reduceImage(part, factor);
  const strength = strengthOf(data, copy.max);
  const near = dilated(mask, labels.height, labels.width, true)
    .map((inked, i) => inked && (labels.data[i] === 0 || mask[i]) ? 1 : 0);
  const fine = weakInk(strength).map((inked, i) => {
    const row = Math.floor(Math.floor(i / width) * factor / copy.factor);
    return inked && near[row * labels.width + Math.floor(i % width * factor / copy.factor)];
  });
  return { strength, mask: fine, height, width };
}

function boxOfMask(mask, width) {
  const box = emptyBox();
  for (let i = 0; i < mask.length; i++) if (mask[i]) growBox(box, Math.floor(i / width), i % width);
  return box;
}

// Return the reason why the shape cannot be a digit, or null.
function shapeProblem({ mask, height, width }, count) {
  const area = mask.reduce((sum, inked) => sum + inked, 0);
  const { labels, count: regions } = labelRegions(mask.map((inked) => 1 - inked), height, width, false);
  const areas = new Int32Array(regions + 1);
  for (const label of labels) areas[label]++;
  const holes = areas.subarray(1).filter((hole) => hole >= BOUNDS.minHoleArea * area).length - 1;
  if (count > BOUNDS.maxComponents || holes > BOUNDS.maxComponents) return "too-many-components";
  const box = boxOfMask(mask, width);
  if (longerSide(box) < BOUNDS.minSide) return "nothing-found";
  return boxWidth(box) > BOUNDS.maxAspectRatio * boxHeight(box) ? "not-digit-shaped" : null;
}

function prepareDetail({ strength, mask, height, width }) {
  const box = boxOfMask(mask, width), side = longerSide(box);
  const area = expandBox(box, Math.floor(side / MODEL.box) + 2, height, width);
  const inside = cropImage({ data: mask, width }, area);
  const ink = drawInk(cropImage({ data: strength, width }, area).data, inside.data, inside.height, inside.width, side);
  return {
    pixels: fit(ink.data, ink.height, ink.width),
    doubtful: mayBeTwoDigits(maskInBox(mask, width, box, Boolean), boxHeight(box), boxWidth(box)),
    halves: halvesOf(ink).map((half) => fit(half.data, half.height, half.width)),
  };
}

function mayBeTwoDigits(mask, height, width) {
  return hasJoint(mask, height, width) || hasHolesSideBySide(mask, height, width);
}

// Return true if one stroke joins two parts that are about as tall as the whole shape.
function hasJoint(mask, height, width) {
  if (width < BOUNDS.minPairAspectRatio * height) return false;
  const columns = Array.from({ length: width }, (_, column) => {
    const rows = Array.from({ length: height }, (_, row) => row).filter((row) => mask[row * width + column]);
    return { count: rows.length, top: rows[0], bottom: rows[rows.length - 1] + 1 };
  });
  const reach = (part) => {
    const inked = part.filter(({ count }) => count);
    return Math.max(...inked.map(({ bottom }) => bottom)) - Math.min(...inked.map(({ top }) => top));
  };
  const quarter = Math.floor(width / 4);
  return columns.some(({ count, top, bottom }, column) => {
    if (column < quarter || column >= width - quarter) return false;
    const middle = (top + bottom) / (2 * height);
    if (!count || bottom - top !== count || count > BOUNDS.maxJointHeight * height) return false;
    if (middle <= BOUNDS.minJointDistance || middle >= 1 - BOUNDS.minJointDistance) return false;
    const reaches = [columns.slice(0, column), columns.slice(column + 1)].map(reach);
    return Math.min(...reaches) >= BOUNDS.minPairHeight * height;
  });
}

// Return true if two holes share most of their rows; the holes of an 8 are one above the other.
function hasHolesSideBySide(mask, height, width) {
  const area = mask.reduce((sum, inked) => sum + inked, 0);
  const { labels, count } = labelRegions(mask.map((inked) => 1 - inked), height, width, false);
  const regions = Array.from({ length: count }, () => ({ area: 0, box: emptyBox() }));
  labels.forEach((label, i) => {
    if (!label) return;
    regions[label - 1].area++;
    growBox(regions[label - 1].box, Math.floor(i / width), i % width);
  });
  const inside = { top: 1, left: 1, bottom: height - 1, right: width - 1 };
  const holes = regions
    .filter((region) => region.area >= BOUNDS.minPairHoleArea * area && boxContains(inside, region.box))
    .map((region) => region.box);
  return holes.some((one, i) =>
    holes.slice(i + 1).some((other) => {
      const shared = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
      return shared >= BOUNDS.minPairHoleOverlap * Math.min(boxHeight(one), boxHeight(other));
    })
  );
}

// Cut a wide shape in two where its strokes cover the fewest pixels. Return the left and the right half, or nothing if
// the shape is too narrow for two digits or if one half is much lower than the shape.
function halvesOf({ data, height, width }) {
  const mask = Uint8Array.from(data, (value) => value > BOUNDS.strongInk ? 1 : 0);
  const box = boxOfMask(mask, width);
  if (boxWidth(box) < BOUNDS.minCutAspectRatio * boxHeight(box)) return [];
  const counts = new Int32Array(width);
  mask.forEach((inked, i) => counts[i % width] += inked);
  const margin = Math.floor(BOUNDS.minHalfWidth * boxWidth(box));
  const distance = (column) => Math.abs(2 * column + 1 - box.left - box.right);
  let cut = box.left + margin;
  for (let column = cut; column < box.right - margin; column++) {
    const fewer = counts[column] - counts[cut] || distance(column) - distance(cut);
    if (fewer < 0) cut = column;
  }
  const halves = [{ left: 0, right: cut }, { left: cut + 1, right: width }]
    .map((columns) => cropImage({ data, width }, { top: 0, bottom: height, ...columns }));
  const heights = halves.map((half) => {
    const inked = Uint8Array.from(half.data, (value) => value > BOUNDS.strongInk ? 1 : 0);
    return boxHeight(boxOfMask(inked, half.width));
  });
  return Math.min(...heights) < BOUNDS.minHalfHeight * boxHeight(box) ? [] : halves;
}
