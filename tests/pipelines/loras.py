"""LoRAs with seeded weights, and the folders that diffusers loads them from."""

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict

from tests import tiny

# Names of the layers of a U-Net that most LoRAs are on.
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def fresh() -> Any:
    """A plain pipeline whose U-Net and text encoder are its own, to be changed."""
    pipe = tiny.stable_diffusion()
    pipe.unet = tiny.new_denoiser("sd15")
    return pipe


def save_two(folder: Path) -> Path:
    """Two LoRAs, of U-Net and text encoder, "a" and "b" in a folder as diffusers saves and loads them."""
    for seed, name in enumerate(("a", "b")):
        pipe = fresh()
        add_adapter(pipe.unet, ATTENTION, seed=seed)
        add_adapter(pipe.text_encoder, ["q_proj", "v_proj"], seed=seed)
        save(pipe, folder / name)
    return folder


def add_adapter(model: Any, modules: list[str], *, seed: int = 0, **config: Any) -> None:
    """Give a model a LoRA that changes what it computes, as one does that was trained.

    Args:
        model: a U-Net or a text encoder.
        modules: the names of its layers that get one.
        seed: of the LoRA's weights.
        config: beside those, for peft.
    """
    torch.manual_seed(seed)
    model.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=modules, **config))
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.3


def save(pipe: Any, folder: Path) -> None:
    """Save the LoRAs of a pipeline's U-Net and text encoder."""
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(pipe.unet),
        text_encoder_lora_layers=get_peft_model_state_dict(pipe.text_encoder),
    )
