import { MODEL } from "./model.js";
import { logits, softmax } from "./network.js";
import { fit } from "./preparation.js";
import { INK_SIDE, inkMap, inside, paint, strokes } from "./strokes.js";

const { document, cancelAnimationFrame, getComputedStyle, matchMedia, requestAnimationFrame, ResizeObserver } =
  globalThis;

const PEN = 0.1; // how wide it is shown, in sides of the sheet
const STEP = 1 / 28; // of the sheet's side, for an arrow key
const element = (id) => document.getElementById(id);
const sheet = element("sheet"), nib = element("nib");
const INVITATION = element("says").textContent;

// ---- The drawing ----

let stroke = null; // the one that is being drawn

function begin(point) {
  end();
  stroke = [point];
  strokes.push(stroke);
  updateSoon();
}

function go(points) {
  if (!stroke) return;
  stroke.push(...points);
  updateSoon();
}

function end() {
  if (!stroke) return;
  stroke = null;
  announce(update());
}

function takeBack(count) {
  stroke = null;
  strokes.splice(Math.max(0, strokes.length - count));
  announce(update());
}

// ---- What is shown of it ----

let waiting = 0;

// Many points may come between two frames: one update has them all.
function updateSoon() {
  waiting ||= requestAnimationFrame(update);
}

// Shows the drawing and the answer, which it returns in words.
function update() {
  cancelAnimationFrame(waiting);
  waiting = 0;
  paintSheet();
  showPen();
  const pixels = fit(inkMap(), INK_SIDE, INK_SIDE);
  showPixels(pixels);
  element("invitation").hidden = strokes.length > 0;
  const shares = strokes.length ? softmax(logits(pixels)) : null;
  showBars(shares);
  return showAnswer(shares);
}

function paintSheet() {
  const side = Math.round(sheet.clientWidth * globalThis.devicePixelRatio);
  if (sheet.width !== side) sheet.width = sheet.height = side;
  paint(sheet.getContext("2d"), side, PEN, getComputedStyle(sheet).color);
}

function showPixels(pixels) {
  const context = element("seen").getContext("2d");
  const image = context.createImageData(MODEL.side, MODEL.side);
  pixels.forEach((level, i) => image.data.set([level, level, level, 255], 4 * i));
  context.putImageData(image, 0, 0);
}

function showBars(shares) {
  const most = shares ? Math.max(...shares) : NaN;
  [...element("bars").children].forEach((bar, i) => {
    const share = shares ? shares[i] : 0;
    bar.classList.toggle("top", share === most);
    bar.querySelector(".fill").style.setProperty("--share", share);
    bar.querySelector(".number").textContent = shares ? percent(share) : "–";
  });
}

function showAnswer(shares) {
  const { state, says, why } = answer(shares);
  element("result").classList.toggle("blank", state === "blank");
  element("result").classList.toggle("unsure", state === "unsure");
  element("says").textContent = says;
  const lines = why.map((line) => Object.assign(document.createElement("span"), { textContent: line }));
  element("why").replaceChildren(...lines);
  return [says, ...why].join(", ");
}

function answer(shares) {
  if (!shares) return { state: "blank", says: INVITATION, why: [] };
  const ranked = shares.map((share, i) => [share, MODEL.classes[i]]).sort(([a], [b]) => b - a);
  const [[most, first], [less, second]] = ranked;
  if (most >= MODEL.threshold) {
    return { state: "sure", says: first, why: [`${honest(most)} sure`, `then ${second}, ${honest(less)}`] };
  }
  const guesses = [`perhaps ${first}, ${percent(most)}`, `or ${second}, ${percent(less)}`];
  return { state: "unsure", says: "not sure", why: guesses };
}

// Nothing is certain, and nothing impossible.
function honest(share) {
  return share > 0.999 ? "over 99.9 %" : share < 0.001 ? "under 0.1 %" : percent(share);
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

// For those who listen: once a stroke, not once a frame.
function announce(text) {
  element("status").textContent = text;
}

// ---- Mouse, finger, pen and keys ----

function pointsOf(event) {
  const box = sheet.getBoundingClientRect();
  const coalesced = event.getCoalescedEvents?.() ?? []; // all the places since the last event, where a browser has them
  return (coalesced.length ? coalesced : [event]).map((
    { clientX, clientY },
  ) => [(clientX - box.left) / box.width, (clientY - box.top) / box.height]);
}

let pointer = null; // the one that draws: a second finger, or the hand that rests beside the pen, does not

sheet.addEventListener("pointerdown", (event) => {
  if (pointer !== null || event.button !== 0) return;
  pointer = event.pointerId;
  sheet.setPointerCapture(pointer);
  begin(pointsOf(event).pop());
});
sheet.addEventListener("pointermove", (event) => {
  if (event.pointerId === pointer) go(pointsOf(event));
});
sheet.addEventListener("lostpointercapture", (event) => {
  if (event.pointerId !== pointer) return;
  pointer = null;
  end();
});

const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
const held = new Set(); // arrow keys
let place = [0.5, 0.5]; // of the pen that the keys move

sheet.addEventListener("keydown", (event) => {
  if (pointer !== null || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in ARROWS) movePen(event.key);
  else if (event.key === " ") event.repeat || togglePen();
  else if (["Escape", "Delete", "Backspace"].includes(event.key)) takeBack(strokes.length);
  else return;
  event.preventDefault();
});
sheet.addEventListener("keyup", (event) => held.delete(event.key));
sheet.addEventListener("blur", () => {
  held.clear();
  end();
});

function movePen(key) {
  held.add(key);
  for (const arrow of held) place = place.map((at, axis) => inside(at + ARROWS[arrow][axis]));
  go([place]);
  showPen();
}

function togglePen() {
  if (stroke) return end();
  begin(place);
  announce("pen down");
}

function showPen() {
  nib.style.left = `${100 * place[0]}%`;
  nib.style.top = `${100 * place[1]}%`;
  nib.classList.toggle("down", stroke !== null);
}

element("undo").addEventListener("click", () => takeBack(1));
element("clear").addEventListener("click", () => takeBack(strokes.length));
document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
  event.preventDefault();
  takeBack(1);
});

// ---- Another size, another resolution, light or dark: the drawing stays ----

new ResizeObserver(updateSoon).observe(sheet);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", updateSoon);
watchResolution();
update();

// A window that moves to another screen keeps its size.
function watchResolution() {
  const changed = () => {
    updateSoon();
    watchResolution();
  };
  matchMedia(`(resolution: ${globalThis.devicePixelRatio}dppx)`).addEventListener("change", changed, { once: true });
}

globalThis.mnist = { fit, logits };
