// Find connected components of ink: the same algorithm as mnist/preparation/components.py.
//
// A mask is a Uint8Array of zeros and ones, and `labels` is an Int32Array; both are in row-major order.
// A box is { top, left, bottom, right } in pixels; bottom and right are exclusive.

import { MODEL } from "./model.js";

const LIMITS = MODEL.preparation;

// Number the connected regions of `mask` from 1, in the order of their first pixels.
export function labelRegions(mask, height, width, withDiagonals) {
  const labels = new Int32Array(mask.length);
  let count = 0;
  for (let start = 0; start < mask.length; start++) {
    if (!mask[start] || labels[start]) continue;
    labels[start] = ++count;
    const pending = [start];
    while (pending.length) {
      const at = pending.pop(), row = Math.floor(at / width), column = at % width;
      for (let y = Math.max(0, row - 1); y <= Math.min(height - 1, row + 1); y++) {
        for (let x = Math.max(0, column - 1); x <= Math.min(width - 1, column + 1); x++) {
          const next = y * width + x;
          if (!mask[next] || labels[next] || (!withDiagonals && y !== row && x !== column)) continue;
          labels[next] = count;
          pending.push(next);
        }
      }
    }
  }
  return { labels, count };
}

// Return the largest regions that contain strong ink, largest first: { label, box, area, border }.
export function findComponents(strength, labels, height, width) {
  const found = [];
  for (let i = 0; i < labels.length; i++) {
    const label = labels[i];
    if (label < 1) continue;
    const row = Math.floor(i / width), column = i % width;
    found[label] ??= { label, box: emptyBox(), area: 0, border: 0, strong: false };
    const part = found[label];
    part.area++;
    growBox(part.box, row, column);
    if (row === 0 || column === 0 || row === height - 1 || column === width - 1) part.border++;
    if (strength[i] > LIMITS.strongInk) part.strong = true;
  }
  const strong = found.filter((part) => part?.strong);
  strong.sort((a, b) => b.area - a.area || a.label - b.label);
  return strong.slice(0, LIMITS.maxExaminedComponents);
}

export function emptyBox() {
  return { top: Infinity, left: Infinity, bottom: -1, right: -1 };
}

// Extend a box so that it contains a pixel.
export function growBox(box, row, column) {
  if (row < box.top) box.top = row;
  if (row >= box.bottom) box.bottom = row + 1;
  if (column < box.left) box.left = column;
  if (column >= box.right) box.right = column + 1;
}

export function joinBoxes(boxes) {
  return {
    top: Math.min(...boxes.map((box) => box.top)),
    left: Math.min(...boxes.map((box) => box.left)),
    bottom: Math.max(...boxes.map((box) => box.bottom)),
    right: Math.max(...boxes.map((box) => box.right)),
  };
}

export function boxHeight(box) {
  return box.bottom - box.top;
}

export function boxWidth(box) {
  return box.right - box.left;
}

export function longerSide(box) {
  return Math.max(boxHeight(box), boxWidth(box));
}

// Return the vertical and the horizontal distance between two boxes; negative values are overlaps.
export function boxGap(first, second) {
  return [
    Math.max(first.top, second.top) - Math.min(first.bottom, second.bottom),
    Math.max(first.left, second.left) - Math.min(first.right, second.right),
  ];
}

export function boxContains(outer, inner) {
  return outer.top <= inner.top && outer.left <= inner.left && outer.bottom >= inner.bottom &&
    outer.right >= inner.right;
}

// Return a mask of the values in a box, with 1 where `test` is true.
export function maskInBox(values, width, box, test) {
  const mask = new Uint8Array(boxHeight(box) * boxWidth(box));
  let i = 0;
  for (let row = box.top; row < box.bottom; row++) {
    for (let column = box.left; column < box.right; column++) mask[i++] = test(values[row * width + column]) ? 1 : 0;
  }
  return mask;
}

// Group the components that form one digit.
export function groupComponents(parts) {
  const tallest = Math.max(0, ...parts.map((part) => boxHeight(part.box)));
  let groups = [];
  for (const part of parts) {
    const near = groups.filter((group) => group.some((other) => formOneDigit(part.box, other.box, tallest)));
    groups = [...groups.filter((group) => !near.includes(group)), [part, ...near.flat()]];
  }
  return groups;
}

function formOneDigit(first, second, tallest) {
  const [below, beside] = boxGap(first, second);
  const lower = Math.min(boxHeight(first), boxHeight(second));
  if (lower > LIMITS.minTallHeight * tallest) {
    if (-below > lower / 2) { // side by side
      return -beside >= LIMITS.minPartOverlap * Math.min(boxWidth(first), boxWidth(second));
    }
    return beside < 0 && below <= LIMITS.maxTallPartGap * tallest;
  }
  return Math.max(below, beside) <= LIMITS.maxPartGap * Math.max(longerSide(first), longerSide(second));
}
