"""`python -m deepcache_trt.benchmarks.cpu_check`: another name of `deepcache-trt check cpu`."""

from deepcache_trt.benchmarks.alias import run_command

if __name__ == "__main__":
    run_command("check", "cpu")
