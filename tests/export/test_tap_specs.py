"""The shapes of taps without a graph: those that the exported graph has, at sizes that nobody traced."""

import pytest

from deepcache_trt.export.parity import example_inputs, run_model, unseen_sizes
from deepcache_trt.export.tap_specs import tap_specs
from deepcache_trt.models.architecture import AS_CONFIGURED, CallForm
from deepcache_trt.models.copies import fake_copy
from deepcache_trt.models.registry import architecture_of
from deepcache_trt.models.taps import Variant
from tests import tiny


@pytest.mark.parametrize("name", sorted(tiny.ARCHITECTURES))
def test_taps_have_the_shapes_that_the_model_gives_them(name: str) -> None:
    model = tiny.denoiser(name)
    architecture = architecture_of(model, dtype="float32")
    specs = tap_specs(fake_copy(model), architecture)
    assert specs.keys() == {tap.name for tap in architecture.taps}
    whole = Variant(name="whole", emits=tuple(specs))
    multiple = max(architecture.size_multiple, 1)
    side = architecture.fixed_size
    for sizes in (
        unseen_sizes(architecture),
        {"batch": 3, "sequence": 5, "height": 9 * multiple, "width": 6 * multiple},
    ):
        if side is not None:
            sizes |= {"height": side, "width": side}
        if architecture.frames is not None:
            sizes |= {"batch": 2 * architecture.frames}
        given = run_model(model, architecture, whole, example_inputs(architecture, sizes))
        for tap, spec in specs.items():
            assert spec.resolve(sizes) == tuple(given[tap].shape), (tap, sizes)
            assert spec.dtype == str(given[tap].dtype).removeprefix("torch.")
            assert spec.name == tap


def test_a_controlled_unet_and_a_controlnet_have_them_too() -> None:
    for model, form in ((tiny.denoiser("sd15"), CallForm(controlled=True)), (tiny.controlnet(), AS_CONFIGURED)):
        architecture = architecture_of(model, dtype="float32", form=form)
        specs = tap_specs(fake_copy(model), architecture)
        sizes = {"batch": 2, "sequence": 7, "height": 10, "width": 6}
        whole = Variant(name="whole", emits=tuple(specs))
        given = run_model(model, architecture, whole, example_inputs(architecture, sizes))
        assert {tap: spec.resolve(sizes) for tap, spec in specs.items()} == {
            tap: tuple(given[tap].shape) for tap in specs
        }
