"""A pipeline whose models no other test has, so that their weights may be changed, moved and freed."""

from typing import Any

import torch

from tests.pipelines import micro

PARTS = ("unet", "text_encoder", "vae")


def fresh() -> Any:
    """A plain pipeline whose models are its own, to be changed."""
    return micro.with_own(micro.STRAIGHT["sd"], *PARTS)


def draw(pipe: Any, **call: Any) -> torch.Tensor:
    """An image [1, 3, 64, 64] in 0…1, float32, through all three models."""
    generator = torch.Generator().manual_seed(0)
    call = {"height": 64, "width": 64, "num_inference_steps": 3, "output_type": "pt", **call}
    image: torch.Tensor = pipe("a handwritten seven", generator=generator, **call).images
    return image
