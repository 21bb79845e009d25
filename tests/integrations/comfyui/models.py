"""Test-size U-Nets: as ComfyUI describes them, and as diffusers has them."""

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from deepcache_trt.models.fresh import model_from_config
from tests.integrations.comfyui import node_folder
from tests.one_file import original_unet

layout = node_folder.module("layout")

POOLED = 20
CONTEXT = 24

# Arguments of ComfyUI's `UNetModel`.
SD15: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2],
    "context_dim": CONTEXT,
    "num_heads": 4,
    "num_head_channels": -1,
    "transformer_depth": [1, 1, 0],
    "transformer_depth_output": [1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
}
SDXL: dict[str, Any] = {
    **SD15,
    "transformer_depth": [0, 1, 2],
    "transformer_depth_output": [0, 0, 1, 1, 2, 2],
    "transformer_depth_middle": 2,
    "use_linear_in_transformer": True,
    "num_heads": -1,
    "num_head_channels": 16,
    "adm_in_channels": POOLED + layout.SIZES * layout.SIZE_CHANNELS,
    "num_classes": "sequential",
}
ALL = {"sd15": SD15, "sdxl": SDXL}


def diffusers_unet(arguments: dict[str, Any], *, seed: int = 0) -> Any:
    """diffusers' model of these arguments, with drawn weights."""
    torch.manual_seed(seed)
    return model_from_config(UNet2DConditionModel, layout.diffusers_config(arguments)).requires_grad_(False)


class UNetModel(torch.nn.Module):
    """What ComfyUI's class of this name is asked for: the weights of a U-Net, by their original names."""

    def __init__(self, unet: Any) -> None:
        """With the weights of a U-Net of diffusers."""
        super().__init__()
        self.weights = dict(original_unet(unet))

    def parameters(self, recurse: bool = True) -> Any:
        return iter(self.weights.values())

    def state_dict(self, *_: Any, **__: Any) -> Any:
        return dict(self.weights)


@dataclass
class ModelConfig:
    """ComfyUI's description of a model."""

    unet_config: dict[str, Any]


@dataclass
class BaseModel:
    """What ComfyUI's class of this name is asked for."""

    model_config: ModelConfig
    diffusion_model: UNetModel
    model_lowvram: bool = False
    current_patcher: Any = None


class SDXLModel(BaseModel):
    """ComfyUI's class for SDXL."""


SDXLModel.__name__ = "SDXL"


@dataclass
class Executor:
    """ComfyUI's, of a chain of wrappers that ends with ours."""

    class_obj: Any


@dataclass
class Sampling:
    """The calls that a sampler of ComfyUI makes of a wrapper of the U-Net, in one way through a table."""

    unet: Any
    model: BaseModel
    steps: int = 4
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sigmas = torch.linspace(10, 0, self.steps + 1)

    def evaluation(self, step: int) -> dict[str, Any]:
        """The options of all calls of one evaluation of the model."""
        return {**self.options, "sample_sigmas": self.sigmas, "sigmas": self.sigmas[step].expand(1)}

    def call(self, evaluation: dict[str, Any], *, prompts: str = "both", **arguments: Any) -> torch.Tensor:
        """One call with a set of prompts."""
        options = {**evaluation, "uuids": [prompts], "cond_or_uncond": [0]}
        result: torch.Tensor = self.unet(Executor(self.model.diffusion_model), transformer_options=options, **arguments)
        return result
