"""Train and evaluate the bundled `digits-dit` model, a class-conditional DiT on the latents of `digits`.

python scripts/train_digits_dit.py train --out DIR
python scripts/train_digits_dit.py evaluate MODEL_DIR --images 1000
"""

import argparse
import json
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from shutil import copyfile

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from digits_figures import judge, real_figures, save_grid
from digits_model import NAMES, load_splits
from digits_training import (
    LatentRecipe,
    Latents,
    cache_latents,
    draw_latents,
    fit_averaged,
    minutes_since,
    noise_loss,
    now,
)
from torch import Tensor, nn

RECIPE = LatentRecipe(steps=4000, batch=128, rate=1.5e-3, ema=0.998, drop=0.1, seed=2)
DIGITS = Path(__file__).parents[1] / "deepcache_trt" / "models" / "digits"
CLASSES = 1000  # DiTPipeline asks for class 1000 when it wants none, so there must be as many before it


def build_transformer() -> DiTTransformer2DModel:
    """DiT's topology, narrowed: latents (N, 4, 8, 8) as 16 tokens of width 64 through twelve blocks."""
    model = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        num_layers=12,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
    )
    # DiT begins as the identity (adaLN-Zero), and what embeds time and class is one for all blocks; diffusers keeps a
    # copy of it in each.
    for block in model.transformer_blocks:
        block.norm1.emb = model.transformer_blocks[0].norm1.emb
    for layer in (*(block.norm1.linear for block in model.transformer_blocks), model.proj_out_1, model.proj_out_2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def build_scheduler() -> DDIMScheduler:
    """DDIM with the noise schedule that DiT is published with."""
    return DDIMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False)


def train_transformer(
    model: DiTTransformer2DModel, latents: Latents, scheduler: DDIMScheduler, recipe: LatentRecipe
) -> None:
    """Fit it to predict the noise; it ends with the averaged weights."""
    generator = torch.Generator().manual_seed(recipe.seed)

    def loss_at() -> Tensor:
        chosen = torch.randint(len(latents.labels), (recipe.batch,), generator=generator)
        dropped = torch.rand(recipe.batch, generator=generator) < recipe.drop
        labels = torch.where(dropped, CLASSES, latents.labels[chosen])
        clean = draw_latents(latents, chosen, generator)
        return noise_loss(
            lambda noisy, times: model(noisy, timestep=times, class_labels=labels).sample, clean, scheduler, generator
        )

    model.eval()  # in training mode every block would drop labels of its own
    fit_averaged(model, loss_at, recipe)


@torch.no_grad()
def save(model: DiTTransformer2DModel, vae: AutoencoderKL, scheduler: DDIMScheduler, folder: Path) -> None:
    """Write a DiTPipeline folder in half precision; the parts themselves change too."""
    shared = model.transformer_blocks[0].norm1.emb
    rows = shared.class_embedder.embedding_table.weight
    rows[len(NAMES) : CLASSES] = rows[CLASSES]  # what is no digit is any digit
    for block in model.transformer_blocks[1:]:
        block.norm1.emb = deepcopy(shared)
    DiTPipeline(transformer=model.half(), vae=vae.half(), scheduler=scheduler).save_pretrained(folder)
    copyfile(DIGITS / "vae" / "config.json", folder / "vae" / "config.json")  # diffusers adds where it was loaded from
    index = folder / "model_index.json"
    labels = {"id2label": {str(digit): f"{name}, {digit}" for digit, name in enumerate(NAMES)}}
    index.write_text(json.dumps(json.loads(index.read_text()) | labels, indent=2) + "\n")


def train(out: Path, recipe: LatentRecipe) -> None:
    """Train the transformer from scratch on the training split and write the pipeline folder."""
    started = now()
    data, _ = load_splits()
    vae = AutoencoderKL.from_pretrained(DIGITS / "vae", dtype=torch.float32).eval()
    torch.manual_seed(0)
    model, scheduler = build_transformer(), build_scheduler()
    train_transformer(model, cache_latents(vae, data, recipe), scheduler, recipe)
    save(model, vae, scheduler, out)
    print(f"wrote {out} after {minutes_since(started)}: {asdict(recipe)}")


def sample(pipeline: DiTPipeline, digit: int, count: int, guidance: float, steps: int) -> Tensor:
    """Pictures (count, 3, 64, 64) in -1..1 of one digit; image i of digit d always starts from seed 1000 d + i."""
    generators = [torch.Generator().manual_seed(1000 * digit + i) for i in range(count)]
    call = {"num_inference_steps": steps, "guidance_scale": guidance, "generator": generators, "output_type": "pt"}
    return 2 * pipeline([digit] * count, **call).images - 1


def evaluate(folder: Path, images: int, scales: list[float], steps: list[int], grid: Path | None) -> None:
    """Print the figures of a saved folder as JSON, its half-precision weights computed in single precision."""
    pipeline = DiTPipeline.from_pretrained(folder).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    report: dict[str, object] = {"real": real_figures()}
    labels = torch.arange(10).repeat_interleave(images // 10)
    for count in steps:
        for scale in scales:
            by_digit = [sample(pipeline, d, images // 10, scale, count) for d in range(10)]
            report[f"guidance {scale}, {count} steps"] = judge(torch.cat(by_digit), labels)
            if grid is not None:
                save_grid(by_digit, grid.with_stem(f"{grid.stem}-{scale}-{count}"))
    print(json.dumps(report, indent=1))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train", help="train from scratch and write the pipeline folder")
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--steps", type=int, default=RECIPE.steps)
    judging = commands.add_parser("evaluate", help="measure a pipeline folder")
    judging.add_argument("model", type=Path)
    judging.add_argument("--images", type=int, default=1000)
    judging.add_argument("--guidance", type=float, nargs="+", default=[4.0, 1.5])
    judging.add_argument("--steps", type=int, nargs="+", default=[50, 20])
    judging.add_argument("--grid", type=Path, help="also save contact sheets beside this PNG path")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.command == "train":
        train(args.out, replace(RECIPE, steps=args.steps))
    else:
        evaluate(args.model, args.images, args.guidance, args.steps, args.grid)


if __name__ == "__main__":
    main()
