"""`python -m deepcache_trt.benchmarks.memory`: another name of `deepcache-trt memory`, see `counting.memory`."""

from deepcache_trt.benchmarks.alias import run_command

if __name__ == "__main__":
    run_command("memory")
