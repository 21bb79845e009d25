"""`python -m deepcache_trt.benchmarks.gpu_check`: another name of `deepcache-trt check gpu`."""

from deepcache_trt.benchmarks.alias import run_command

if __name__ == "__main__":
    run_command("check", "gpu")
