"""Ways to draw set beside each other: their cells, the drawing of samples, the figures, tables and plots."""
