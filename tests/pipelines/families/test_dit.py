"""DiT and U-ViT: latents that a pipeline hands on twice, a learned variance beside the noise, masks of sublayers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from deepcache_trt import DeepCachePipeline
from deepcache_trt.errors import ShapeError, UnknownNameError
from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.plan import FULL, Plan
from deepcache_trt.runtime.policies import DeepCache, Policy, Uncached
from tests.pipelines.dits import KINDS, original, plain
from tests.reference import cached_by_policy

STEPS = 6
CLASSES = [3, 207]
SCHEDULERS = [
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "PNDMScheduler",
    "DDPMScheduler",
    "UniPCMultistepScheduler",
]


@dataclass(frozen=True, kw_only=True)
class Masks(Policy):
    """After each full call one that reuses a third of the sublayers, every time another one."""

    kind: ClassVar[str] = "masks"
    segments: ClassVar[bool] = True

    def variants(self, taps: Sequence[str]) -> tuple[Variant, ...]:
        masked = [Variant(name=f"mask_{i}", consumes=tuple(taps[i::3])) for i in range(3)]
        return Variant(name=FULL, emits=tuple(taps)), *masked

    def plan(self, calls: int) -> Plan:
        return Plan(variants=tuple(f"mask_{i // 2 % 3}" if i % 2 else FULL for i in range(calls)))


def engines(pipe: Any, policy: Policy, **options: Any) -> Any:
    return DeepCachePipeline.from_pipe(pipe, policy=policy, **{"backend": "onnxruntime", "components": (), **options})


def draw(
    pipe: Any, *, seed: int = 0, classes: Sequence[int] = CLASSES, steps: int = STEPS, scale: float = 4.0
) -> torch.Tensor:
    torch.manual_seed(seed)  # some schedulers draw noise, which the pipeline gives no generator for
    generator = torch.Generator().manual_seed(seed)
    images: torch.Tensor = pipe(
        list(classes), generator=generator, num_inference_steps=steps, guidance_scale=scale, output_type="pt"
    ).images
    return images


def per_step(pipe: Any, **call: Any) -> torch.Tensor:
    """A hook wants every call of the model."""
    handle = pipe.transformer.register_forward_hook(lambda module, args, output: None)
    try:
        image = draw(pipe, **call)
    finally:
        handle.remove()
    assert pipe.last_run.way == "per step"
    return image


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert expected.isfinite().all()
    assert (found - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("scale", [4.0, 1.0], ids=["guided", "unguided"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_with_every_call_full_it_draws_what_plain_diffusers_draws(scheduler: str, kind: str, scale: float) -> None:
    expected = draw(plain(scheduler, kind=kind), scale=scale)
    pipe = engines(plain(scheduler, kind=kind), Uncached())
    assert_same(draw(pipe, scale=scale), expected)
    assert (pipe.last_run.way, pipe.last_run.reason) == ("whole loop", "")
    assert_same(per_step(pipe, scale=scale), expected)
    assert (draw(plain(scheduler, kind=kind), scale=scale + 1) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["dit", "uvit"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_masks_of_its_sublayers_draw_what_hooks_on_the_model_draw(scheduler: str, kind: str) -> None:
    pipe, reference = engines(plain(scheduler, kind=kind), Masks()), plain(scheduler, kind=kind)
    reference.scheduler.set_timesteps(STEPS)
    with cached_by_policy(reference.transformer, Masks(), len(reference.scheduler.timesteps)):
        expected = draw(reference)
    assert_same(draw(pipe), expected)
    assert pipe.last_run.way == "whole loop"
    assert_same(per_step(pipe), expected)
    assert (draw(plain(scheduler, kind=kind)) - expected).abs().max() > 1e-3, "the masks do not reach the picture"


@pytest.mark.parametrize(
    ("backend", "segments"), [("openvino", True), ("openvino", False), ("onnxruntime", False), ("torch", None)]
)
def test_on_every_backend_in_segments_or_not(backend: str, segments: bool | None) -> None:
    pipe = engines(plain(), Masks(), backend=backend, segments=segments)
    assert_same(draw(pipe), draw(engines(plain(), Masks())))
    assert pipe.last_run.way == "whole loop"


def test_calls_in_a_row_leave_nothing_behind() -> None:
    pipe = engines(plain(), Masks())
    calls: list[dict[str, Any]] = [
        {},
        {"steps": 4, "scale": 1.0},
        {"classes": [1], "seed": 3},
        {"classes": [7, 8, 9], "steps": 3},
        {"scale": 2.5},
        {},
    ]
    for call in calls:
        assert_same(draw(pipe, **call), draw(engines(plain(), Masks()), **call))


def test_a_scheduler_whose_input_is_scaled_is_stepped_from_that_by_diffusers_and_so_here() -> None:
    pipe = engines(plain("EulerDiscreteScheduler"), Uncached())
    assert_same(draw(pipe), draw(plain("EulerDiscreteScheduler")))
    assert pipe.last_run.reason == "the denoiser is not given the scaled latents"


def test_a_batch_too_large_for_the_graph_is_refused() -> None:
    with pytest.raises(ShapeError, match="a batch of 64"):
        draw(engines(plain(), Uncached()), classes=[1] * 32)


def test_a_saved_uvit_is_loaded_and_drawn_with(tmp_path: Path) -> None:
    plain(kind="uvit").save_pretrained(tmp_path)
    pipe: Any = DeepCachePipeline.from_pretrained(tmp_path, policy=Uncached(), backend="onnxruntime")
    pipe.set_progress_bar_config(disable=True)
    assert_same(draw(pipe), draw(plain(kind="uvit")))
    assert pipe.last_run.way == "whole loop"


def test_there_are_no_skip_connections_to_cache_at() -> None:
    with pytest.raises(UnknownNameError, match=r"skip connections, and there are none; .*policy=Uncached\(\)"):
        DeepCachePipeline.from_pipe(plain())
    pipe = engines(plain(), DeepCache(cache_interval=1))
    assert_same(draw(pipe), draw(plain()))


# Guidance as the originals have it.


def as_the_authors(output: torch.Tensor, scale: float) -> torch.Tensor:
    """The guided output [2·B, …], halves alike, of a model's output with label and without, as in DiT's repository."""
    eps, rest = output[:, :3], output[:, 3:]
    with_label, without = eps.chunk(2)
    half = without + scale * (with_label - without)
    return torch.cat([torch.cat([half, half]), rest], dim=1)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler"])
def test_three_channels_are_guided_in_both_ways_as_by_the_originals(scheduler: str) -> None:
    reference = plain(scheduler)
    forward, scale = reference.transformer.forward, 4.0

    def guided(*args: Any, **kwargs: Any) -> Any:
        answer = forward(*args, **kwargs)
        first, *_ = answer.sample.chunk(2)
        # What diffusers then makes of the halves leaves them as they are.
        whole = as_the_authors(answer.sample, scale)
        answer.sample = torch.cat([whole[: len(first)], whole[: len(first)]])
        return answer

    try:
        reference.transformer.forward = guided
        expected = draw(reference, scale=scale)
    finally:
        del reference.transformer.forward
    assert (draw(plain(scheduler), scale=scale) - expected).abs().max() > 1e-3
    torch.testing.assert_close(draw(original(scheduler), scale=scale), expected, atol=1e-4, rtol=0)
    pipe = engines(original(scheduler), Uncached())
    torch.testing.assert_close(draw(pipe, scale=scale), expected, atol=1e-4, rtol=0)
    assert pipe.last_run.way == "whole loop"
    torch.testing.assert_close(per_step(pipe, scale=scale), expected, atol=1e-4, rtol=0)
    assert pipe.last_run.way == "per step"
