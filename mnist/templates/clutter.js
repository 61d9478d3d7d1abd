// Separate a digit from clutter beside or around it: the same algorithm as mnist/preparation/clutter.py and lines.py.

import { boxContains, boxGap, boxHeight, boxWidth, longerSide, maskInBox } from "./components.js";
import { MODEL } from "./model.js";
import { halfWidth } from "./placement.js";

const RULES = MODEL.preparation;

// Return the components that can belong to a digit: all but frames, ruled lines, dots and dirt.
export function removeClutter(labels, width, parts) {
  let kept = removeFrames(labels, width, parts);
  const forms = new Map(kept.map((part) => [part, formOfPart(labels, width, part)]));
  const main = mainPart(kept, forms);
  if (!main) return [];
  if (!forms.get(main).isBlob) {
    kept = kept.filter((part) => part === main || !isBeside(part.box, forms.get(part), main.box));
  }
  const largest = Math.max(...kept.map((part) => part.area));
  return kept.filter((part) => part.area >= RULES.minComponentArea * largest);
}

function removeFrames(labels, width, parts) {
  let kept = parts;
  const bySide = [...parts].sort((a, b) => longerSide(b.box) - longerSide(a.box));
  for (const frame of bySide) {
    const inside = kept.filter((part) => part !== frame && encloses(labels, width, frame, part));
    if (inside.some((part) => isFramed(labels, width, frame, part))) kept = inside;
  }
  return kept;
}

// Return true if a component in a frame can be a digit rather than dirt or the dot in a printed zero.
function isFramed(labels, width, frame, part) {
  const side = longerSide(part.box), sideOfFrame = longerSide(frame.box);
  if (side < RULES.minFramedSide * sideOfFrame || part.area < RULES.minComponentArea * frame.area) return false;
  return side > RULES.maxBlobSide * sideOfFrame || !formOfPart(labels, width, part).isBlob;
}

function encloses(labels, width, frame, part) {
  return boxContains(frame.box, part.box) &&
    !maskInBox(labels, width, part.box, (label) => label === frame.label).includes(1);
}

function formOfPart(labels, width, part) {
  return formOf(maskInBox(labels, width, part.box, (label) => label === part.label), part.box);
}

// Describe the shape of a mask by the ellipse and the rectangle that have the same variances as its pixel positions.
function formOf(mask, box) {
  const width = boxWidth(box);
  let n = 0, sumX = 0, sumY = 0, sumXX = 0, sumYY = 0, sumXY = 0;
  mask.forEach((inked, i) => {
    if (!inked) return;
    const y = Math.floor(i / width), x = i % width;
    n++;
    sumX += x;
    sumY += y;
    sumXX += x * x;
    sumYY += y * y;
    sumXY += x * y;
  });
  const across = sumXX / n - (sumX / n) ** 2, down = sumYY / n - (sumY / n) ** 2;
  const mixed = sumXY / n - sumX * sumY / n ** 2;
  const mean = (across + down) / 2 + 1 / 12, half = Math.hypot((across - down) / 2, mixed);
  const [length, thickness] = [mean + half, mean - half].map((variance) => Math.sqrt(12 * Math.max(1 / 12, variance)));
  const angle = Math.abs(Math.atan2(2 * mixed, across - down) / 2) * 180 / Math.PI;
  const fill = n * 3 / (Math.PI * length * thickness);
  const isLine = thickness <= RULES.maxLineThickness * length && fill >= RULES.minLineFill;
  return {
    length,
    isLine,
    isSteep: isLine && angle > RULES.maxLevelAngle,
    isBlob: length <= RULES.maxBlobAspectRatio * thickness && fill >= RULES.minBlobFill,
  };
}

// Return the component that is most likely to be a digit, or the largest part of a digit.
function mainPart(parts, forms) {
  const byArea = [...parts].sort((a, b) => b.area - a.area);
  const [one] = byArea.filter((part) => forms.get(part).isSteep);
  const others = byArea.filter((part) => !forms.get(part).isLine && !forms.get(part).isBlob);
  if (one && !(others.length && others[0].area >= RULES.minMainArea * one.area)) return one;
  return others[0] ?? byArea[0];
}

// Return true if a component is not part of the digit but, for example, an underline, a ruled line or a dot.
function isBeside(box, form, main) {
  const side = longerSide(main);
  const far = Math.max(...boxGap(box, main)) > RULES.maxStrokeGap * side;
  if (form.isSteep) return form.length > RULES.minRuleLength * side;
  if (form.isLine) {
    return far || box.top > main.bottom - boxHeight(main) / 4 || form.length > RULES.maxStrokeLength * side;
  }
  return form.isBlob && (far || longerSide(box) > RULES.maxBlobSide * side);
}

// ---- Lines that touch the digit ----

// Assign the label -1 to the pixels of straight lines that are joined to a digit; return true if there are any.
export function detachLines(labels, width, parts) {
  let found = false;
  for (const part of parts) {
    if (longerSide(part.box) < RULES.minLineSide) continue;
    const mask = maskInBox(labels, width, part.box, (label) => label === part.label);
    const [h, w] = [boxHeight(part.box), boxWidth(part.box)];
    const lines = straightLines(mask, h, w) ?? longestLine(mask, h, w);
    lines?.forEach((onLine, i) => {
      if (onLine) labels[(part.box.top + Math.floor(i / w)) * width + part.box.left + i % w] = -1;
    });
    if (lines) found = true;
  }
  return found;
}

