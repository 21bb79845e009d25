"""From torch to ONNX: one graph for each architecture, cut into variants that point into a checkpoint."""
