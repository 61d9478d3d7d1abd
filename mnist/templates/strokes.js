import { MODEL } from "./model.js";

const MNIST_PEN = 2.6; // pixels of a digit's 20 that MNIST's strokes are wide
export const INK_SIDE = 280; // pixels of the drawing that the network's image is made from, whatever the screen has
const ink = Object.assign(globalThis.document.createElement("canvas"), { width: INK_SIDE, height: INK_SIDE })
  .getContext("2d", { willReadFrequently: true });

export const strokes = []; // each a list of points [right, down], in sides of the sheet: it can be drawn anew at any size

export function paint(context, side, width, colour) {
  context.clearRect(0, 0, side, side);
  Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: width * side, strokeStyle: colour });
  for (const points of strokes) {
    trace(context, points.map(([right, down]) => [right * side, down * side]));
    context.stroke();
  }
}

// In sides of the sheet: small digits get a fine pen and large ones a broad one, so that all look like MNIST's.
function penForNetwork() {
  const spans = [0, 1].map((axis) => {
    const places = strokes.flatMap((points) => points.map((point) => inside(point[axis])));
    return places.reduce((most, at) => Math.max(most, at), 0) - places.reduce((least, at) => Math.min(least, at), 1);
  });
  return Math.max(0.02, Math.max(...spans) * MNIST_PEN / (MODEL.box - MNIST_PEN)); // as the pen adds to the span
}

export function inside(at) {
  return Math.min(Math.max(0, at), 1);
}

// Through the middles between points, with the points as what bends it: a smooth line.
function trace(context, points) {
  const [lastX, lastY] = points[points.length - 1];
  context.beginPath();
  context.moveTo(...points[0]);
  points.slice(1).forEach(([x, y], i) => {
    const [beforeX, beforeY] = points[i];
    context.quadraticCurveTo(beforeX, beforeY, (beforeX + x) / 2, (beforeY + y) / 2);
  });
  context.lineTo(lastX + 0.01, lastY); // a line without any length would not be drawn: a click is to make a dot
}

export function inkMap() {
  paint(ink, INK_SIDE, penForNetwork(), "#000");
  const { data } = ink.getImageData(0, 0, INK_SIDE, INK_SIDE); // red, green, blue, opacity
  const map = new Float32Array(INK_SIDE * INK_SIDE);
  for (let i = 0; i < map.length; i++) map[i] = data[4 * i + 3] / 255;
  return map;
}
