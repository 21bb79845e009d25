"""Which backends work on a GPU machine, what they compute and how fast: `deepcache-trt check gpu`."""
