"""Calibration: a model's activations are observed while its pipeline draws as it will, cached as it will be."""
