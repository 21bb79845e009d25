"""How near cached pictures are to the uncached ones, beside their time: `deepcache-trt eval`."""
