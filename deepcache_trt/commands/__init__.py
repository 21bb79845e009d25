"""Commands of `deepcache-trt` that have a module of their own."""
