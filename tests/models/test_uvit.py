"""U-ViT in a definition of ours: the names of its first code, and its computation, spelt out once more."""

import math
from typing import Any

import torch
from torch.nn import functional

from deepcache_trt.models.definitions.uvit import UViT


def model() -> Any:
    torch.manual_seed(0)
    made = UViT(sample_size=4, num_attention_heads=2, attention_head_dim=4, num_layers=5, num_classes=11)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def test_its_parameters_have_the_names_of_the_first_code() -> None:
    names = set(model().state_dict())
    block = {
        f"{name}.{kind}"
        for name in ("norm1", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    }
    block.add("attn.qkv.weight")
    expected = {"pos_embed", "label_emb.weight"}
    expected |= {
        f"{name}.{kind}"
        for name in ("patch_embed.proj", "norm", "decoder_pred", "final_layer")
        for kind in ("weight", "bias")
    }
    expected |= {
        f"{place}.{name}"
        for place in ("in_blocks.0", "in_blocks.1", "mid_block", "out_blocks.0", "out_blocks.1")
        for name in block
    }
    expected |= {f"out_blocks.{i}.skip_linear.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    assert names == expected


@torch.no_grad()
def test_it_computes_what_the_paper_says_pixel_by_pixel_and_head_by_head() -> None:
    made = model()
    weights = made.state_dict()
    latents, timestep, label = torch.randn(4, 4, 4), 700.0, 3

    def linear(tokens: Any, name: str) -> Any:
        product = tokens @ weights[f"{name}.weight"].T
        return product + weights[f"{name}.bias"] if f"{name}.bias" in weights else product

    def normed(tokens: Any, name: str) -> Any:
        centred = tokens - tokens.mean(1, keepdim=True)
        deviation = centred.pow(2).mean(1, keepdim=True).add(1e-5).sqrt()
        return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def block(tokens: Any, name: str) -> Any:
        query, key, value = linear(normed(tokens, f"{name}.norm1"), f"{name}.attn.qkv").split(8, dim=1)
        heads = [slice(0, 4), slice(4, 8)]
        mixed = [(query[:, h] @ key[:, h].T / math.sqrt(4)).softmax(1) @ value[:, h] for h in heads]
        tokens = tokens + linear(torch.cat(mixed, dim=1), f"{name}.attn.proj")
        return tokens + linear(
            functional.gelu(linear(normed(tokens, f"{name}.norm2"), f"{name}.mlp.fc1")), f"{name}.mlp.fc2"
        )

    angles = [timestep * 10_000 ** (-i / 4) for i in range(4)]
    rows = [torch.tensor([*map(math.cos, angles), *map(math.sin, angles)]), weights["label_emb.weight"][label]]
    kernel, bias = weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"]
    for y in (0, 2):
        for x in (0, 2):
            rows.append((kernel * latents[:, y : y + 2, x : x + 2]).sum((1, 2, 3)) + bias)
    tokens = torch.stack(rows) + weights["pos_embed"][0]
    first = block(tokens, "in_blocks.0")
    second = block(first, "in_blocks.1")
    tokens = block(second, "mid_block")
    for i, skipped in enumerate((second, first)):
        tokens = block(linear(torch.cat([tokens, skipped], dim=1), f"out_blocks.{i}.skip_linear"), f"out_blocks.{i}")
    patches = linear(normed(tokens, "norm"), "decoder_pred")[2:]
    image = torch.zeros(4, 4, 4)
    for number, patch in enumerate(patches):
        y, x = 2 * (number // 2), 2 * (number % 2)
        for channel in range(4):
            image[channel, y : y + 2, x : x + 2] = patch[channel::4].view(2, 2)
    expected = functional.conv2d(image[None], weights["final_layer.weight"], weights["final_layer.bias"], padding=1)
    (found,) = made(latents[None], torch.tensor([timestep]), torch.tensor([label]), return_dict=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
