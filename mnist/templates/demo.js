// The page: draw with mouse, finger, pen or keyboard, and display the prediction.

import { MODEL } from "./model.js";
import { logits, softmax } from "./network.js";
import { fit } from "./placement.js";
import { findDigit } from "./search.js";
import { clampToSheet, opacityOf, paint, pixelsAreChanged, strokes } from "./strokes.js";

const { document, cancelAnimationFrame, getComputedStyle, matchMedia, requestAnimationFrame, ResizeObserver } =
  globalThis;

const KEYBOARD_STEP = 1 / 28; // fraction of the sheet's side
const element = (id) => document.getElementById(id);
const sheet = element("sheet"), keyboardPen = element("pen");
const sheetContext = sheet.getContext("2d", { willReadFrequently: true });
const BLANK = new Uint8Array(MODEL.side * MODEL.side);
const INVITATION = element("prediction").textContent;

// ---- Strokes ----

let stroke = null; // the stroke being drawn

function beginStroke(point) {
  endStroke();
  stroke = [point];
  strokes.push(stroke);
  scheduleUpdate();
}

function extendStroke(points) {
  if (!stroke) return;
  stroke.push(...points);
  scheduleUpdate();
}

function endStroke() {
  if (!stroke) return;
  stroke = null;
  announce(update());
}

function removeLastStrokes(count) {
  stroke = null;
  strokes.splice(Math.max(0, strokes.length - count));
  announce(update());
}

// ---- Display ----

let scheduledFrame = 0;

// Schedule a single update before the next frame, even if many points arrive until then.
function scheduleUpdate() {
  scheduledFrame ||= requestAnimationFrame(update);
}

// Display the drawing and its prediction; return the prediction in words.
function update() {
  cancelAnimationFrame(scheduledFrame);
  scheduledFrame = 0;
  showStrokes();
  showKeyboardPen();
  const answer = strokes.length ? recognize(opacityOf(sheetContext, sheet.width), sheet.width, sheet.width) : {};
  showNetworkInput(answer.pixels ?? BLANK);
  element("invitation").hidden = strokes.length > 0;
  element("result").dataset.reason = answer.reason ?? "";
  showBars(answer.probabilities);
  return showPrediction(answer);
}

// Find the digit in a drawing and run the network; return { pixels, probabilities, reason }. If no digit was found,
// there are no pixels. The reasons are the same as those of `mnist predict`.
function recognize(opacity, height, width) {
  const found = findDigit(opacity, height, width);
  if (!found.pixels) return found;
  const probabilities = softmax(logits(found.pixels));
  const confidences = found.halves.map((half) => Math.max(...softmax(logits(half))));
  const halvesAreClearer = confidences.length > 0 && Math.min(...confidences) > Math.max(...probabilities);
  const reason = found.doubtful || halvesAreClearer ? "may-be-two-digits" : undefined;
  return { pixels: found.pixels, probabilities, reason };
}

function showStrokes() {
  const side = Math.round(sheet.clientWidth * globalThis.devicePixelRatio);
  if (sheet.width !== side) sheet.width = sheet.height = side;
  paint(sheetContext, side, getComputedStyle(sheet).color);
}

function showNetworkInput(pixels) {
  const context = element("network-input").getContext("2d");
  const image = context.createImageData(MODEL.side, MODEL.side);
  pixels.forEach((level, i) => image.data.set([level, level, level, 255], 4 * i));
  context.putImageData(image, 0, 0);
}

function showBars(probabilities) {
  const max = probabilities ? Math.max(...probabilities) : NaN;
  [...element("bars").children].forEach((bar, i) => {
    const probability = probabilities ? probabilities[i] : 0;
    bar.classList.toggle("top", probability === max);
    bar.querySelector(".fill").style.setProperty("--probability", probability);
    bar.querySelector(".number").textContent = probabilities ? percent(probability) : "–";
  });
}

function showPrediction(answer) {
  const { state, prediction, details } = describePrediction(answer);
  element("result").classList.toggle("blank", state === "blank");
  element("result").classList.toggle("unsure", state === "unsure");
  element("prediction").textContent = prediction;
  const lines = details.map((line) => Object.assign(document.createElement("span"), { textContent: line }));
  element("details").replaceChildren(...lines);
  return [prediction, ...details].join(", ");
}

const PROBLEMS = {
  "nothing-found": ["nothing found", "draw larger"],
  "too-many-components": ["nothing found", "too many marks"],
  "not-digit-shaped": ["nothing found", "too wide"],
};

