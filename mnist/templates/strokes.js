// The strokes of the drawing: paint them, read their pixels, and check that the browser does not change the pixels.

const PEN_WIDTH = 0.06; // fraction of the sheet's side

// Each stroke is a list of points [x, y] in fractions of the sheet's side, so that it can be painted at any size.
export const strokes = [];

// Paint all strokes on a canvas of `side` pixels.
export function paint(context, side, colour) {
  context.clearRect(0, 0, side, side);
  Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: PEN_WIDTH * side, strokeStyle: colour });
  for (const points of strokes) {
    tracePath(context, points.map(([x, y]) => [x * side, y * side]));
    context.stroke();
  }
}

// Return the opacity of a canvas of `side` pixels, a Uint8Array [side * side].
export function opacityOf(context, side) {
  const { data } = context.getImageData(0, 0, side, side); // red, green, blue, opacity
  const opacity = new Uint8Array(side * side);
  for (let i = 0; i < opacity.length; i++) opacity[i] = data[4 * i + 3];
  return opacity;
}

// Return true if the browser returns pixels that differ from the painted ones. To prevent fingerprinting, some browsers
// add noise or return a blank canvas.
export function pixelsAreChanged() {
  const side = 32;
  const canvas = Object.assign(globalThis.document.createElement("canvas"), { width: side, height: side });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#000";
  for (let i = 0; i < side; i++) context.fillRect(i, 0, 1, i);
  return opacityOf(context, side).some((opacity, i) => opacity !== (Math.floor(i / side) < i % side ? 255 : 0));
}

export function clampToSheet(coordinate) {
  return Math.min(Math.max(0, coordinate), 1);
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
  context.lineTo(lastX + 0.01, lastY); // a canvas draws no line of zero length, but a click must make a dot
}
