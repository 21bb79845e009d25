"""What is measured: how much, how fast, how near; and the studies that put these together."""
