"""`python -m deepcache_trt.benchmarks.memory`: what a generation holds in memory, see `counting.memory`."""

from deepcache_trt.benchmarks.counting.memory import main

if __name__ == "__main__":
    main()
