"""Guidance: how the parts of a prediction become one."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How the parts of a prediction become one.

    Of two, without and with the prompt: Ho and Salimans 2022. Of two, with the label and without, for latents that are
    there twice too: Peebles and Xie 2023. Of three, with prompt and image, with the image, and with neither: Brooks et
    al. 2023, equation 3.

    Attributes:
        scale: a number, or a tensor that broadcasts over the latents, as a video's scale for each frame; None: the
            model is called once for each image and its prediction is taken as it is.
        rescale: φ of Lin et al. 2023, section 3.4; 0 leaves it out.
        image_scale: of the image, where there are three parts; None: there are not.
        is_paired: the latents have two halves, the second a copy of the first, and so has ε.
        channels: how many of the first channels it goes to, the others being as predicted with the prompt or label;
            None: all.
    """

    scale: "float | torch.Tensor | None"
    rescale: float = 0.0
    image_scale: float | None = None
    is_paired: bool = False
    channels: int | None = None

    @property
    def copies(self) -> int:
        """How often the model input repeats the latents."""
        return 1 if self.scale is None or self.is_paired else 2 if self.image_scale is None else 3

    def __call__(self, prediction: "torch.Tensor") -> "torch.Tensor":
        """ε [B, …] from the model's output [copies · B, …]."""
        return guided(prediction, self.scale, self.rescale or None, self.image_scale, self.is_paired, self.channels)


def guided(
    prediction: "torch.Tensor",
    scale: "float | torch.Tensor | None",
    rescale: "float | torch.Tensor | None",
    image_scale: "float | torch.Tensor | None",
    is_paired: bool,
    channels: int | None,
) -> "torch.Tensor":
    """In the order of operations that diffusers has."""
    import torch

    if scale is None:
        return prediction
    if image_scale is not None:
        with_both, with_image, without = prediction.chunk(3)
        return without + scale * (with_both - with_image) + image_scale * (with_image - without)
    if is_paired:
        with_label, without = prediction.chunk(2)
        return torch.cat([without + scale * (with_label - without)] * 2)
    without, with_prompt = prediction.chunk(2)
    mixed = without + scale * (with_prompt - without)
    if channels is not None:
        mixed = torch.cat([mixed[:, :channels], with_prompt[:, channels:]], dim=1)
    if rescale is None:
        return mixed
    axes = list(range(1, mixed.ndim))
    rescaled = mixed * (with_prompt.std(dim=axes, keepdim=True) / mixed.std(dim=axes, keepdim=True))
    return rescale * rescaled + (1 - rescale) * mixed
