"""From a component of a pipeline to engines that run: what is missing in the store is built."""
