"""docs/pipelines.md says what the tests here do, with their own lists.

`python -m tests.pipelines.coverage.page` writes it.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from deepcache_trt import DeepCachePipeline
from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.registry import COVERED
from deepcache_trt.pipelines.takeover import why_per_step
from tests.pipelines.conditions.ip_adapters import KINDS
from tests.pipelines.coverage.refused import REFUSED, gligen, t2i_adapter
from tests.pipelines.coverage.rows import (
    EVERY,
    INTERVAL,
    OF_CLASSES,
    OWN,
    SCHEDULERS,
    SIZES,
    STEPS,
    VIDEOS_OF_IMAGES,
    WITH_PACKAGE,
)
from tests.pipelines.live.edits import FOLLOWED, FOLLOWED_TEXT
from tests.pipelines.live.edits import REFUSED as CHANGES
from tests.pipelines.micro import MICROS

DOCUMENT = Path(__file__).parents[3] / "docs" / "pipelines.md"

# What goes with pipelines, and where it is tested.
BESIDE = {
    "LoRA": ("followed, fused or not; switching and scales too", "conditions/test_adapters"),
    "IP-Adapter": (
        f"followed, with LoRAs too: {', '.join(KINDS)}, several adapters, several images; scales, those of single "
        "layers too, are inputs, so that changing them builds nothing; masks are refused",
        "conditions/test_ip_adapter",
    ),
    "ControlNet": (
        "one or several, on engines; at a cached step only the residuals that the U-Net reads are computed, and the "
        "control image is embedded once; guess mode, start and end, pooled conditions",
        "conditions/test_controlnet",
    ),
    "textual inversion, prompt embeddings of any length": ("followed", "conditions/test_prompts"),
    "callbacks, interrupts, batches that shrink": ("per step, as in diffusers", "contract/test_callbacks"),
    "`from_pipe`, `save_pretrained`, `components`, `.to`": ("as in diffusers", "contract/test_from_pipe"),
    "LCM, Turbo and other models of few steps": ("the log says what caching can gain at most", "loop/test_few_steps"),
    "videos of any number of frames, decoded in chunks": ("followed", "families/test_videos"),
    "any multiple of 8 pixels": (
        "followed, in every U-Net that takes it in diffusers: not UNet2DModel",
        "loop/test_sizes",
    ),
    "a checkpoint in one file": ("followed, with the same options", "live/test_ways_in"),
    "attention slicing, VAE slicing and tiling": ("as in diffusers", "contract/test_pipeline_contract"),
    "offload": ("refused, see keep_torch_weights", "weights/test_offload"),
    "copies, threads and pickles of a pipeline": (
        "every image is the one that is drawn alone; a thread waits for another that draws with the same models",
        "live/test_threads",
    ),
    "a copy for each request, asyncio, the helper with copies": (
        "the same, and engines that one copy opened are open for the next",
        "live/test_servers",
    ),
    "inference mode, autocast, gradients": (
        "none of them changes a picture or reaches the next call; a gradient through an engine is refused",
        "live/test_modes",
    ),
    "FreeU, attention masks, other attention processors": ("refused", "coverage/test_refusals"),
}


def document() -> str:
    """docs/pipelines.md."""
    batches, seeds = _in_words({case.batch for case in EVERY}), len({case.seed for case in EVERY})
    lines = f"""# Pipelines

What is cached, as the tests have it; `python -m tests.pipelines.coverage.page` writes this page from their lists.

## Covered

Each row is drawn around a tiny U-Net with seeded weights, {STEPS} steps, {seeds} seeds, {len(SIZES)} sizes, batches of
{batches}, with and without guidance, at two branches. *Other schedulers* than its own are
{_in_words(SCHEDULERS[1:])}. With `cache_interval=1` it draws what plain diffusers draws, to 1e-4; with
`cache_interval={INTERVAL}` what plain PyTorch draws with a hook on the U-Net that replays the cached tensor, to 1e-4.
*Whole loop*: nothing but engines and one update runs between the first step and the last, and the image is that of
*per step*, where the pipeline runs its own loop, as it also does for callbacks.

| pipeline | of | its loop | channels in | ControlNets | other schedulers | also equals the DeepCache package |
|---|---|---|---|---|---|---|
""".splitlines()
    for name, micro in MICROS.items():
        pipe = micro.new()
        way = "per step" if why_per_step(pipe, {}) else "whole loop"
        marks = [_mark(name not in OWN), _mark(name in WITH_PACKAGE)]
        columns = [micro.pipeline, name, way, str(pipe.unet.config.in_channels), str(micro.controlnets or ""), *marks]
        lines.append(f"| {' | '.join(columns)} |")
    for name, row in OF_CLASSES.items():
        lines.append(f"| {name} | {row.kind}, {row.tested} | whole loop | {row.channels} | | | |")
    for name, pipeline in VIDEOS_OF_IMAGES.items():
        lines.append(f"| {pipeline} | {name}, each of its backward loops by itself | per step | 4 | | | |")
    lines += ["", "## What goes with them", "", "| what | how | tests/pipelines |", "|---|---|---|"]
    lines += [f"| {what} | {how} | {test}.py |" for what, (how, test) in BESIDE.items()]
    lines += ["", f"Models on engines are {_in_words(COVERED)}; others beside the denoiser run in PyTorch."]
    lines += [
        "",
        "## Models that were changed in place",
        "",
        "Before the first image or between two, at the next image (live/test_modules.py, live/test_values.py):",
        "",
        f"- followed: {_in_words([*FOLLOWED, *FOLLOWED_TEXT])}; whatever is written to a parameter or a buffer, by one "
        "element and past torch's counter too; hooks on the model itself fire at every step, which is then run one by "
        "one; models and methods that are compiled in place, whose engines run instead;",
        f"- refused, with the module's path and what to do: {_in_words(CHANGES)}; and methods that are replaced in a "
        "class of diffusers, or hooks on all modules of torch. A function of torch that is replaced, such as "
        "`scaled_dot_product_attention`, is not seen.",
        "",
        "## Refused",
        "",
        "When they are given over, by a message that goes on with what is covered:",
        "",
        "| pipeline | message |",
        "|---|---|",
    ]
    lines += [f"| {type(new()).__name__} | {_refusal(new())} |" for new, _, _ in REFUSED]
    late = [type(new()[0]).__name__ for new in (t2i_adapter, gligen)]
    lines += ["", f"At the call, before anything is built for it: {_in_words(late)}."]
    return "\n".join([*lines, ""])


def _refusal(pipe: object) -> str:
    with pytest.raises(UnsupportedError) as refused:
        DeepCachePipeline.from_pipe(pipe)
    return str(refused.value).partition(";")[0]


def _mark(there: bool) -> str:
    return "yes" if there else ""


def _in_words(things: Iterable[object]) -> str:
    words: Sequence[str] = [str(thing) for thing in things]
    return " and ".join([", ".join(words[:-1]), words[-1]])


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
