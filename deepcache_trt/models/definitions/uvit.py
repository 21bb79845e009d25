"""U-ViT (Bao et al. 2023): a transformer whose first blocks are connected with its last ones, as in a U-Net.

diffusers has no such model for classes. This one is called as its DiT is, so that `DiTPipeline` draws with it, and its
parameters have the names of the first code (baofff/U-ViT). By `ModelMixin` in this module diffusers finds out how the
model is loaded.
"""

import math
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn
from torch.nn import functional

# Beside the patches there are a token of the timestep and one of the label.
_EXTRAS = 2


class Attention(nn.Module):
    """Self-attention over tokens [B, L, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """The same shape."""
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        output: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return output


class Mlp(nn.Module):
    """Two layers, applied to each token [B, L, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """The same shape."""
        output: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return output


class Block(nn.Module):
    """One layer; those of the second half are given the tokens of one of the first."""

    def __init__(self, width: int, heads: int, *, has_skip: bool) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width)
        self.skip_linear = nn.Linear(2 * width, width) if has_skip else None

    def forward(self, tokens: Tensor, skipped: Tensor | None = None) -> Tensor:
        """Tokens [B, L, width] from such tokens, and from those that skipped the layers between."""
        if self.skip_linear is not None and skipped is not None:
            tokens = self.skip_linear(torch.cat([tokens, skipped], dim=2))
        tokens = tokens + self.attn(self.norm1(tokens))
        output: Tensor = tokens + self.mlp(self.norm2(tokens))
        return output


class Patches(nn.Module):
    """Latents as tokens."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, latents: Tensor) -> Tensor:
        """[B, L, width] from [B, C, H, W]."""
        tokens: Tensor = self.proj(latents).flatten(2).transpose(1, 2)
        return tokens


class UViT(ModelMixin, ConfigMixin):
    """Of classes, for latents of one size."""

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers has no types here
    def __init__(
        self,
        sample_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        out_channels: int = 4,
        num_attention_heads: int = 16,
        attention_head_dim: int = 72,
        num_layers: int = 28,
        num_classes: int = 1001,
    ) -> None:
        """Untrained; the last class stands for none."""
        super().__init__()  # type: ignore[no-untyped-call]
        width, count = num_attention_heads * attention_head_dim, num_layers // 2
        self.patch_embed, self.label_emb = Patches(in_channels, width, patch_size), nn.Embedding(num_classes, width)
        self.pos_embed = nn.Parameter(torch.empty(1, _EXTRAS + (sample_size // patch_size) ** 2, width))
        nn.init.normal_(self.pos_embed, std=0.02)
        self.in_blocks, self.out_blocks = (
            nn.ModuleList(Block(width, num_attention_heads, has_skip=has_skip) for _ in range(count))
            for has_skip in (False, True)
        )
        self.mid_block = Block(width, num_attention_heads, has_skip=False)
        self.norm = nn.LayerNorm(width)
        self.decoder_pred = nn.Linear(width, patch_size**2 * in_channels)
        self.final_layer = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor, return_dict: bool = True) -> Any:
        """Predict the noise.

        Args:
            hidden_states: [B, C, H, W], the noisy latents.
            timestep: [B].
            class_labels: [B] int64.
            return_dict: a `Transformer2DModelOutput`, or a tuple of its `sample` [B, C, H, W].
        """
        config: Any = self.config
        tokens = self.patch_embed(hidden_states)
        time = sinusoids(timestep, tokens.shape[2]).to(tokens.dtype)[:, None]
        tokens = torch.cat([time, self.label_emb(class_labels)[:, None], tokens], dim=1) + self.pos_embed
        skipped = []
        for block in self.in_blocks:
            tokens = block(tokens)
            skipped.append(tokens)
        tokens = self.mid_block(tokens)
        for block in self.out_blocks:
            tokens = block(tokens, skipped.pop())
        patches = self.decoder_pred(self.norm(tokens))[:, _EXTRAS:]
        side, patch = config.sample_size // config.patch_size, config.patch_size
        # The channels of a patch come after its rows and columns.
        patches = patches.reshape(-1, side, side, patch, patch, config.in_channels)
        image = patches.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        sample = self.final_layer(image)
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)


def sinusoids(timestep: Tensor, width: int) -> Tensor:
    """[B, width] float32: cosines, then sines, of frequencies from 1 down to 1/10,000."""
    rates = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=timestep.device) / (width // 2))
    angles = timestep[:, None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)
