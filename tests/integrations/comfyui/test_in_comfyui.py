"""The nodes within ComfyUI itself: its loaders, samplers and ControlNets, on models that the test draws.

ComfyUI is no package; `COMFYUI` in the environment is the folder of its source, in an environment that has what it
needs. It is its own checkpoint format that is loaded, and its own images that ours are compared with.
"""

import asyncio
import gc
import os
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.integrations.comfyui.models import ALL, CONTEXT, POOLED, SD15, diffusers_unet
from tests.integrations.comfyui.node_folder import FOLDER
from tests.one_file import original_unet

SOURCE = os.environ.get("COMFYUI", "")
SIZE = (16, 24)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SOURCE, reason="COMFYUI is not set to the folder of ComfyUI's source"),
]

# What ComfyUI knows a checkpoint by: the widths of SD 1.5, here of a much shallower model.
CHECKPOINT = {
    **SD15,
    "model_channels": 320,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "context_dim": 768,
    "num_heads": 8,
    "transformer_depth": [1, 0],
    "transformer_depth_output": [1, 1, 0, 0],
}


@pytest.fixture(scope="module", autouse=True)
def comfy() -> Any:
    """ComfyUI on the CPU."""
    sys.path.insert(0, SOURCE)
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    import comfy.sample
    import comfy.sd
    import comfy.supported_models

    return comfy


@pytest.fixture(autouse=True)
def _as_comfyui_runs_nodes() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def nodes() -> Any:
    """The nodes, as ComfyUI has loaded them."""
    import nodes

    assert asyncio.run(nodes.load_custom_node(str(FOLDER)))
    return nodes.NODE_CLASS_MAPPINGS


def model_of(comfy: Any, name: str) -> Any:
    """A MODEL with drawn weights."""
    kind = {"sd15": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[name]
    more = {"image_size": 32, "use_spatial_transformer": True, "legacy": False, "dtype": torch.float32}
    config = kind({**ALL[name], **more})
    config.unet_config |= {key: ALL[name][key] for key in ("num_heads", "num_head_channels")}
    model = config.get_model({}, "")
    model.diffusion_model.load_state_dict(dict(original_unet(diffusers_unet(ALL[name]))))
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=cpu, offload_device=cpu)


def on_engines(nodes: Any, model: Any, store: Path, *, interval: int = 1, backend: str = "torch") -> Any:
    loaded = nodes["DeepCacheTRTLoadCachedEngines"]().load(interval, 0, backend, store=str(store))
    return nodes["DeepCacheTRTApplyEngines"]().apply(model, *loaded)[0]


def prompt(seed: int, *, tokens: int = 77, context: int = CONTEXT, **more: Any) -> list[Any]:
    """A CONDITIONING."""
    generator = torch.Generator().manual_seed(seed)
    pooled = {"pooled_output": torch.randn(1, POOLED, generator=generator), "width": 1000, "height": 96, "crop_w": 5}
    return [[torch.randn(1, tokens, context, generator=generator), {**pooled, "target_height": 768, **more}]]


def draw(
    comfy: Any, model: Any, *, sampler: str = "euler", steps: int = 5, positive: Any = None, negative: Any = None
) -> torch.Tensor:
    """Latents."""
    noise = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    positive, negative = positive or prompt(1), negative or prompt(2)
    drawn: torch.Tensor = comfy.sample.sample(
        model, noise, steps, 5.0, sampler, "normal", positive, negative, torch.zeros_like(noise), seed=3,
        disable_pbar=True,
    )  # fmt: skip
    return drawn


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert theirs.isfinite().all()
    assert theirs.std() > 0.1
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m", "heun", "uni_pc", "ddim"])
@pytest.mark.parametrize("name", ALL)
def test_at_interval_one_the_image_is_comfyuis(
    comfy: Any, nodes: Any, store_root: Path, name: str, sampler: str
) -> None:
    model = model_of(comfy, name)
    ours = draw(comfy, on_engines(nodes, model, store_root), sampler=sampler)
    assert apart(ours, draw(comfy, model, sampler=sampler)) < 1e-5


@pytest.mark.parametrize("name", ALL)
def test_compiled_engines_draw_comfyuis_image(comfy: Any, nodes: Any, store_root: Path, name: str) -> None:
    model = model_of(comfy, name)
    compiled = on_engines(nodes, model, store_root, backend="onnxruntime")
    assert apart(draw(comfy, compiled), draw(comfy, model)) < 1e-5
    cached = on_engines(nodes, model, store_root, backend="onnxruntime", interval=3)
    in_torch = on_engines(nodes, model, store_root, interval=3)
    drawn = draw(comfy, cached)
    assert apart(drawn, draw(comfy, in_torch)) < 1e-5
    assert apart(drawn, draw(comfy, model)) > 1e-3, "a cached image is another one"


def test_a_checkpoint_that_comfyui_loads_itself(comfy: Any, nodes: Any, store_root: Path, tmp_path: Path) -> None:
    weights = {f"model.diffusion_model.{name}": value for name, value in original_unet(diffusers_unet(CHECKPOINT))}
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "model.safetensors")
    model = comfy.sd.load_diffusion_model(str(tmp_path / "model.safetensors"))
    prompts: dict[str, Any] = {"positive": prompt(1, context=768), "negative": prompt(2, context=768)}
    ours = draw(comfy, on_engines(nodes, model, store_root), steps=3, **prompts)
    assert apart(ours, draw(comfy, model, steps=3, **prompts)) < 1e-5


