"""From ONNX to engines: one file for each backend, shape profiles and the store."""
