import { MODEL } from "./model.js";

const LAYERS = { convolve, poolByMaximum, poolByMean, scaleAndShift, rectify, flatten, combine };
loadWeights();

// Each layer gets its own from the one block, which holds them in the layers' order.
function loadWeights() {
  const bytes = Uint8Array.from(atob(MODEL.weights), (character) => character.charCodeAt(0));
  const weights = new Float32Array(bytes.buffer); // little-endian, as every machine with a browser is
  let at = 0;
  for (const layer of MODEL.layers) layer.parameters = layer.sizes.map((size) => weights.subarray(at, at += size));
}

// Grey levels [28 * 28] to logits, a Float32Array [10]: the mean over the shifted views of the image.
export function logits(pixels) {
  const sum = new Float32Array(MODEL.classes.length);
  for (const [down, right] of MODEL.shifts) {
    let image = { data: view(pixels, down, right), channels: 1, height: MODEL.side, width: MODEL.side };
    for (const layer of MODEL.layers) image = LAYERS[layer.kind](image, layer);
    image.data.forEach((logit, i) => {
      sum[i] += logit;
    });
  }
  return sum.map((logit) => logit / MODEL.shifts.length);
}

// The image as the network expects its numbers, and shifted; what leaves it at one side comes back at the other.
function view(pixels, down, right) {
  const shifted = new Float32Array(MODEL.side * MODEL.side);
  for (let row = 0; row < MODEL.side; row++) {
    for (let column = 0; column < MODEL.side; column++) {
      const from = ((row - down + MODEL.side) % MODEL.side) * MODEL.side + (column - right + MODEL.side) % MODEL.side;
      shifted[row * MODEL.side + column] = (pixels[from] / 255 - MODEL.mean) / MODEL.std;
    }
  }
  return shifted;
}

function blankImage(channels, height, width) {
  return { data: new Float32Array(channels * height * width), channels, height, width };
}

function convolve(image, layer) {
  const { outputs, inputs, kernel, stride, padding, groups, parameters: [weights, biases] } = layer;
  const padded = pad(image, padding);
  const result = blankImage(outputs, ...sidesAfter(padded, kernel, stride));
  const area = result.height * result.width, each = outputs / groups;
  const patch = new Float32Array(inputs * kernel[0] * kernel[1]);
  for (let group = 0; group < groups; group++) {
    for (let place = 0; place < area; place++) {
      const y = Math.floor(place / result.width) * stride[0], x = place % result.width * stride[1];
      takePatch(patch, padded, group * inputs, y, x, kernel);
      for (let output = group * each; output < (group + 1) * each; output++) {
        result.data[output * area + place] = biases[output] + product(weights, output * patch.length, patch);
      }
    }
  }
  return result;
}

// What the kernel covers at one place, in the order of the weights: copied once, it serves every output.
function takePatch(patch, { data, height, width }, channel, y, x, [tall, broad]) {
  for (let at = 0; at < patch.length; channel++) {
    for (let row = y; row < y + tall; row++) {
      const start = (channel * height + row) * width + x;
      for (let column = 0; column < broad; column++) patch[at++] = data[start + column];
    }
  }
}

// Nearly all the time goes by in here.
function product(weights, start, values) {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += weights[start + i] * values[i];
  return sum;
}

// With a border of zeros, so that a convolution need not ask where the image ends.
function pad(image, [down, right]) {
  if (!down && !right) return image;
  const { channels, height, width } = image;
  const padded = blankImage(channels, height + 2 * down, width + 2 * right);
  for (let row = 0; row < channels * height; row++) {
    const y = Math.floor(row / height) * padded.height + down + row % height;
    padded.data.set(image.data.subarray(row * width, (row + 1) * width), y * padded.width + right);
  }
  return padded;
}

function sidesAfter({ height, width }, kernel, stride) {
  return [height, width].map((side, i) => Math.floor((side - kernel[i]) / stride[i]) + 1);
}

function poolByMaximum(image, layer) {
  return pool(image, layer, (patch) => Math.max(...patch));
}

function poolByMean(image, layer) {
  return pool(image, layer, (patch) => patch.reduce((sum, value) => sum + value, 0) / patch.length);
}

function pool(image, { kernel, stride }, join) {
  const result = blankImage(image.channels, ...sidesAfter(image, kernel, stride));
  const patch = new Float32Array(kernel[0] * kernel[1]);
  let at = 0;
  for (let channel = 0; channel < result.channels; channel++) {
    for (let y = 0; y < result.height; y++) {
      for (let x = 0; x < result.width; x++) {
        takePatch(patch, image, channel, y * stride[0], x * stride[1], kernel);
        result.data[at++] = join(patch);
      }
    }
  }
  return result;
}

function scaleAndShift(image, { parameters: [scales, shifts] }) {
  const area = image.height * image.width;
  for (let i = 0; i < image.data.length; i++) {
    const channel = Math.floor(i / area);
    image.data[i] = image.data[i] * scales[channel] + shifts[channel];
  }
  return image;
}

function rectify(image) {
  for (let i = 0; i < image.data.length; i++) image.data[i] = Math.max(0, image.data[i]);
  return image;
}

// The numbers are in this order already.
function flatten(image) {
  return image;
}

function combine(image, { outputs, parameters: [weights, biases] }) {
  const result = blankImage(outputs, 1, 1);
  for (let output = 0; output < outputs; output++) {
    result.data[output] = biases[output] + product(weights, output * image.data.length, image.data);
  }
  return result;
}

export function softmax(logits) {
  const most = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - most));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}
