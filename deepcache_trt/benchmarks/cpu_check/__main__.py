"""`python -m deepcache_trt.benchmarks.cpu_check`."""

import sys

from deepcache_trt.benchmarks.cpu_check.check import main

if __name__ == "__main__":
    sys.exit(main())