def test_prompts_of_parts_of_the_image_are_drawn_as_by_comfyui(comfy: Any, nodes: Any, store_root: Path) -> None:
    model = model_of(comfy, "sd15")
    prompts = [*prompt(1, area=(8, 12, 0, 0)), *prompt(9), *prompt(10, tokens=154)]
    ours = draw(comfy, on_engines(nodes, model, store_root), positive=prompts)
    assert apart(ours, draw(comfy, model, positive=prompts)) < 1e-5


def test_cached_prompts_that_memory_parts_draw_the_same_image(
    comfy: Any, nodes: Any, store_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = on_engines(nodes, model_of(comfy, "sd15"), store_root, interval=3)
    together = draw(comfy, cached)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_, **__: 0)
    assert apart(draw(comfy, cached), together) < 1e-5


def test_a_lora_counts_and_goes_again(comfy: Any, nodes: Any, store_root: Path) -> None:
    model = model_of(comfy, "sd15")
    ours = on_engines(nodes, model, store_root)
    torch.manual_seed(1)
    weights = {key: value for key, value in model.model.state_dict().items() if key.endswith("attn2.to_q.weight")}
    lora = {key: ("diff", (torch.randn_like(value) * value.std(),)) for key, value in weights.items()}
    before = draw(comfy, ours)
    patched, ours_patched = model.clone(), ours.clone()
    for each in (patched, ours_patched):
        each.add_patches(lora, 1.0)
    theirs = draw(comfy, patched)
    assert apart(theirs, before) > 0.01
    assert apart(draw(comfy, ours_patched), theirs) < 1e-5
    assert torch.equal(draw(comfy, ours), before)


@pytest.mark.parametrize("both", [True, False], ids=["both prompts", "the positive prompt"])
def test_a_controlnet_counts(comfy: Any, nodes: Any, store_root: Path, both: bool) -> None:
    import nodes as comfyui_nodes
    from comfy.cldm.cldm import ControlNet
    from comfy.controlnet import ControlNet as Control

    model = model_of(comfy, "sd15")
    left_out = ("out_channels", "transformer_depth_output", "use_linear_in_transformer")
    config = {key: value for key, value in SD15.items() if key not in left_out}
    net = ControlNet(
        **config, image_size=32, hint_channels=3, use_spatial_transformer=True, legacy=False, dtype=torch.float32
    )
    torch.manual_seed(0)
    for weight in net.parameters():
        weight.copy_(torch.randn_like(weight) * (0.5 / weight[0].numel() ** 0.5 if weight.ndim > 1 else 0.1))
    control = Control(net, load_device=torch.device("cpu"))
    image = torch.rand(1, SIZE[0] * 8, SIZE[1] * 8, 3)
    apply = comfyui_nodes.ControlNetApplyAdvanced().apply_controlnet
    positive, negative = apply(prompt(1), prompt(2), control, image, 0.8, 0.0, 0.6)
    prompts = {"positive": positive, "negative": negative if both else prompt(2)}
    theirs = draw(comfy, model, **prompts)
    assert apart(theirs, draw(comfy, model)) > 0.01
    assert apart(draw(comfy, on_engines(nodes, model, store_root), **prompts), theirs) < 1e-5


@pytest.mark.parametrize("before", [True, False], ids=["before ours", "after ours"])
def test_a_patch_of_another_node_is_refused(comfy: Any, nodes: Any, store_root: Path, before: bool) -> None:
    def patch(model: Any) -> Any:
        model = model.clone()
        model.set_model_attn2_patch(lambda q, k, v, _: (q, k, v))
        return model

    model = model_of(comfy, "sd15")
    if before:
        with pytest.raises(Exception, match="another node has set attn2_patch"):
            on_engines(nodes, patch(model), store_root)
    else:
        with pytest.raises(Exception, match="another node has set attn2_patch"):
            draw(comfy, patch(on_engines(nodes, model, store_root)))


def test_a_model_that_is_left_takes_its_engines_with_it(comfy: Any, nodes: Any, store_root: Path) -> None:
    model = model_of(comfy, "sd15")
    ours = on_engines(nodes, model, store_root)
    draw(comfy, ours)
    unet = next(iter(ours.wrappers["diffusion_model"]["deepcache_trt"]))
    gone = [weakref.ref(model.model), weakref.ref(unet.denoiser), weakref.ref(unet.denoiser.session)]
    assert all(each() is not None for each in gone)
    del model, ours, unet
    comfy.model_management.cleanup_models_gc()
    comfy.model_management.cleanup_models()
    gc.collect()
    assert [each() for each in gone] == [None, None, None]


def test_what_no_engine_can_be_is_refused_by_the_node(nodes: Any) -> None:
    load = nodes["DeepCacheTRTLoadCachedEngines"]().load
    with pytest.raises(Exception, match="size"):
        load(3, 0, "auto", size="many")
    with pytest.raises(Exception, match="backend"):
        load(3, 0, "tensorrtt")
