"""Data, prompts and untrained parts of the bundled `digits` pipeline.

Shapes used throughout: N images, eight-pixel digits (N, 8, 8) valued 0..16 as scikit-learn gives them,
pictures (N, 3, 64, 64) valued -1..1, latents (N, 4, 8, 8), token ids (N, 16).
"""

import json
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SPLIT_SEED = 0
PICTURE = 64
TOKENS = 16
TEXT_WIDTH = 64
START, END = "<|startoftext|>", "<|endoftext|>"

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    "a handwritten {}",
    "a handwritten {}",  # twice: it is the form the documentation uses
    "handwritten {}",
    "a handwritten digit {}",
    "the handwritten number {}",
    "a photo of a handwritten {}",
    "the digit {}",
    "the number {}",
    "a {}",
    "{}",
)


@dataclass(frozen=True)
class Digits:
    """One split of the real data: images (N, 8, 8) float in 0..16, labels (N,) int64."""

    images: Tensor
    labels: Tensor


def load_splits() -> tuple[Digits, Digits]:
    """The fixed, stratified 80/20 split of load_digits: (train, test)."""
    data = load_digits()
    parts = train_test_split(data.images, data.target, test_size=0.2, random_state=SPLIT_SEED, stratify=data.target)
    train_x, test_x, train_y, test_y = (torch.from_numpy(p) for p in parts)
    return Digits(train_x.float(), train_y.long()), Digits(test_x.float(), test_y.long())


def to_pictures(images: Tensor, side: int = PICTURE) -> Tensor:
    """Eight-pixel digits (N, 8, 8) in 0..16 to dark-on-white pictures (N, 3, side, side) in -1..1."""
    large = functional.interpolate(images[:, None] / 16, size=(side, side), mode="bicubic", align_corners=False)
    return (1 - 2 * large.clamp(0, 1)).expand(-1, 3, -1, -1).contiguous()


def to_eight(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in -1..1 to the data's own form (N, 8, 8) in 0..16, by area averaging."""
    grey = functional.adaptive_avg_pool2d(pictures.mean(1, keepdim=True), 8)[:, 0]
    return (8 * (1 - grey)).clamp(0, 16)


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Shift by up to 2 of 64 pixels, turn by up to 5 degrees, scale by up to 5 %: (N, 3, H, W) to the same."""
    n = pictures.shape[0]
    shift_x, shift_y, turn, zoom = (2 * torch.rand(4, n, generator=generator) - 1).unbind(0)
    angle, size = turn * torch.pi * 5 / 180, 1 + 0.05 * zoom
    cos, sin = size * angle.cos(), size * angle.sin()
    reach = 2 * 2 / PICTURE  # affine_grid measures in half pictures
    rows = torch.stack([cos, -sin, reach * shift_x, sin, cos, reach * shift_y], dim=1)
    grid = functional.affine_grid(rows.view(n, 2, 3), list(pictures.shape), align_corners=False)
    # Padding is zero in grid_sample, so paper is moved to zero and back.
    return functional.grid_sample(pictures - 1, grid, mode="bilinear", align_corners=False) + 1


def prompts_for(digit: int) -> list[str]:
    """Every training prompt of one digit, by name and by numeral."""
    return [t.format(word) for word in (NAMES[digit], str(digit)) for t in TEMPLATES]


def learn_merges(words: Counter[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that make each given word one token; ties are broken by the pair itself."""
    spelled = {(*w[:-1], w[-1] + "</w>"): count for w, count in words.items()}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for symbols, count in spelled.items():
            for pair in pairwise(symbols):
                pairs[pair] += count
        if not pairs:
            return merges
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        spelled = {_merged(symbols, best): count for symbols, count in spelled.items()}


def _merged(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)


def build_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer whose vocabulary is all bytes, the words of the training prompts and the two marks."""
    words = Counter(w for d in range(10) for p in prompts_for(d) for w in p.split())
    merges = learn_merges(words)
    alphabet = sorted(ByteLevel.alphabet())
    pieces = [*alphabet, *(c + "</w>" for c in alphabet), *(a + b for a, b in merges), START, END]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS)


def write_vocabulary(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write vocab.json and merges.txt, which releases before transformers 5 read in place of tokenizer.json."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(m) for m in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers, 64 wide: ids (N, 16) to states (N, 16, 64)."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModel(config)
    # CLIP starts its embeddings at 0.02, where the layers above drown the words: all prompts then look alike, and
    # after 600 steps the U-Net still ignored them.
    nn.init.normal_(encoder.get_input_embeddings().weight, std=1.0)
    return encoder


def build_vae() -> AutoencoderKL:
    """Pictures (N, 3, 64, 64) to latents (N, 4, 8, 8) and back: eightfold, as in Stable Diffusion."""
    return AutoencoderKL(
        sample_size=PICTURE,
        block_out_channels=(16, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
    )


def build_unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's topology, narrowed; widths keep every head's size a multiple of eight."""
    return UNet2DConditionModel(
        sample_size=PICTURE // 8,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(32, 48, 64, 96),
        layers_per_block=2,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=2,  # diffusers reads this as the number of heads here
        norm_num_groups=8,
    )


def build_scheduler() -> DDIMScheduler:
    """DDIM with Stable Diffusion 1.5's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@dataclass(frozen=True)
class Parts:
    """The five parts of the pipeline, trained together or one after another."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler


def build_parts(seed: int) -> Parts:
    """All parts with freshly initialised weights."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    return Parts(build_vae(), build_unet(), build_text_encoder(tokenizer), tokenizer, build_scheduler())


def save_parts(parts: Parts, folder: Path) -> None:
    """Write the parts as a StableDiffusionPipeline folder in half precision; the parts themselves change too."""
    pipeline = StableDiffusionPipeline(
        vae=parts.vae.half(),
        text_encoder=parts.text_encoder.half(),
        tokenizer=parts.tokenizer,
        unet=parts.unet.half(),
        scheduler=parts.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    write_vocabulary(parts.tokenizer, folder / "tokenizer")
    # Loaded without a dtype, diffusers widens half-precision weights to single while transformers 5 keeps what its
    # config names; the two parts would then disagree, so the config names single precision.
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}, indent=2) + "\n")
