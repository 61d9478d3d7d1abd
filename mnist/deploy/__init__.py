"""Use a trained model: in Python, as an ONNX file, and in a web page for drawing digits."""
