"""Many images of a model without prompts, to be judged by their distribution: `deepcache-trt sample`."""
