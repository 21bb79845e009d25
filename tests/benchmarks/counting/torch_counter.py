"""A second counter, independent of the graph: torch's own, on the model's `forward`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from deepcache_trt.benchmarks.counting.macs import Macs
from deepcache_trt.models.architecture import Architecture

_WEIGHTS = (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm)
_ATTENTION = (torch.ops.aten.bmm,)


def torch_macs(model: Any, architecture: Architecture, sizes: Mapping[str, int]) -> Macs:
    """Operations of one call of a model on fake tensors, of which nothing is computed."""
    mode: FakeTensorMode = next(model.parameters()).fake_mode
    with mode, torch.no_grad():
        inputs = {
            spec.name: torch.zeros(spec.resolve(sizes), dtype=getattr(torch, spec.dtype))
            for spec in architecture.inputs
        }
        # Only the plain implementation of attention is visible to torch's counter on a CPU.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            architecture.call(model, inputs)
    flops = counter.get_flop_counts()["Global"]
    assert set(flops) <= {*_WEIGHTS, *_ATTENTION}, "an operator of neither kind"
    weights, attention = (sum(flops.get(op, 0) for op in ops) // 2 for ops in (_WEIGHTS, _ATTENTION))
    return Macs(weights=weights, attention=attention)
