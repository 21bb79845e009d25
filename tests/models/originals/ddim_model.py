"""DDPM's U-Net with the names of its code in PyTorch, written from the paper (Ho et al. 2020): what is saved."""

# Modules of torch give Any.
# mypy: disable-error-code="no-any-return"

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def norm(channels: int, groups: int) -> nn.Module:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class Resnet(nn.Module):
    def __init__(self, inner: int, outer: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(inner, groups), nn.Conv2d(inner, outer, 3, padding=1)
        self.temb_proj = nn.Linear(width, outer)
        self.norm2, self.conv2 = norm(outer, groups), nn.Conv2d(outer, outer, 3, padding=1)
        if inner != outer:
            self.nin_shortcut = nn.Conv2d(inner, outer, 1)

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        hidden = (
            self.conv1(functional.silu(self.norm1(image))) + self.temb_proj(functional.silu(time))[:, :, None, None]
        )
        hidden = self.conv2(functional.silu(self.norm2(hidden)))
        return hidden + (self.nin_shortcut(image) if hasattr(self, "nin_shortcut") else image)


class Attention(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = norm(channels, groups)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.norm(image)
        query, key, value = (each(hidden).flatten(2).transpose(1, 2) for each in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        return image + self.proj_out(mixed.reshape(image.shape))


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(functional.pad(image, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        return self.conv(functional.interpolate(image, scale_factor=2.0))


class Level(nn.Module):
    block: Any
    attn: Any
    downsample: Any
    upsample: Any

    def __init__(self, resnets: Sequence[tuple[int, int]], width: int, groups: int, *, attends: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(Resnet(inner, outer, width, groups) for inner, outer in resnets)
        self.attn = nn.ModuleList(Attention(outer, groups) for _, outer in resnets if attends)


class Ends(nn.Module):
    block_1: Any
    block_2: Any
    attn_1: Any

    def __init__(self, channels: int, width: int, groups: int) -> None:
        super().__init__()
        self.block_1, self.block_2 = (Resnet(channels, channels, width, groups) for _ in range(2))
        self.attn_1 = Attention(channels, groups)


class Model(nn.Module):
    """Levels of some widths, two blocks each; those in `attends` have attention."""

    temb: Any
    down: Any
    up: Any
    mid: Any

    def __init__(self, widths: Sequence[int], attends: set[int], *, colours: int = 3, groups: int = 32) -> None:
        super().__init__()
        base, time, blocks = widths[0], 4 * widths[0], 2
        self.width = base
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(base, time), nn.Linear(time, time)])
        self.conv_in = nn.Conv2d(colours, base, 3, padding=1)
        self.down, skips, last = nn.ModuleList(), [base], base
        for number, outer in enumerate(widths):
            level = Level(
                [(last if j == 0 else outer, outer) for j in range(blocks)], time, groups, attends=number in attends
            )
            skips += [outer] * blocks
            if number < len(widths) - 1:
                level.downsample = Downsample(outer)
                skips.append(outer)
            self.down.append(level)
            last = outer
        self.mid = Ends(last, time, groups)
        ups: list[Level] = []
        for number, outer in reversed([*enumerate(widths)]):
            sizes = []
            for _ in range(blocks + 1):
                sizes.append((last + skips.pop(), outer))
                last = outer
            level = Level(sizes, time, groups, attends=number in attends)
            if number:
                level.upsample = Upsample(outer)
            ups.insert(0, level)
        self.up = nn.ModuleList(ups)
        self.norm_out, self.conv_out = norm(last, groups), nn.Conv2d(last, colours, 3, padding=1)

    def forward(self, image: Tensor, timestep: Tensor) -> Tensor:
        half = self.width // 2
        angles = timestep[:, None].float() * torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1))
        first, second = self.temb.dense
        time = second(functional.silu(first(torch.cat([angles.sin(), angles.cos()], dim=1))))
        hidden = [self.conv_in(image)]
        for level in self.down:
            for number, block in enumerate(level.block):
                inner = block(hidden[-1], time)
                hidden.append(level.attn[number](inner) if len(level.attn) else inner)
            if hasattr(level, "downsample"):
                hidden.append(level.downsample(hidden[-1]))
        inner = self.mid.block_2(self.mid.attn_1(self.mid.block_1(hidden[-1], time)), time)
        for level in reversed(self.up):
            for number, block in enumerate(level.block):
                inner = block(torch.cat([inner, hidden.pop()], dim=1), time)
                inner = level.attn[number](inner) if len(level.attn) else inner
            inner = level.upsample(inner) if hasattr(level, "upsample") else inner
        return self.conv_out(functional.silu(self.norm_out(inner)))
