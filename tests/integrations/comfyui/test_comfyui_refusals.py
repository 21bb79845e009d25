"""What would change the prediction of a U-Net of ComfyUI, and not that of engines, is refused by its name."""

from typing import Any

import pytest
import torch

from deepcache_trt.errors import DeepCacheError, UnsupportedError
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.runtime.policies import DeepCache
from tests.integrations.comfyui.calls import call, close, engines, expected, inputs, new
from tests.integrations.comfyui.models import (
    POOLED,
    SD15,
    BaseModel,
    ModelConfig,
    Sampling,
    UNetModel,
    diffusers_unet,
)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patches": {"attn2_patch": [len]}}, "attn2_patch"),
        ({"patches": {"output_block_patch": [len]}}, "output_block_patch"),
        ({"patches_replace": {"attn1": {("input", 1): len}}}, "attn1"),
        ({"wrappers": {"diffusion_model": {"fbcache": [len]}}}, "fbcache"),
        ({"wrappers": {"diffusion_model": {None: [len]}}}, "without a name"),
    ],
)
def test_what_changes_the_inside_of_the_model_is_refused(options: dict[str, Any], said: str) -> None:
    unet, model, _ = new()
    sampling = Sampling(unet, model, options=options)
    with pytest.raises(UnsupportedError, match=said):
        call(sampling, sampling.evaluation(0), inputs())


@pytest.mark.parametrize(
    "options",
    [
        {"patches": {"attn2_patch": []}, "patches_replace": {"attn1": {}}},
        {"wrappers": {"diffusion_model": {engines.KEY: [len]}, "outer_sample": {"any": [len]}}},
        {"optimized_attention_override": len},
    ],
)
def test_what_changes_nothing_there_is_not(options: dict[str, Any]) -> None:
    unet, model, reference = new()
    sampling, given = Sampling(unet, model, options=options), inputs()
    assert close(call(sampling, sampling.evaluation(0), given), expected(reference, given))


class Patcher:
    """ComfyUI's, of the MODEL that is sampled now."""

    def __init__(self, *, hooks: Any = None, object_patches: dict[str, Any] | None = None) -> None:
        self.current_hooks = hooks
        self.object_patches = object_patches or {}


@pytest.mark.parametrize(
    ("patcher", "said"),
    [
        (Patcher(hooks=object()), "hooks change the weights"),
        (Patcher(object_patches={"diffusion_model": len}), "diffusion_model"),
        (Patcher(object_patches={"diffusion_model.out": len}), "diffusion_model.out"),
        (Patcher(object_patches={"model_sampling": len}), None),
    ],
)
def test_what_is_put_into_the_model_is_refused(patcher: Patcher, said: str | None) -> None:
    unet, model, reference = new()
    model.current_patcher = patcher
    sampling, given = Sampling(unet, model), inputs()
    if said is None:
        assert close(call(sampling, sampling.evaluation(0), given), expected(reference, given))
        return
    with pytest.raises(UnsupportedError, match=said):
        call(sampling, sampling.evaluation(0), given)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"control": {"input": [torch.zeros(1)], "output": [], "middle": []}}, "T2I"),
        ({"control": {"output": [None], "middle": [torch.zeros(1)]}}, "leaves out"),
        ({"control": {"output": [torch.zeros(1)], "middle": []}}, "leaves out"),
        ({"ref_latents": [torch.zeros(1)]}, "ref_latents"),
        ({"y": torch.zeros(2, POOLED + 6 * 256)}, "other sizes|added_cond_kwargs"),
    ],
)
def test_arguments_that_engines_do_not_take_are_refused(more: dict[str, Any], said: str) -> None:
    unet, model, _ = new()
    sampling = Sampling(unet, model)
    with pytest.raises(DeepCacheError, match=said):
        call(sampling, sampling.evaluation(0), inputs(), **more)


def test_other_models_are_refused() -> None:
    class Flux(BaseModel):
        pass

    with pytest.raises(UnsupportedError, match="the MODEL is Flux"):
        engines.EngineUNet(Flux(ModelConfig({}), UNetModel(diffusers_unet(SD15))), DeepCache(), EngineOptions())


def test_a_model_of_which_a_part_is_elsewhere_is_refused() -> None:
    unet, model, _ = new()
    model.model_lowvram = True
    sampling = Sampling(unet, model)
    with pytest.raises(UnsupportedError, match="only a part of the MODEL's weights"):
        call(sampling, sampling.evaluation(0), inputs())
