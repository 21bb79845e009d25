"""Latent diffusion of classes with the names of its first code, written from the papers: what a checkpoint is made of.

The U-Net (Dhariwal and Nichol 2021, with the transformers of Rombach et al. 2022), the VQ model and the classes.
"""

# Modules of torch give Any.
# mypy: disable-error-code="no-any-return"

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.models.originals.vq_autoencoder import VQAutoencoder


class Resnet(nn.Module):
    def __init__(self, inner: int, outer: int, time: int, groups: int) -> None:
        super().__init__()
        first, second = nn.Conv2d(inner, outer, 3, padding=1), nn.Conv2d(outer, outer, 3, padding=1)
        self.in_layers = nn.Sequential(nn.GroupNorm(groups, inner), nn.SiLU(), first)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, outer))
        self.out_layers = nn.Sequential(nn.GroupNorm(groups, outer), nn.SiLU(), nn.Dropout(0.0), second)
        self.skip_connection = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, image: Tensor, time: Tensor, context: Tensor) -> Tensor:
        hidden = self.in_layers(image) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(image) + self.out_layers(hidden)


class Attention(nn.Module):
    """Of one head."""

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = (nn.Linear(context, width, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0.0))

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        query, key, value = self.to_q(tokens), self.to_k(context), self.to_v(context)
        weights = (query @ key.transpose(1, 2) / math.sqrt(query.shape[2])).softmax(dim=2)
        return self.to_out(weights @ value)


class Gated(nn.Module):
    def __init__(self, width: int, outer: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * outer)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, gate = self.proj(tokens).chunk(2, dim=2)
        return hidden * functional.gelu(gate)


class Block(nn.Module):
    ff: Any

    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(width, width), Attention(width, context)
        self.ff = nn.Module()
        self.ff.net = nn.Sequential(Gated(width, 4 * width), nn.Dropout(0.0), nn.Linear(4 * width, width))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        normed = self.norm1(tokens)
        tokens = tokens + self.attn1(normed, normed)
        tokens = tokens + self.attn2(self.norm2(tokens), context)
        return tokens + self.ff.net(self.norm3(tokens))


class Transformer(nn.Module):
    def __init__(self, width: int, context: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.proj_in, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(2))
        self.transformer_blocks = nn.ModuleList([Block(width, context)])

    def forward(self, image: Tensor, time: Tensor, context: Tensor) -> Tensor:
        tokens = self.proj_in(self.norm(image)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return image + self.proj_out(tokens.transpose(1, 2).reshape(image.shape))


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, image: Tensor, time: Tensor, context: Tensor) -> Tensor:
        return self.op(image)


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, image: Tensor, time: Tensor, context: Tensor) -> Tensor:
        return self.conv(functional.interpolate(image, scale_factor=2.0))


class Convolution(nn.Conv2d):
    def forward(self, image: Tensor, time: Tensor, context: Tensor) -> Tensor:  # type: ignore[override]  # as its neighbours
        return super().forward(image)


class UNet(nn.Module):
    """Levels of some widths, `resnets` of each; those in `attends` have transformers."""

    def __init__(
        self, widths: Sequence[int], attends: set[int], *, context: int, groups: int, resnets: int = 2, colours: int = 3
    ) -> None:
        super().__init__()
        self.width, time = widths[0], 4 * widths[0]
        self.time_embed = nn.Sequential(nn.Linear(self.width, time), nn.SiLU(), nn.Linear(time, time))

        def layers(inner: int, outer: int, number: int) -> list[nn.Module]:
            attention = [Transformer(outer, context, groups)] if number in attends else []
            return [Resnet(inner, outer, time, groups), *attention]

        blocks: list[list[nn.Module]] = [[Convolution(colours, self.width, 3, padding=1)]]
        skips, last = [self.width], self.width
        for number, outer in enumerate(widths):
            for _ in range(resnets):
                blocks.append(layers(last, outer, number))
                skips.append(last := outer)
            if number < len(widths) - 1:
                blocks.append([Downsample(last)])
                skips.append(last)
        self.input_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        first, second = (Resnet(last, last, time, groups) for _ in range(2))
        self.middle_block = nn.ModuleList([first, Transformer(last, context, groups), second])
        blocks = []
        for number, outer in reversed([*enumerate(widths)]):
            for i in range(resnets + 1):
                blocks.append(layers(last + skips.pop(), outer, number))
                last = outer
                if number and i == resnets:
                    blocks[-1].append(Upsample(last))
        self.output_blocks = nn.ModuleList(map(nn.ModuleList, blocks))
        end = nn.Conv2d(last, colours, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(groups, last), nn.SiLU(), end)

    def forward(self, image: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        half = self.width // 2
        angles = timestep[:, None].float() * torch.exp(-math.log(10_000) * torch.arange(half) / half)
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        skips: list[Tensor] = []
        for block in self.input_blocks:
            image = _through(block, image, time, context)
            skips.append(image)
        image = _through(self.middle_block, image, time, context)
        for block in self.output_blocks:
            image = _through(block, torch.cat([image, skips.pop()], dim=1), time, context)
        return self.out(image)


def _through(layers: Any, image: Tensor, time: Tensor, context: Tensor) -> Tensor:
    for layer in layers:
        image = layer(image, time, context)
    return image


class LatentDiffusion(nn.Module):
    """All that a checkpoint holds.

    Args:
        unet: the config of a UNet2DConditionModel, whose first level alone has no transformers.
        vq_model: the config of a VQModel.
        classes: how many there are, none among them.
    """

    model: Any
    cond_stage_model: Any

    def __init__(self, unet: dict[str, Any], vq_model: dict[str, Any], classes: int) -> None:
        super().__init__()
        widths, context = unet["block_out_channels"], unet["cross_attention_dim"]
        self.model, self.cond_stage_model = nn.Module(), nn.Module()
        self.model.diffusion_model = UNet(
            widths, {*range(1, len(widths))}, context=context, groups=unet["norm_num_groups"]
        )
        self.first_stage_model = VQAutoencoder(
            vq_model["block_out_channels"], codes=vq_model["num_vq_embeddings"], groups=vq_model["norm_num_groups"]
        )
        self.cond_stage_model.embedding = nn.Embedding(classes, context)
        # Those of the schedule are saved with the weights.
        self.register_buffer("betas", torch.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)

    def forward(self, latents: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        return self.model.diffusion_model(latents, timestep, self.cond_stage_model.embedding(label)[:, None])
