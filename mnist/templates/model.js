// The model, as mnist/deploy/page.py writes it into the page:
//   layers     kind, settings and weight tensor sizes of each layer, in order
//   weights    all weight tensors in the same order, little-endian float32, encoded as base64
//   shifts     [down, right] in pixels, one for each view of the image
//   mean, std  mean and standard deviation of the normalization
//   side       side of the input image, in pixels
//   box        longer side of a prepared digit, in pixels
//   centre     row and column of a prepared digit's centre of mass, in pixels
//   preparation  constants of mnist/preparation: limits for components, lines and shapes
//   classes    names of the classes
//   threshold  lowest probability at which a class is predicted
export const MODEL = JSON.parse(globalThis.document.getElementById("model").textContent);
