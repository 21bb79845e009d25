"""Train and evaluate the bundled `digits-ddpm` model, an unconditional U-Net on pixels.

python scripts/train_digits_ddpm.py train --out DIR
python scripts/train_digits_ddpm.py evaluate MODEL_DIR --images 1000
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from digits_figures import judge, real_figures, save_grid
from digits_model import Digits, augment, load_splits, to_pictures
from digits_training import Recipe, fit_averaged, minutes_since, noise_loss, now
from torch import Tensor

RECIPE = Recipe(steps=3500, batch=32, rate=1e-3, ema=0.998, seed=2)
PICTURE = 32
BATCH = 100  # of sampling


def build_unet() -> UNet2DModel:
    """DDPM's topology as published for 32x32, narrowed and one level less: pictures (N, 3, 32, 32) to velocities.

    Attention is at 8x8, where it costs little: the data has no more pixels than that. A group of a norm has four
    channels at least, as DDPM's have, or the brightness of a picture would be lost in it.
    """
    return UNet2DModel(
        sample_size=PICTURE,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        norm_num_groups=4,
    )


def build_scheduler() -> DDIMScheduler:
    """DDIM with DDPM's noise schedule.

    The prediction is the velocity (Salimans and Ho 2022). In the first steps a picture is the predicted noise times a
    hundred, and a smaller U-Net that predicted noise did not know its mean well enough after 1600 steps: the pictures
    were of all colours.
    """
    return DDIMScheduler(
        beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False, prediction_type="v_prediction"
    )


def train_unet(unet: UNet2DModel, data: Digits, scheduler: DDIMScheduler, recipe: Recipe) -> None:
    """Fit it to predict velocities; it ends with the averaged weights."""
    generator = torch.Generator().manual_seed(recipe.seed)
    pictures = to_pictures(data.images, PICTURE)

    def loss_at() -> Tensor:
        chosen = torch.randint(len(pictures), (recipe.batch,), generator=generator)
        clean = augment(pictures[chosen], generator)
        return noise_loss(lambda noisy, times: unet(noisy, times).sample, clean, scheduler, generator)

    unet.train()
    fit_averaged(unet, loss_at, recipe)


def train(out: Path, recipe: Recipe) -> None:
    """Train the U-Net from scratch on the training split and write the pipeline folder, in half precision."""
    started = now()
    data, _ = load_splits()
    torch.manual_seed(0)
    unet, scheduler = build_unet(), build_scheduler()
    train_unet(unet, data, scheduler, recipe)
    DDIMPipeline(unet.half(), scheduler).save_pretrained(out)
    print(f"wrote {out} after {minutes_since(started)}: {asdict(recipe)}")


def sample(pipeline: DDIMPipeline, first: int, count: int, steps: int) -> Tensor:
    """Pictures (count, 3, 32, 32) in -1..1; the one of seed s is the same in any batch."""
    generators = [torch.Generator().manual_seed(first + i) for i in range(count)]
    call = {"num_inference_steps": steps, "generator": generators, "output_type": "pt"}
    return 2 * pipeline(count, **call).images - 1


def evaluate(folder: Path, images: int, steps: list[int], grid: Path | None) -> None:
    """Print the figures of a saved folder as JSON, its half-precision weights computed in single precision."""
    pipeline = DDIMPipeline.from_pretrained(folder).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    report: dict[str, object] = {"real": real_figures()}
    for count in steps:
        drawn = [sample(pipeline, first, min(BATCH, images - first), count) for first in range(0, images, BATCH)]
        report[f"{count} steps"] = judge(torch.cat(drawn))
        if grid is not None:
            rows = torch.cat(drawn)[: min(images, 160) // 16 * 16].split(16)
            save_grid(list(rows), grid.with_stem(f"{grid.stem}-{count}"))
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
    judging.add_argument("--steps", type=int, nargs="+", default=[50])
    judging.add_argument("--grid", type=Path, help="also save contact sheets beside this PNG path")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.command == "train":
        train(args.out, replace(RECIPE, steps=args.steps))
    else:
        evaluate(args.model, args.images, args.steps, args.grid)


if __name__ == "__main__":
    main()
