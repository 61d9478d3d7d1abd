"""Use a trained model: from Python, as an ONNX file, and in a web page to draw on."""
