"""A component that is quantized as a policy has it cached."""

from collections.abc import Sequence
from dataclasses import replace

from deepcache_trt.builder.component import Component
from deepcache_trt.builder.pieces import variants_of
from deepcache_trt.builder.quantized.quantizing import Calibration, Quantizing
from deepcache_trt.export.precision import Precision
from deepcache_trt.runtime.policies.policy import Policy


def quantized(
    component: Component, policy: Policy, precision: Precision, patterns: Sequence[str], calibration: Calibration
) -> Component:
    """The component with layers in another precision.

    Its adapters are merged before it is quantized, so there are no engines of the base weights to refit.

    Raises:
        UnknownNameError: the policy wants a tap that the denoiser lacks.
    """
    variants = variants_of(component.architecture, policy, component.name)
    quantizing = Quantizing(
        precision=precision,
        calibration=calibration,
        patterns=tuple(patterns),
        cached=tuple(variant for variant in variants if variant.consumes),
    )
    return replace(component, quantizing=quantizing, base=None)
