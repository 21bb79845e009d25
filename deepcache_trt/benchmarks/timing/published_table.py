"""The published table of DeepCache: Stable Diffusion 2.1, 50 steps, NVIDIA RTX A5000.

Source: the page "DeepCache" of diffusers' documentation, section "Benchmark", which is also in the README of the
DeepCache package.
"""

from deepcache_trt.runtime.policies.deepcache import DeepCache

MODEL, STEPS = "sd21", 50
SOURCE = "https://huggingface.co/docs/diffusers/optimization/deepcache"
HARDWARE = "NVIDIA RTX A5000"


def interval_params(interval: int, branch: int) -> DeepCache:
    """A plan as the table has it: I and B."""
    return DeepCache(cache_interval=interval, cache_branch_id=branch)


COLUMNS = (interval_params(3, 0), interval_params(5, 0), interval_params(5, 1))

# Seconds of a call by (pixels, batch): without caching, then of each of `COLUMNS`.
SECONDS = {
    (512, 8): (15.96, 6.88, 5.03, 7.27),
    (512, 4): (8.39, 3.60, 2.62, 3.75),
    (512, 1): (2.61, 1.12, 0.81, 1.11),
    (768, 8): (43.58, 18.99, 13.96, 21.27),
    (768, 4): (22.24, 9.67, 7.10, 10.74),
    (768, 1): (6.33, 2.72, 1.97, 2.98),
    (1024, 8): (101.95, 45.57, 33.72, 53.00),
    (1024, 4): (49.25, 21.86, 16.19, 25.78),
    (1024, 1): (13.83, 6.07, 4.43, 7.15),
}