function describePrediction({ probabilities, reason }) {
  if (reason === "several-shapes") {
    return { state: "unsure", prediction: "several shapes", details: ["draw only one"] };
  }
  if (reason && !probabilities) {
    const [prediction, detail] = PROBLEMS[reason];
    return { state: "unsure", prediction, details: [detail] };
  }
  if (!probabilities) return { state: "blank", prediction: INVITATION, details: [] };
  const ranked = probabilities.map((probability, i) => [probability, MODEL.classes[i]]).sort(([a], [b]) => b - a);
  const [[highest, first], [next, second]] = ranked;
  if (highest >= MODEL.threshold && !reason) {
    const details = [`${boundedPercent(highest)} sure`, `then ${second}, ${boundedPercent(next)}`];
    return { state: "sure", prediction: first, details };
  }
  const details = [`perhaps ${first}, ${percent(highest)}`, `or ${second}, ${percent(next)}`];
  return { state: "unsure", prediction: "not sure", details };
}

// Never round to 0 % or 100 %.
function boundedPercent(probability) {
  if (probability > 0.999) return "over 99.9 %";
  if (probability < 0.001) return "under 0.1 %";
  return percent(probability);
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)} %`;
}

// Let screen readers read `text` aloud. This function is called once for each stroke, not for each frame.
function announce(text) {
  element("status").textContent = text;
}

// ---- Mouse, finger and pen ----

let activePointer = null; // ID of the drawing pointer; others, such as a second finger or the palm, do not draw

// Return all pointer positions since the last event, or only the current one if the browser does not record them.
function pointsOf(event) {
  const box = sheet.getBoundingClientRect();
  const coalesced = event.getCoalescedEvents?.() ?? [];
  const events = coalesced.length ? coalesced : [event];
  return events.map(({ clientX, clientY }) => [(clientX - box.left) / box.width, (clientY - box.top) / box.height]);
}

sheet.addEventListener("pointerdown", (event) => {
  if (activePointer !== null || event.button !== 0) return;
  activePointer = event.pointerId;
  sheet.setPointerCapture(activePointer);
  beginStroke(pointsOf(event).pop());
});
sheet.addEventListener("pointermove", (event) => {
  if (event.pointerId === activePointer) extendStroke(pointsOf(event));
});
sheet.addEventListener("lostpointercapture", (event) => {
  if (event.pointerId !== activePointer) return;
  activePointer = null;
  endStroke();
});

// ---- Keyboard ----

const ARROWS = {
  ArrowLeft: [-KEYBOARD_STEP, 0],
  ArrowRight: [KEYBOARD_STEP, 0],
  ArrowUp: [0, -KEYBOARD_STEP],
  ArrowDown: [0, KEYBOARD_STEP],
};
const heldArrows = new Set();
let penPosition = [0.5, 0.5]; // [x, y] in fractions of the sheet's side

sheet.addEventListener("keydown", (event) => {
  if (activePointer !== null || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in ARROWS) movePen(event.key);
  else if (event.key === " ") event.repeat || togglePen();
  else if (["Escape", "Delete", "Backspace"].includes(event.key)) removeLastStrokes(strokes.length);
  else return;
  event.preventDefault();
});
sheet.addEventListener("keyup", (event) => heldArrows.delete(event.key));
sheet.addEventListener("blur", () => {
  heldArrows.clear();
  endStroke();
});

function movePen(key) {
  heldArrows.add(key);
  for (const arrow of heldArrows) {
    penPosition = penPosition.map((coordinate, axis) => clampToSheet(coordinate + ARROWS[arrow][axis]));
  }
  extendStroke([penPosition]);
  showKeyboardPen();
}

function togglePen() {
  if (stroke) return endStroke();
  beginStroke(penPosition);
  announce("pen down");
}

function showKeyboardPen() {
  keyboardPen.style.left = `${100 * penPosition[0]}%`;
  keyboardPen.style.top = `${100 * penPosition[1]}%`;
  keyboardPen.classList.toggle("down", stroke !== null);
}

element("undo").addEventListener("click", () => removeLastStrokes(1));
element("clear").addEventListener("click", () => removeLastStrokes(strokes.length));
document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
  event.preventDefault();
  removeLastStrokes(1);
});

// ---- Repainting when the size, the resolution or the colour scheme changes ----

new ResizeObserver(scheduleUpdate).observe(sheet);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", scheduleUpdate);
watchResolution();
update();

// If a window moves to another screen, it keeps its size, so no resize is reported. A media query matches only one
// resolution, so it is replaced after every change.
function watchResolution() {
  const changed = () => {
    scheduleUpdate();
    watchResolution();
  };
  matchMedia(`(resolution: ${globalThis.devicePixelRatio}dppx)`).addEventListener("change", changed, { once: true });
}

element("changed-pixels").hidden = !pixelsAreChanged();

// For tests and the browser's console.
globalThis.mnist = { fit, logits, recognize };
