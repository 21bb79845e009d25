"""What this package gains on a CPU, and against whom: `deepcache-trt check cpu`."""
