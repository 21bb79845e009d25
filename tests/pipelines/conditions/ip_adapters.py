"""IP-Adapters at test size, as the checkpoints that `load_ip_adapter` takes, and pipelines that have them."""

from collections.abc import Callable
from typing import Any

import torch

from tests.pipelines import micro

KINDS = ("plain", "plus", "full face", "face id")
WIDTH = 32  # of the embeddings of an image
TOKENS = 5  # of an image, where its patches are embedded


def adapter(unet: Any, kind: str = "plain", *, seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    """A checkpoint with seeded weights for a U-Net."""
    generator = torch.Generator().manual_seed(seed)
    width = unet.config.cross_attention_dim

    def matrix(*shape: int) -> torch.Tensor:
        values: torch.Tensor = torch.randn(*shape, generator=generator) * shape[-1] ** -0.5
        return values

    layers = [path for path in unet.attn_processors if path.endswith("attn2.processor")]
    attention = {}
    for i, path in enumerate(layers):
        inner = unet.get_submodule(path.removesuffix(".processor")).to_k.out_features
        for name in ("to_k_ip", "to_v_ip"):
            attention[f"{2 * i + 1}.{name}.weight"] = matrix(inner, width)
    return {"image_proj": _projection(kind, width, matrix), "ip_adapter": attention}


def _projection(kind: str, width: int, matrix: Callable[..., torch.Tensor]) -> dict[str, torch.Tensor]:
    """The layers between the embeddings and the tokens, by the names of the published checkpoints."""

    def layer(name: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": matrix(rows, columns), f"{name}.bias": matrix(rows)}

    def norm(name: str, size: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": torch.ones(size), f"{name}.bias": matrix(size)}

    match kind:
        case "plain":
            return {**layer("proj", 4 * width, WIDTH), **norm("norm", width)}
        case "full face":
            return {**layer("proj.0", WIDTH, WIDTH), **layer("proj.2", width, WIDTH), **norm("proj.3", width)}
        case "face id":
            return {**layer("proj.0", 2 * WIDTH, WIDTH), **layer("proj.2", 4 * width, 2 * WIDTH), **norm("norm", width)}
    hidden, inner = 32, 64
    assert kind == "plus"
    found = {"latents": matrix(1, 4, hidden), **layer("proj_in", hidden, WIDTH)}
    found |= {**layer("proj_out", width, hidden), **norm("norm_out", width)}
    for i in range(4):
        found |= {**norm(f"layers.{i}.0.norm1", hidden), **norm(f"layers.{i}.0.norm2", hidden)}
        found |= {**norm(f"layers.{i}.1.0", hidden)}
        shapes = {"0.to_q": (inner, hidden), "0.to_kv": (2 * inner, hidden), "0.to_out": (hidden, inner)}
        shapes |= {"1.1": (4 * hidden, hidden), "1.3": (hidden, 4 * hidden)}
        found |= {f"layers.{i}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
    return found


def with_adapters(name: str, *kinds: str) -> Any:
    """The plain pipeline `name` of `micro`, on a U-Net of its own, with an adapter of each kind."""
    pipe = micro.with_own(micro.STRAIGHT[name], "unet")
    if kinds:
        load(pipe, *kinds)
    return pipe


def load(pipe: Any, *kinds: str) -> None:
    """Load an adapter of each kind into a pipeline."""
    checkpoints = [adapter(pipe.unet, kind, seed=seed) for seed, kind in enumerate(kinds)]
    names = [""] * len(kinds)
    pipe.load_ip_adapter(checkpoints, subfolder=names, weight_name=names, image_encoder_folder=None)


def embeds(*kinds: str, images: int = 1, seed: int = 0, prompts: int = 1) -> list[torch.Tensor]:
    """Embeddings of images as `ip_adapter_image_embeds` takes them, [without and with guidance, images, …] float32."""
    generator = torch.Generator().manual_seed(seed)
    # Plus and full face look at the image's patches.
    shapes = [(TOKENS, WIDTH) if kind in ("plus", "full face") else (WIDTH,) for kind in kinds]
    return [torch.randn(2 * prompts, images, *shape, generator=generator) for shape in shapes]