// Return the pixels of the level and upright lines that span a component and can be detached, or null.
function straightLines(mask, height, width) {
  const level = levelLines(mask, height, width);
  const upright = levelLines(transposed(mask, height, width), width, height);
  upright.lines = transposed(upright.lines, width, height);
  if (!level.rows.includes(1) && !upright.rows.includes(1)) return null;
  const crossing = (i) => level.rows[Math.floor(i / width)] && upright.rows[i % width];
  const rest = mask.map((inked, i) => inked && !level.lines[i] && !upright.lines[i] && !crossing(i) ? 1 : 0);
  if (sumOf(rest) < RULES.minLineRest * sumOf(mask)) return null;
  const inked = [...rest.keys()].filter((i) => rest[i]);
  const levelExtends = extendsBeyond(inked.map((i) => i % width), width);
  const uprightExtends = extendsBeyond(inked.map((i) => Math.floor(i / width)), height);
  if (!(levelExtends && level.lines.includes(1)) && !(uprightExtends && upright.lines.includes(1))) return null;
  return mask.map((inkedPixel, i) =>
    (level.lines[i] && levelExtends) || (upright.lines[i] && uprightExtends) ||
      (inkedPixel && crossing(i) && levelExtends && uprightExtends)
      ? 1
      : 0
  );
}

// Find thin, almost level lines that span the whole width. Return their pixels, excluding those of crossing strokes,
// and the rows that the lines occupy.
function levelLines(mask, height, width) {
  const slack = Math.max(1, Math.floor(RULES.maxLineSlope * width + 0.5));
  const rows = new Uint8Array(height), lines = new Uint8Array(mask.length);
  const covered = (row) => {
    let count = 0;
    for (let column = 0; column < width; column++) {
      for (let y = Math.max(0, row - slack); y <= Math.min(height - 1, row + slack); y++) {
        if (!mask[y * width + column]) continue;
        count++;
        break;
      }
    }
    return count / width >= RULES.minLineCover;
  };
  for (let top = 0, bottom = 0; top < height; top = bottom + 1) {
    for (bottom = top; bottom < height && covered(bottom);) bottom++;
    if (bottom === top) continue;
    const counts = new Int32Array(width);
    for (let i = top * width; i < bottom * width; i++) counts[i % width] += mask[i];
    const thickness = upperMedian(counts);
    if (thickness > RULES.maxLineThicknessToLength * width + 1) continue;
    rows.fill(1, top, bottom);
    for (let i = top * width; i < bottom * width; i++) {
      lines[i] = mask[i] && counts[i % width] <= thickness + 1 ? 1 : 0;
    }
  }
  return { lines, rows };
}

// Return the pixels of a straight line between a component's two most distant pixels, or null if there is none.
function longestLine(mask, height, width) {
  const inked = [...mask.keys()].filter((i) => mask[i]);
  const points = inked.map((i) => [i % width, Math.floor(i / width)]);
  const { first, last } = mostDistant(points);
  const across = last[0] - first[0], down = last[1] - first[1], length = Math.hypot(across, down);
  const positions = points.map(([x, y]) => ((x - first[0]) * across + (y - first[1]) * down) / length);
  const near = points.map(([x, y]) =>
    Math.abs((x - first[0]) * down - (y - first[1]) * across) / length <=
      RULES.maxLineThicknessToLength * length / 2 + 1
  );
  const counts = new Int32Array(Math.floor(length) + 1);
  const bins = positions.map((position) => Math.floor(position + 0.5));
  bins.forEach((bin, i) => {
    if (near[i] && bin >= 0 && bin <= length) counts[bin]++;
  });
  const thickness = upperMedian(counts);
  const coverage = counts.filter((count) => count > 0).length / counts.length;
  if (coverage < RULES.minLineCover || thickness > RULES.maxLineThicknessToLength * length + 1) return null;
  const onLine = bins.map((bin, i) =>
    near[i] && counts[Math.min(Math.max(0, bin), counts.length - 1)] <= thickness + 1
  );
  const rest = positions.filter((_, i) => !onLine[i]);
  if (rest.length < RULES.minLineRest * points.length || !extendsBeyond(rest, length)) return null;
  const line = new Uint8Array(mask.length), digit = mask.slice();
  inked.forEach((at, i) => {
    line[at] = onLine[i] ? 1 : 0;
    if (onLine[i]) digit[at] = 0;
  });
  const strokeThickness = 2 * halfWidth(digit, height, width) + 0.5;
  return thickness <= RULES.maxLineStrokeRatio * strokeThickness ? line : null;
}

function mostDistant(points) {
  let best = { extent: -1 };
  for (let k = 0; k < RULES.directions; k++) {
    const angle = k * Math.PI / RULES.directions, cos = Math.cos(angle), sin = Math.sin(angle);
    let min = Infinity, max = -Infinity, first, last;
    for (const point of points) {
      const along = point[0] * cos + point[1] * sin;
      if (along < min) [min, first] = [along, point];
      if (along > max) [max, last] = [along, point];
    }
    if (max - min > best.extent) best = { extent: max - min, first, last };
  }
  return best;
}

// Return true if a line of this length extends beyond the other pixels, given by their positions, on both sides.
function extendsBeyond(positions, length) {
  let min = Infinity, max = -Infinity;
  for (const position of positions) [min, max] = [Math.min(min, position), Math.max(max, position)];
  return Math.min(min, length - 1 - max) >= RULES.minLineExtent * length;
}

function upperMedian(counts) {
  return counts.slice().sort((a, b) => a - b)[Math.floor(counts.length / 2)];
}

function sumOf(mask) {
  return mask.reduce((sum, value) => sum + value, 0);
}

function transposed(mask, height, width) {
  return mask.map((_, i) => mask[(i % height) * width + Math.floor(i / height)]);
}
