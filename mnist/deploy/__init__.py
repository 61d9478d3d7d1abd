"""Use a trained model: from Python, as an ONNX file, and on a page in the browser."""
