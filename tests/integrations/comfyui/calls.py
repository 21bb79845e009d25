"""Calls of what stands for a U-Net of ComfyUI, and what they are to give: that of diffusers' model of its weights."""

from pathlib import Path
from typing import Any

import torch

from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.progress import logged
from deepcache_trt.runtime.policies import DeepCache
from tests.integrations.comfyui import node_folder
from tests.integrations.comfyui.models import (
    ALL,
    CONTEXT,
    POOLED,
    BaseModel,
    ModelConfig,
    Sampling,
    SDXLModel,
    UNetModel,
    diffusers_unet,
)

engines = node_folder.module("engines")


def new(name: str = "sd15", *, interval: int = 1, store: Path | None = None) -> tuple[Any, BaseModel, Any]:
    """What stands for a U-Net, the MODEL that it is of, and the same U-Net of diffusers."""
    reference = diffusers_unet(ALL[name])
    model = (SDXLModel if name == "sdxl" else BaseModel)(ModelConfig(ALL[name]), UNetModel(reference))
    options = EngineOptions(backend="torch" if store is None else "onnxruntime", store=store)
    unet = engines.EngineUNet(model, DeepCache(cache_interval=interval), options, progress=logged)
    return unet, model, reference


def inputs(step: int = 0, *, batch: int = 2, tokens: int = 7, name: str = "sd15", seed: int = 0) -> dict[str, Any]:
    """Arguments of one call."""
    generator = torch.Generator().manual_seed(100 * seed + step)
    given: dict[str, Any] = {
        "x": torch.randn(batch, 4, 8, 16, generator=generator),
        "timesteps": torch.full((batch,), 900.0 - 100 * step),
        "context": torch.randn(batch, tokens, CONTEXT, generator=generator),
    }
    if name == "sdxl":
        sizes = torch.tensor([1024, 768, 0, 8, 1024, 1024]).expand(batch, 6)
        given["text"], given["sizes"] = torch.randn(batch, POOLED, generator=generator), sizes
    return given


def call(sampling: Sampling, evaluation: dict[str, Any], given: dict[str, Any], **more: Any) -> torch.Tensor:
    arguments = {name: value for name, value in given.items() if name not in ("text", "sizes")}
    if "text" in given:
        time = diffusers_unet(ALL["sdxl"]).add_time_proj(given["sizes"].flatten()).reshape(len(given["sizes"]), -1)
        arguments["y"] = torch.cat([given["text"], time], dim=1)
    return sampling.call(evaluation, **{**arguments, **more})


def expected(reference: Any, given: dict[str, Any], **more: Any) -> torch.Tensor:
    added = {"text_embeds": given["text"], "time_ids": given["sizes"]} if "text" in given else None
    result: torch.Tensor = reference(
        given["x"], given["timesteps"], given["context"], added_cond_kwargs=added, return_dict=False, **more
    )[0]
    return result


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).norm() <= 1e-5 * theirs.norm())
