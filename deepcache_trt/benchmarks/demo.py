"""The demo: ten handwritten digits, plain and cached, side by side with their times.

    python -m deepcache_trt.benchmarks.demo --out demo

builds the engines of the bundled model, draws the digits 0–9 with plain diffusers and with engines at several
intervals, and writes one contact sheet (`digits.png`) and the same figures as `digits.json`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcache_trt.benchmarks.fidelity.distances import image_psnr
from deepcache_trt.benchmarks.machine import processor
from deepcache_trt.benchmarks.timing.drawing import DIGITS

if TYPE_CHECKING:
    from PIL import Image

INTERVALS = (1, 3, 5)
ROUNDS = 3

_SCALE = 2  # the digits of 64 pixels are drawn larger on the sheet by this factor
_LABEL = 300
_MARGIN = 10


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting: its time, and how far its images are from those of plain diffusers at the same seed."""

    setting: str
    seconds_per_image: float  # median over rounds, the whole pipeline
    speedup: float  # over plain diffusers
    psnr: float | None  # dB against plain diffusers; None for plain itself


def draw(pipe: Any, *, steps: int, seed: int) -> list["Image.Image"]:
    """The digits 0–9 as one batch, each from its own seed."""
    import torch

    generators = [torch.Generator().manual_seed(seed + digit) for digit in range(len(DIGITS))]
    images: list[Image.Image] = pipe(list(DIGITS), num_inference_steps=steps, generator=generators).images
    return images


def compare(
    pipes: dict[str, Any], *, steps: int, seed: int, rounds: int
) -> tuple[list[Row], list[list["Image.Image"]]]:
    """Draw with every pipeline; after a warm-up they take turns, so that a slow moment does not fall on one of them.

    Args:
        pipes: pipelines by setting, plain diffusers first.
        steps: denoising steps.
        seed: of the digit zero.
        rounds: how often each is timed.
    """
    images = [draw(pipe, steps=steps, seed=seed) for pipe in pipes.values()]
    seconds: dict[str, list[float]] = {setting: [] for setting in pipes}
    for _ in range(rounds):
        for setting, pipe in pipes.items():
            started = time.perf_counter()
            draw(pipe, steps=steps, seed=seed)
            seconds[setting].append((time.perf_counter() - started) / len(DIGITS))
    medians = {setting: statistics.median(samples) for setting, samples in seconds.items()}
    plain = next(iter(medians.values()))
    rows = [
        Row(
            setting=setting,
            seconds_per_image=median,
            speedup=plain / median,
            psnr=image_psnr(images[0], drawn) if i else None,
        )
        for i, ((setting, median), drawn) in enumerate(zip(medians.items(), images, strict=True))
    ]
    return rows, images


def contact_sheet(rows: Sequence[Row], images: Sequence[Sequence["Image.Image"]], *, title: str) -> "Image.Image":
    """One row of digits for each setting, labelled with its figures."""
    from PIL import Image, ImageDraw, ImageFont

    side = images[0][0].width * _SCALE
    width = _LABEL + len(DIGITS) * (side + 2) + 2 * _MARGIN
    height = 40 + len(rows) * (side + _MARGIN) + _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    small, normal, large = (ImageFont.load_default(size=size) for size in (15, 19, 22))
    pen.text((_MARGIN, 10), title, fill="#444444", font=small)
    for i, (row, drawn) in enumerate(zip(rows, images, strict=True)):
        top = 40 + i * (side + _MARGIN)
        pen.text((_MARGIN, top + 14), row.setting, fill="black", font=normal)
        pen.text(
            (_MARGIN, top + 44), f"{row.speedup:.1f}x faster" if i else "the reference", fill="#1a5fb4", font=large
        )
        pen.text(
            (_MARGIN, top + 78), f"{row.seconds_per_image:.3f} s/image{_fidelity(row)}", fill="#444444", font=small
        )
        for j, image in enumerate(drawn):
            tile = image.resize((side, side), Image.Resampling.BICUBIC)
            sheet.paste(tile, (_LABEL + j * (side + 2), top))
    return sheet


def _fidelity(row: Row) -> str:
    return "" if row.psnr is None else f" · PSNR {row.psnr:.0f} dB"


def _load_pipes() -> dict[str, Any]:
    import torch
    from diffusers import StableDiffusionPipeline

    from deepcache_trt import DeepCachePipeline
    from deepcache_trt.models.catalogue import resolve

    plain = StableDiffusionPipeline.from_pretrained(resolve("digits"), dtype=torch.float32, use_safetensors=True)
    pipes = {"plain diffusers": plain}
    for interval in INTERVALS:
        name = f"engines, cache_interval={interval}"
        pipes[name] = DeepCachePipeline.from_pretrained("digits", dtype=torch.float32, cache_interval=interval)
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
    return pipes


def main() -> None:
    """Draw, time, write the sheet and print the table."""
    from rich.console import Console
    from rich.table import Table

    from deepcache_trt.progress import quiet_libraries

    parser = argparse.ArgumentParser(description="Draw the digits 0–9, plain and cached.")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each setting is timed")
    options = parser.parse_args()
    quiet_libraries()
    rows, images = compare(_load_pipes(), steps=options.steps, seed=options.seed, rounds=options.rounds)
    title = f"“a handwritten zero” … “nine”, {options.steps} steps, batch of 10 · {processor()}"
    options.out.mkdir(parents=True, exist_ok=True)
    sheet = options.out / "digits.png"
    contact_sheet(rows, images, title=title).save(sheet)
    record = {
        "machine": processor(),
        "steps": options.steps,
        "rounds": options.rounds,
        "rows": [asdict(r) for r in rows],
    }
    (options.out / "digits.json").write_text(json.dumps(record, indent=2))
    table = Table("setting", "s/image", "speed-up", "PSNR against plain", title=title)
    for row in rows:
        fidelity = "" if row.psnr is None else f"{row.psnr:.1f} dB"
        table.add_row(row.setting, f"{row.seconds_per_image:.4f}", f"{row.speedup:.2f}×", fidelity)
    console = Console()
    console.print(table)
    console.print(f"wrote {sheet}")


if __name__ == "__main__":
    main()
