// The drawing: its strokes, and how they are painted for the screen and for the network.

import { MODEL } from "./model.js";

const MNIST_STROKE_WIDTH = 2.6; // pixels, of a digit whose longer side has 20
const MIN_PEN_WIDTH = 0.02; // fraction of the sheet's side
export const INK_SIDE = 280; // pixels; the network's image is made from a drawing of this size on every screen

// Each stroke is a list of points [x, y] in fractions of the sheet's side, so that it can be painted at any size.
export const strokes = [];

const ink = Object.assign(globalThis.document.createElement("canvas"), { width: INK_SIDE, height: INK_SIDE })
  .getContext("2d", { willReadFrequently: true });

// Paint all strokes on a canvas of `side` pixels, with a pen of `width` in fractions of the side.
export function paint(context, side, width, colour) {
  context.clearRect(0, 0, side, side);
  Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: width * side, strokeStyle: colour });
  for (const points of strokes) {
    tracePath(context, points.map(([x, y]) => [x * side, y * side]));
    context.stroke();
  }
}

// Return the opacity of the drawing, a Float32Array [INK_SIDE * INK_SIDE] of values in [0, 1].
export function inkMap() {
  paint(ink, INK_SIDE, networkPenWidth(), "#000");
  const { data } = ink.getImageData(0, 0, INK_SIDE, INK_SIDE); // red, green, blue, opacity
  const map = new Float32Array(INK_SIDE * INK_SIDE);
  for (let i = 0; i < map.length; i++) map[i] = data[4 * i + 3] / 255;
  return map;
}

export function clampToSheet(coordinate) {
  return Math.min(Math.max(0, coordinate), 1);
}

// Return the pen width at which the prepared drawing has strokes as wide as MNIST's, in fractions of the sheet's side:
// it grows with the drawing.
function networkPenWidth() {
  const extents = [0, 1].map((axis) => {
    const coordinates = strokes.flatMap((points) => points.map((point) => clampToSheet(point[axis])));
    return coordinates.reduce((max, value) => Math.max(max, value), 0) -
      coordinates.reduce((min, value) => Math.min(min, value), 1);
  });
  // The pen adds its own width to the extent of the points.
  return Math.max(MIN_PEN_WIDTH, Math.max(...extents) * MNIST_STROKE_WIDTH / (MODEL.box - MNIST_STROKE_WIDTH));
}

// Trace a smooth line: quadratic curves between the midpoints of neighbouring points, with the points as controls.
function tracePath(context, points) {
  const [lastX, lastY] = points[points.length - 1];
  context.beginPath();
  context.moveTo(...points[0]);
  points.slice(1).forEach(([x, y], i) => {
    const [previousX, previousY] = points[i];
    context.quadraticCurveTo(previousX, previousY, (previousX + x) / 2, (previousY + y) / 2);
  });
  context.lineTo(lastX + 0.01, lastY); // canvas does not draw a line of zero length, and a click must make a dot
}
