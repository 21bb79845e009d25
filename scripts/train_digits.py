"""Train and evaluate the bundled `digits` model, a Stable Diffusion pipeline in miniature.

python scripts/train_digits.py train --out DIR
python scripts/train_digits.py evaluate MODEL_DIR --images 500
"""

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from digits_figures import mean_distance, save_grid
from digits_model import (
    NAMES,
    Digits,
    Parts,
    augment,
    build_parts,
    load_splits,
    prompts_for,
    save_parts,
    to_eight,
    to_pictures,
)
from digits_training import LatentRecipe, Latents, cache_latents, draw_latents, fit, fit_averaged, noise_loss
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class VaeRecipe:
    """How the autoencoder is trained."""

    steps: int = 600
    batch: int = 32
    rate: float = 2e-3
    kl_weight: float = 1e-4
    seed: int = 1


RECIPE = LatentRecipe(steps=1500, batch=128, rate=1.5e-3, ema=0.998, drop=0.12, seed=2)


def train_vae(vae: AutoencoderKL, data: Digits, recipe: VaeRecipe) -> None:
    """Fit the autoencoder to augmented pictures: squared and absolute error plus a small KL term."""
    generator = torch.Generator().manual_seed(recipe.seed)
    pictures = to_pictures(data.images)

    def loss_at() -> Tensor:
        chosen = torch.randint(len(pictures), (recipe.batch,), generator=generator)
        clean = augment(pictures[chosen], generator)
        posterior = vae.encode(clean).latent_dist
        drawn = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=generator)
        decoded = vae.decode(drawn).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return functional.mse_loss(decoded, clean) + 0.1 * functional.l1_loss(decoded, clean) + recipe.kl_weight * kl

    vae.train()
    fit(vae.parameters(), loss_at, lambda step: None, recipe.steps, recipe.rate, 0.0, "vae")
    vae.eval()


