"""The plan that a budget buys: `deepcache-trt tune`."""
