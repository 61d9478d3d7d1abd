// Run the network. An image is { data, channels, height, width }, where `data` is in the order [channel, row, column].

import { MODEL } from "./model.js";

const LAYERS = { contrast, convolution, maxPooling, averagePooling, normalization, relu, flatten, linear };
loadWeights();

// Assign each layer its weight tensors, as views of one decoded array.
function loadWeights() {
  const bytes = Uint8Array.from(atob(MODEL.weights), (character) => character.charCodeAt(0));
  const weights = new Float32Array(bytes.buffer); // browsers run only on little-endian machines
  let offset = 0;
  for (const layer of MODEL.layers) {
    layer.parameters = layer.sizes.map((size) => weights.subarray(offset, offset += size));
  }
}

// Compute the logits of grey levels [28 * 28]: a Float32Array [10], the mean over the shifted views of the image.
export function logits(pixels) {
  const sum = new Float32Array(MODEL.classes.length);
  for (const [down, right] of MODEL.shifts) {
    let image = { data: shiftedInput(pixels, down, right), channels: 1, height: MODEL.side, width: MODEL.side };
    for (const layer of MODEL.layers) image = LAYERS[layer.kind](image, layer);
    image.data.forEach((logit, i) => {
      sum[i] += logit;
    });
  }
  return sum.map((logit) => logit / MODEL.shifts.length);
}

export function softmax(values) {
  const max = Math.max(...values);
  const powers = Array.from(values, (value) => Math.exp(value - max));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

// Normalize the image and shift it with wrap-around, like torch.roll.
function shiftedInput(pixels, down, right) {
  const side = MODEL.side;
  const shifted = new Float32Array(side * side);
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const source = ((row - down + side) % side) * side + (column - right + side) % side;
      shifted[row * side + column] = (pixels[source] / 255 - MODEL.mean) / MODEL.std;
    }
  }
  return shifted;
}

// Local contrast normalization of each channel: (x - mean) / sqrt(variance + epsilon) in a window. The absolute values
// follow as additional channels.
function contrast({ data, channels, height, width }, { window, epsilon }) {
  const result = emptyImage(2 * channels, height, width);
  const reach = Math.floor(window / 2);
  for (let i = 0; i < data.length; i++) {
    const x = i % width, y = Math.floor(i / width) % height, start = i - y * width - x;
    let count = 0, sum = 0, squares = 0;
    for (let row = Math.max(0, y - reach); row <= Math.min(height - 1, y + reach); row++) {
      for (let column = Math.max(0, x - reach); column <= Math.min(width - 1, x + reach); column++) {
        const value = data[start + row * width + column];
        count++;
        sum += value;
        squares += value * value;
      }
    }
    const mean = sum / count;
    result.data[i] = (data[i] - mean) / Math.sqrt(Math.max(0, squares / count - mean * mean) + epsilon);
    result.data[data.length + i] = Math.abs(result.data[i]);
  }
  return result;
}

function convolution(image, layer) {
  const { outputs, inputs, kernel, stride, padding, groups, parameters: [weights, biases] } = layer;
  const padded = pad(image, padding);
  const result = emptyImage(outputs, ...outputSides(padded, kernel, stride));
  const area = result.height * result.width, outputsPerGroup = outputs / groups;
  const patch = new Float32Array(inputs * kernel[0] * kernel[1]);
  for (let group = 0; group < groups; group++) {
    for (let position = 0; position < area; position++) {
      const y = Math.floor(position / result.width) * stride[0], x = position % result.width * stride[1];
      copyPatch(patch, padded, group * inputs, y, x, kernel);
      for (let output = group * outputsPerGroup; output < (group + 1) * outputsPerGroup; output++) {
        result.data[output * area + position] = biases[output] + dotProduct(weights, output * patch.length, patch);
      }
    }
  }
  return result;
}

// Copy the values under the kernel into `patch`, in the order of the weights. Every output channel reuses the copy.
function copyPatch(patch, { data, height, width }, channel, y, x, [kernelHeight, kernelWidth]) {
  for (let i = 0; i < patch.length; channel++) {
    for (let row = y; row < y + kernelHeight; row++) {
      const start = (channel * height + row) * width + x;
      for (let column = 0; column < kernelWidth; column++) patch[i++] = data[start + column];
    }
  }
}

// The innermost loop, in which the network spends nearly all of its time.
function dotProduct(weights, start, values) {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += weights[start + i] * values[i];
  return sum;
}

// Pad with zeros, so that the convolution needs no bounds checks.
function pad(image, [vertical, horizontal]) {
  if (!vertical && !horizontal) return image;
  const { channels, height, width } = image;
  const padded = emptyImage(channels, height + 2 * vertical, width + 2 * horizontal);
  for (let row = 0; row < channels * height; row++) {
    const y = Math.floor(row / height) * padded.height + vertical + row % height;
    padded.data.set(image.data.subarray(row * width, (row + 1) * width), y * padded.width + horizontal);
  }
  return padded;
}

function emptyImage(channels, height, width) {
  return { data: new Float32Array(channels * height * width), channels, height, width };
}

function outputSides({ height, width }, kernel, stride) {
  return [height, width].map((side, i) => Math.floor((side - kernel[i]) / stride[i]) + 1);
}

function maxPooling(image, layer) {
  return pool(image, layer, (patch) => Math.max(...patch));
}

function averagePooling(image, layer) {
  return pool(image, layer, (patch) => patch.reduce((sum, value) => sum + value, 0) / patch.length);
}

function pool(image, { kernel, stride }, reduce) {
  const result = emptyImage(image.channels, ...outputSides(image, kernel, stride));
  const patch = new Float32Array(kernel[0] * kernel[1]);
  let i = 0;
  for (let channel = 0; channel < result.channels; channel++) {
    for (let y = 0; y < result.height; y++) {
      for (let x = 0; x < result.width; x++) {
        copyPatch(patch, image, channel, y * stride[0], x * stride[1], kernel);
        result.data[i++] = reduce(patch);
      }
    }
  }
  return result;
}

function normalization(image, { parameters: [scales, shifts] }) {
  const area = image.height * image.width;
  for (let i = 0; i < image.data.length; i++) {
    const channel = Math.floor(i / area);
    image.data[i] = image.data[i] * scales[channel] + shifts[channel];
  }
  return image;
}

function relu(image) {
  for (let i = 0; i < image.data.length; i++) image.data[i] = Math.max(0, image.data[i]);
  return image;
}

// `data` is already in the order of PyTorch's Flatten.
function flatten(image) {
  return image;
}

function linear(image, { outputs, parameters: [weights, biases] }) {
  const result = emptyImage(outputs, 1, 1);
  for (let output = 0; output < outputs; output++) {
    result.data[output] = biases[output] + dotProduct(weights, output * image.data.length, image.data);
  }
  return result;
}