@torch.no_grad()
def centre_latents(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Make latents zero-mean per channel and record their scale.

    The pipeline knows a scaling_factor but no shift, while sampling starts from zero-mean noise. Both ends of the
    latent space are 1x1 convolutions, so the shift moves into their biases without changing any reconstruction.
    """
    mean = vae.encode(pictures).latent_dist.mean.mean(dim=(0, 2, 3))
    vae.quant_conv.bias[:4] -= mean
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    posterior = vae.encode(pictures).latent_dist
    variance = posterior.mean.var() + posterior.var.mean()
    vae.register_to_config(scaling_factor=round(1 / variance.sqrt().item(), 4))


def prompt_table(parts: Parts) -> tuple[Tensor, Tensor]:
    """Token ids of every prompt by digit (10, prompts, 16) and of the empty prompt (16,)."""

    def ids(texts: list[str]) -> Tensor:
        limit = parts.tokenizer.model_max_length
        return parts.tokenizer(texts, padding="max_length", max_length=limit, return_tensors="pt").input_ids

    return torch.stack([ids(prompts_for(d)) for d in range(10)]), ids([""])[0]


def train_diffusion(parts: Parts, latents: Latents, recipe: LatentRecipe) -> None:
    """Fit U-Net and text encoder to predict the noise; both end with the averaged weights."""
    generator = torch.Generator().manual_seed(recipe.seed)
    table, empty = prompt_table(parts)

    def loss_at() -> Tensor:
        chosen = torch.randint(len(latents.labels), (recipe.batch,), generator=generator)
        which = torch.randint(table.shape[1], (recipe.batch,), generator=generator)
        dropped = torch.rand(recipe.batch, 1, generator=generator) < recipe.drop
        ids = torch.where(dropped, empty, table[latents.labels[chosen], which])
        clean = draw_latents(latents, chosen, generator)
        states = parts.text_encoder(ids).last_hidden_state
        return noise_loss(
            lambda noisy, times: parts.unet(noisy, times, states).sample, clean, parts.scheduler, generator
        )

    fit_averaged(nn.ModuleList([parts.unet, parts.text_encoder]).train(), loss_at, recipe)


def train(out: Path, vae_recipe: VaeRecipe, recipe: LatentRecipe) -> None:
    """Train everything from scratch on the training split and write the pipeline folder."""
    started = time.monotonic()
    data, _ = load_splits()
    parts = build_parts(seed=0)
    train_vae(parts.vae, data, vae_recipe)
    centre_latents(parts.vae, to_pictures(data.images))
    train_diffusion(parts, cache_latents(parts.vae, data, recipe), recipe)
    save_parts(parts, out)
    print(f"wrote {out} after {(time.monotonic() - started) / 60:.1f} minutes: {asdict(vae_recipe)} {asdict(recipe)}")


@torch.no_grad()
def sample(pipeline: StableDiffusionPipeline, form: str, digit: int, count: int, guidance: float, steps: int) -> Tensor:
    """Pictures (count, 3, 64, 64) in -1..1 of one digit; image i of digit d always starts from seed 1000 d + i."""
    generators = [torch.Generator().manual_seed(1000 * digit + i) for i in range(count)]
    prompts = [form.format(NAMES[digit], digit)] * count
    call = {"num_inference_steps": steps, "guidance_scale": guidance, "generator": generators, "output_type": "pt"}
    return 2 * pipeline(prompts, **call).images - 1


def score(by_digit: list[Tensor], classifier: SVC, train_data: Digits) -> dict[str, object]:
    """Read each digit's pictures (N, 3, 64, 64) with the classifier and compare their spread with the real one."""
    small = [to_eight(p) for p in by_digit]
    real = [train_data.images[train_data.labels == d] for d in range(10)]
    right = [float((classifier.predict(s.flatten(1).numpy()) == d).mean()) for d, s in enumerate(small)]
    ratio = [mean_distance(s) / mean_distance(r) for s, r in zip(small, real, strict=True)]
    nearest = torch.cdist(torch.cat(small).flatten(1), train_data.images.flatten(1)).min(1).values
    return {
        "accuracy": sum(right) / 10,
        "accuracy_by_digit": [round(r, 3) for r in right],
        "diversity_ratio": sum(ratio) / 10,
        "diversity_ratio_min": min(ratio),
        "diversity_ratio_by_digit": [round(r, 3) for r in ratio],
        "nearest_training_image": nearest.mean().item(),
    }


def real_figures(
    pipeline: StableDiffusionPipeline, classifier: SVC, train_data: Digits, test: Digits
) -> dict[str, float]:
    """What the classifier and the autoencoder make of the real test split."""
    pictures = to_pictures(test.images)
    with torch.no_grad():
        rebuilt = pipeline.vae.decode(pipeline.vae.encode(pictures).latent_dist.mean).sample

    def read(images: Tensor) -> float:
        return float(classifier.score(images.flatten(1).numpy(), test.labels.numpy()))

    nearest = torch.cdist(test.images.flatten(1), train_data.images.flatten(1)).min(1).values
    return {
        "classifier_test_accuracy": read(test.images),
        "classifier_test_accuracy_through_vae": read(to_eight(rebuilt)),
        "vae_psnr_db": 10 * math.log10(4 / functional.mse_loss(rebuilt.clamp(-1, 1), pictures).item()),
        "nearest_training_image_of_test_images": nearest.mean().item(),
    }


def evaluate(folder: Path, images: int, scales: list[float], steps: int, form: str, grid: Path | None) -> None:
    """Print the figures of a saved folder as JSON, its half-precision weights computed in single precision."""
    train_data, test = load_splits()
    classifier = SVC(C=10, gamma=0.001).fit(train_data.images.flatten(1).numpy(), train_data.labels.numpy())
    pipeline = StableDiffusionPipeline.from_pretrained(folder).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    report: dict[str, object] = dict(real_figures(pipeline, classifier, train_data, test))
    for scale in scales:
        by_digit = [sample(pipeline, form, d, images // 10, scale, steps) for d in range(10)]
        report[f"guidance {scale}"] = score(by_digit, classifier, train_data)
        if grid is not None:
            save_grid(by_digit, grid.with_stem(f"{grid.stem}-{scale}"))
    print(json.dumps(report, indent=1))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train from scratch and write the pipeline folder")
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--vae-steps", type=int, default=VaeRecipe.steps)
    training.add_argument("--steps", type=int, default=RECIPE.steps)
    judging = commands.add_parser("evaluate", help="measure a pipeline folder")
    judging.add_argument("model", type=Path)
    judging.add_argument("--images", type=int, default=500)
    judging.add_argument("--guidance", type=float, nargs="+", default=[2.5, 7.5])
    judging.add_argument("--steps", type=int, default=50)
    judging.add_argument("--prompt", default="a handwritten {}", help="{} or {0} is the name, {1} the numeral")
    judging.add_argument("--grid", type=Path, help="also save contact sheets beside this PNG path")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.command == "train":
        train(args.out, VaeRecipe(steps=args.vae_steps), replace(RECIPE, steps=args.steps))
    else:
        evaluate(args.model, args.images, args.guidance, args.steps, args.prompt, args.grid)


if __name__ == "__main__":
    main()
