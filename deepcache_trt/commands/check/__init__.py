"""`deepcache-trt check`: what works on this machine, and how fast."""
