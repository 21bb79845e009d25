"""A process that was forked from one with open engines draws, and so does the one that it was forked from."""

import os
import subprocess
import sys

import pytest

_DRAWN = """
import os, sys, torch
from deepcache_trt import DeepCachePipeline
pipe = DeepCachePipeline.from_pretrained("digits", backend=sys.argv[1], cache_interval=2)
pipe.set_progress_bar_config(disable=True)
def draw():
    generator = torch.Generator().manual_seed(0)
    return pipe("seven", num_inference_steps=3, generator=generator, output_type="pt").images
before = draw()
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(draw(), before) else 1)
assert os.waitpid(child, 0)[1] == 0
assert torch.equal(draw(), before)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without forks")
@pytest.mark.parametrize("backend", ["onnxruntime", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_fork_after_engines_are_open(backend: str) -> None:
    # torch's own threads do not survive a fork.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", _DRAWN, backend], env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
