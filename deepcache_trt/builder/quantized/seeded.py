"""Calibration without a picture: seeded inputs, for models of random weights, which can only be timed."""

import logging
from collections.abc import Mapping

import torch

from deepcache_trt.builder.component import Component
from deepcache_trt.builder.quantized.observing import observed, scales
from deepcache_trt.builder.quantized.quantizing import Calibration
from deepcache_trt.export import parity
from deepcache_trt.export.precision import Precision
from deepcache_trt.models.taps import Variant
from deepcache_trt.progress import Progress

_log = logging.getLogger(__name__)

_CALLS = 2


def seeded_calibration(component: Component) -> Calibration:
    """Scales that suit seeded inputs, and no picture: the engines are for timing only, and the log says so."""

    def observe(progress: Progress, precision: Precision) -> Mapping[str, float]:
        _log.warning(
            "the 8-bit scales of %s are those of seeded noise: its engines are for timing only, and their pictures are "
            "no measure of the precision",
            component.title,
        )
        with progress(f"observing {component.title} on seeded inputs"):
            return _observe(component, precision)

    return Calibration(about={"inputs": "seeded", "calls": _CALLS}, observe=observe, in_words="seeded inputs")


def _observe(component: Component, precision: Precision) -> Mapping[str, float]:
    architecture, module = component.architecture, component.module()
    device = next(module.parameters()).device
    with observed(module.state_dict()) as seen:
        for seed in range(_CALLS):
            inputs = parity.example_inputs(architecture, parity.unseen_sizes(architecture), seed=seed)
            on_device: dict[str, torch.Tensor] = {name: tensor.to(device) for name, tensor in inputs.items()}
            parity.run_model(module, architecture, Variant(name="whole"), on_device)
    return scales(seen, precision)
