"""The VQ model of latent diffusion with the names of its first code, written from the paper (Rombach et al. 2022)."""

# Modules of torch give Any.
# mypy: disable-error-code="no-any-return"

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.originals.ddim_model import Attention, Downsample, Upsample, norm


class Resnet(nn.Module):
    """As DDPM's, without a timestep."""

    def __init__(self, inner: int, outer: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(inner, groups), nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2, self.conv2 = norm(outer, groups), nn.Conv2d(outer, outer, 3, padding=1)
        if inner != outer:
            self.nin_shortcut = nn.Conv2d(inner, outer, 1)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.conv1(functional.silu(self.norm1(image)))
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        return hidden + (self.nin_shortcut(image) if hasattr(self, "nin_shortcut") else image)


class Middle(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1, self.block_2 = (Resnet(channels, channels, groups) for _ in range(2))
        self.attn_1 = Attention(channels, groups)

    def forward(self, image: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(image)))


class Level(nn.Module):
    """Blocks, and a change of size after them."""

    block: Any

    def __init__(self, inner: int, outer: int, count: int, groups: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(Resnet(outer if i else inner, outer, groups) for i in range(count))
        self.attn = nn.ModuleList()

    def forward(self, image: Tensor) -> Tensor:
        for block in self.block:
            image = block(image)
        for name in ("downsample", "upsample"):
            image = getattr(self, name)(image) if hasattr(self, name) else image
        return image


class Half(nn.Module):
    """What the encoder and the decoder have both."""

    mid: Any
    down: Any
    up: Any

    def __init__(self, inner: int, first: int, last: int, outer: int, groups: int) -> None:
        super().__init__()
        self.conv_in, self.conv_out = nn.Conv2d(inner, first, 3, padding=1), nn.Conv2d(last, outer, 3, padding=1)
        self.norm_out = norm(last, groups)

    def end(self, image: Tensor) -> Tensor:
        return self.conv_out(functional.silu(self.norm_out(image)))


class Encoder(Half):
    def __init__(self, widths: Sequence[int], latents: int, groups: int, resnets: int) -> None:
        super().__init__(3, widths[0], widths[-1], latents, groups)
        self.down, last = nn.ModuleList(), widths[0]
        for number, outer in enumerate(widths):
            level = Level(last, outer, resnets, groups)
            if number < len(widths) - 1:
                level.downsample = Downsample(outer)
            self.down.append(level)
            last = outer
        self.mid = Middle(last, groups)

    def forward(self, image: Tensor) -> Tensor:
        image = self.conv_in(image)
        for level in self.down:
            image = level(image)
        return self.end(self.mid(image))


class Decoder(Half):
    def __init__(self, widths: Sequence[int], latents: int, groups: int, resnets: int) -> None:
        super().__init__(latents, widths[-1], widths[0], 3, groups)
        self.mid, last = Middle(widths[-1], groups), widths[-1]
        levels: list[Level] = []
        for number, outer in reversed([*enumerate(widths)]):
            levels.insert(0, level := Level(last, outer, resnets + 1, groups))
            if number:
                level.upsample = Upsample(outer)
            last = outer
        self.up = nn.ModuleList(levels)

    def forward(self, latents: Tensor) -> Tensor:
        image = self.mid(self.conv_in(latents))
        for level in reversed(self.up):
            image = level(image)
        return self.end(image)


class VQAutoencoder(nn.Module):
    quantize: Any

    def __init__(self, widths: Sequence[int], *, codes: int, groups: int, latents: int = 3, resnets: int = 2) -> None:
        super().__init__()
        self.encoder, self.decoder = (half(widths, latents, groups, resnets) for half in (Encoder, Decoder))
        self.quant_conv, self.post_quant_conv = (nn.Conv2d(latents, latents, 1) for _ in range(2))
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(codes, latents)

    def encode(self, image: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(image))

    def decode(self, latents: Tensor) -> Tensor:
        codebook = self.quantize.embedding.weight
        squares = (latents[:, None] - codebook[None, :, :, None, None]).square().sum(dim=2)  # [B, codes, H, W]
        codes = codebook[squares.argmin(dim=1)]
        return self.decoder(self.post_quant_conv(torch.movedim(codes, 3, 1)))
