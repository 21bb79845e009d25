"""DiT with the names of its first code, written from the paper (Peebles and Xie 2023): what a checkpoint is made of."""

# Modules of torch give Any.
# mypy: disable-error-code="no-any-return"

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def positions(side: int, width: int) -> Tensor:
    """[1, side², width]: half of the channels for columns, half for rows, sines before cosines."""
    rates = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*[torch.arange(side, dtype=torch.float64)] * 2, indexing="ij")
    halves = [axis.reshape(-1, 1) * rates for axis in (columns, rows)]
    return torch.cat([wave for half in halves for wave in (half.sin(), half.cos())], dim=1)[None].float()


class Patches(nn.Module):
    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, latents: Tensor) -> Tensor:
        return self.proj(latents).flatten(2).transpose(1, 2)


class Timestep(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timestep: Tensor) -> Tensor:
        # The first code divides by 128. Every model of this class in diffusers has 127 here, that of the published
        # weights too, so a converted model draws what that one draws.
        rates = torch.exp(-math.log(10_000) * torch.arange(128) / 127)
        angles = timestep[:, None].float() * rates
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))


class Label(nn.Module):
    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)

    def forward(self, label: Tensor) -> Tensor:
        return self.embedding_table(label)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(tokens), approximate="tanh"))


def modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    normed = functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
    return normed * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(width, heads), Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.adaLN_modulation(condition).chunk(6, dim=1)
        tokens = tokens + gate[:, None] * self.attn(modulated(tokens, shift, scale))
        return tokens + mlp_gate[:, None] * self.mlp(modulated(tokens, mlp_shift, mlp_scale))


class Final(nn.Module):
    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        return self.linear(modulated(tokens, *self.adaLN_modulation(condition).chunk(2, dim=1)))


class DiT(nn.Module):
    """Of the size that the config of a DiTTransformer2DModel says."""

    def __init__(self, config: dict[str, int]) -> None:
        super().__init__()
        heads, self.patch = config["num_attention_heads"], config["patch_size"]
        width, self.side = heads * config["attention_head_dim"], config["sample_size"] // self.patch
        self.channels = config["out_channels"]
        self.x_embedder = Patches(config["in_channels"], width, self.patch)
        self.t_embedder, self.y_embedder = Timestep(width), Label(config["num_embeds_ada_norm"], width)
        self.pos_embed = nn.Parameter(positions(self.side, width), requires_grad=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(config["num_layers"]))
        self.final_layer = Final(width, self.patch**2 * self.channels)

    def forward(self, latents: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        tokens = self.x_embedder(latents) + self.pos_embed
        condition = self.t_embedder(timestep) + self.y_embedder(label)
        for block in self.blocks:
            tokens = block(tokens, condition)
        patches = self.final_layer(tokens, condition).unflatten(1, (self.side, self.side))
        patches = patches.unflatten(3, (self.patch, self.patch, self.channels))
        return torch.einsum("nhwpqc->nchpwq", patches).flatten(4, 5).flatten(2, 3)
