"""What it costs when shapes take turns: `python -m deepcache_trt.benchmarks.shapes`.

The digits are drawn at two sizes, in two batches, with and without guidance, with and without a ControlNet, and a small
video in two lengths: each call alone, several times in a row, and the two in turn, after both have been met. Then many
calls of all kinds are mixed, and the memory of the process is read on the way.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from deepcache_trt.benchmarks.machine import processor
from deepcache_trt.benchmarks.report import markdown_table

# Two calls of each kind.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sizes": ({}, {"height": 96, "width": 64}),
    "batches": ({}, {"num_images_per_prompt": 2}),
    "guidance": ({}, {"guidance_scale": 1.0}),
    "ControlNet": ({}, {"controlled": True}),
    "frames": ({"num_frames": 4}, {"num_frames": 6}),
}
_SIZE = 64  # of the digits and of the video


@dataclass(frozen=True, kw_only=True)
class Turns:
    """Seconds of an image: each call alone, and the mean of both when they take turns; medians."""

    alone: tuple[float, float]
    in_turn: float

    @property
    def ratio(self) -> float:
        """Against the mean of the two alone."""
        return self.in_turn / statistics.mean(self.alone)


def pipelines(backend: str) -> Callable[[Mapping[str, Any]], None]:
    """What draws one call of a kind."""
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    from deepcache_trt import DeepCachePipeline

    pipe = DeepCachePipeline.from_pretrained("digits", dtype=torch.float32, backend=backend, cache_interval=3)
    torch.manual_seed(0)
    plain = StableDiffusionControlNetPipeline(
        **{name: part for name, part in pipe.components.items() if name != "image_encoder"},
        controlnet=ControlNetModel.from_unet(pipe.unet),
        requires_safety_checker=False,
    )
    controlled = DeepCachePipeline.from_pipe(plain, backend=backend, cache_interval=3)
    video = DeepCachePipeline.from_pipe(_plain_video(), backend=backend, cache_interval=3)
    for each in (pipe, controlled, video):
        each.set_progress_bar_config(disable=True)
    image = torch.zeros(1, 3, _SIZE, _SIZE)

    def draw(call: Mapping[str, Any]) -> None:
        given = {name: value for name, value in call.items() if name != "controlled"}
        given |= {"num_inference_steps": 20, "generator": torch.Generator().manual_seed(0)}
        if "controlled" in call:
            controlled("seven", image=image, **given)
        elif "num_frames" in call:
            video(image, height=_SIZE, width=_SIZE, **given)
        else:
            pipe("seven", **given)

    return draw


def _plain_video() -> Any:
    """A small Stable Video Diffusion with seeded weights."""
    import diffusers
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    from deepcache_trt.models.fresh import model_from_config

    torch.manual_seed(0)
    sees = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    sees |= {"image_size": _SIZE, "patch_size": 32, "projection_dim": 32}
    unet: Any = diffusers.UNetSpatioTemporalConditionModel(
        sample_size=_SIZE // 8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        num_attention_heads=2,
        cross_attention_dim=sees["projection_dim"],
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        num_frames=4,
    )
    channels = (32, 32, 32, 32)
    blocks = ("DownEncoderBlock2D",) * len(channels)
    vae: Any = diffusers.AutoencoderKLTemporalDecoder(block_out_channels=channels, down_block_types=blocks)
    return diffusers.StableVideoDiffusionPipeline(
        vae=vae.eval(),
        image_encoder=model_from_config(CLIPVisionModelWithProjection, sees).eval(),
        unet=unet.eval(),
        scheduler=diffusers.EulerDiscreteScheduler(prediction_type="v_prediction", use_karras_sigmas=True),
        feature_extractor=CLIPImageProcessor(crop_size=_SIZE, size=_SIZE),
    )


def turns(draw: Callable[[Mapping[str, Any]], None], kind: str, rounds: int) -> Turns:
    """Two calls of a kind, alone and in turn."""
    first, second = KINDS[kind]
    took: dict[str, list[float]] = {"first": [], "second": [], "in turn": []}
    for call in (first, second) * 2:
        draw(call)
    for _ in range(rounds):
        for name, calls in (("first", [first] * 3), ("second", [second] * 3), ("in turn", [first, second] * 2)):
            times = [_seconds(draw, call) for call in calls]
            took[name].append(statistics.mean(times if name == "in turn" else times[1:]))  # another came before
    first_alone, second_alone, in_turn = (statistics.median(took[name]) for name in took)
    return Turns(alone=(first_alone, second_alone), in_turn=in_turn)


def _seconds(draw: Callable[[Mapping[str, Any]], None], call: Mapping[str, Any]) -> float:
    started = time.perf_counter()
    draw(call)
    return time.perf_counter() - started


def mixed(draw: Callable[[Mapping[str, Any]], None], calls: int) -> tuple[float, list[float]]:
    """The seconds of so many calls of all kinds, in a seeded order, and the MB of the process after each tenth."""
    order, process = random.Random(0), psutil.Process()
    every = [call for pair in KINDS.values() for call in pair]
    started, megabytes = time.perf_counter(), []
    for number in range(1, calls + 1):
        draw(order.choice(every))
        if number % max(1, calls // 10) == 0:
            megabytes.append(process.memory_info().rss / 1e6)
    return time.perf_counter() - started, megabytes


def main() -> None:
    """Measure and print."""
    from deepcache_trt.progress import quiet_libraries

    parser = argparse.ArgumentParser(description="What it costs when shapes take turns.")
    parser.add_argument("--backends", nargs="+", default=["auto"], help="which engines")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed")
    parser.add_argument("--mixed", type=int, default=250, help="calls of all kinds, mixed")
    options = parser.parse_args()
    quiet_libraries()
    rows, memory = [], []
    for backend in options.backends:
        draw = pipelines(backend)
        for kind in KINDS:
            found = turns(draw, kind, options.rounds)
            alone = " and ".join(f"{1e3 * seconds:.0f}" for seconds in found.alone)
            rows.append((backend, kind, alone, f"{1e3 * found.in_turn:.0f}", f"{found.ratio:.2f}"))
        seconds, megabytes = mixed(draw, options.mixed)
        grown = ", ".join(f"{size:.0f}" for size in megabytes)
        memory.append(f"{backend}: {options.mixed} mixed calls in {seconds:.0f} s; MB after each tenth: {grown}")
    print(f"`digits`, 20 steps, medians of {options.rounds} in turn, on {processor()}:\n")
    print(markdown_table(("engines", "what takes turns", "ms alone", "ms in turn", "ratio"), rows))
    print("\n" + "\n".join(memory))


if __name__ == "__main__":
    main()
