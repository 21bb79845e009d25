"""What an image costs beside its engines: `python -m deepcache_trt.benchmarks.overhead`.

The digits are drawn on engines that do nothing, and by plain diffusers with its models taken off, in turn: what is left
is Python, the scheduler and, of ours, the look at each model before an image, whose two parts are timed by themselves
on larger models too: what is compared before the first step, and the checksum of all weights, taken while it runs.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from deepcache_trt.benchmarks.machine import processor
from deepcache_trt.benchmarks.report import markdown_table
from deepcache_trt.benchmarks.timing.in_process import in_turn
from deepcache_trt.engines import backends
from deepcache_trt.engines.backend import Backend, Built, keep_nothing
from deepcache_trt.engines.engine import Engine, check_binding
from deepcache_trt.export.digest import digests
from deepcache_trt.models.catalogue import CATALOGUE
from deepcache_trt.models.fresh import empty_model
from deepcache_trt.models.live_tree import Snapshot
from deepcache_trt.models.registry import family_of
from deepcache_trt.pipelines.material import marks_of
from deepcache_trt.runtime.policies import Adaptive
from deepcache_trt.tensors import TensorSpec

LOOKED_AT = ("sd15", "sdxl")


class Nothing(Engine):
    """An engine that computes nothing."""

    capturable = False

    def __init__(self, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> None:
        self.inputs, self.outputs = dict(inputs), dict(outputs)

    def bind(self, name: str, tensor: torch.Tensor) -> None:
        """Look at the tensor as every engine does; what is an output is one from then on."""
        check_binding(self.inputs.get(name) or self.outputs[name], tensor, "cpu")
        if name in self.outputs:
            tensor.fill_(1)

    def run(self) -> None:
        """Leave the outputs as they are."""

    def close(self) -> None:
        """There is nothing to let go of."""


def _open(built: Built) -> Engine:
    return Nothing(built.inputs, built.outputs)


NOTHING = Backend(
    name="nothing", device="cpu", probe=lambda: "1", version=lambda: "1", open=_open, build=keep_nothing, trusted=True
)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What it costs to see that the models of a pipeline are as they were.

    Attributes:
        model: a name of the catalogue, whose models are in float16.
        unet: seconds of its U-Net, to compare its modules, what they keep and the marks of its weights with what they
            were, before its first step.
        all: the same of all its models that run on engines.
        weights: seconds, for the checksum of all weights, which is taken while the first calls run.
        weight_bytes: which are read.
    """

    model: str
    unet: float
    all: float
    weights: float
    weight_bytes: int


def outside_engines(*, steps: int, rounds: int) -> dict[str, float]:
    """Seconds of one image beside its engines, medians of `rounds` in turn: of ours by two policies, of diffusers."""
    from deepcache_trt import DeepCachePipeline

    backends.register(NOTHING)
    cached: Any = DeepCachePipeline.from_pretrained("digits", dtype=torch.float32, backend="nothing", cache_interval=3)
    adaptive = DeepCachePipeline.from_pipe(cached, policy=Adaptive(threshold=0.1))
    plain: Any = DeepCachePipeline.from_pretrained("digits", dtype=torch.float32)
    plain.disable_cache()
    for pipe in (cached, adaptive, plain):
        pipe.set_progress_bar_config(disable=True)

    def draw(pipe: Any) -> Callable[[], Any]:
        return lambda: pipe("seven", num_inference_steps=steps, generator=torch.Generator().manual_seed(0))

    draws = {
        "engines that do nothing": draw(cached),
        "the same, deciding at run time": draw(adaptive),
        "plain diffusers without models": draw(plain),
    }
    with _models_taken_off(plain):
        return in_turn(draws, rounds)


@contextmanager
def _models_taken_off(pipe: Any) -> Iterator[None]:
    """Within the block, what a pipeline's models answer is made of nothing, in the right shapes."""
    tokens = pipe.tokenizer("", padding="max_length", return_tensors="pt").input_ids
    prompt = pipe.text_encoder(tokens)

    def picture(latents: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return torch.zeros(len(latents), 3, 8 * latents.shape[2], 8 * latents.shape[3])

    answers: dict[Any, Callable[..., Any]] = {
        pipe.text_encoder: lambda *_, **__: prompt,
        pipe.unet: lambda sample, *_, **__: (torch.zeros_like(sample),),
        pipe.vae.decoder: picture,
    }
    for model, answer in answers.items():
        model.forward = answer
    try:
        yield
    finally:
        for model in answers:
            del model.forward


def look(name: str, *, rounds: int) -> Look:
    """Time the look at the models of a pipeline of the catalogue, whose weights are ones."""
    # transformers changes torch's classes when it makes its first model, which a snapshot of before would tell.
    models = {part: _model(description) for part, description in CATALOGUE[name].parts.items()}
    looked = {part: (model, Snapshot(model, family_of(type(model).__name__).module)) for part, model in models.items()}

    def seen(*parts: str) -> Callable[[], Any]:
        def see() -> None:
            for model, snapshot in map(looked.__getitem__, parts):
                assert snapshot.is_current(), "what ends at the first difference would be timed"
                marks_of(model, snapshot.tensors)

        return see

    tensors = [tensor for _, snapshot in looked.values() for tensor in snapshot.tensors]
    actions = {"unet": seen("unet"), "all": seen(*looked), "weights": lambda: digests(tensors)}
    took = in_turn(actions, rounds)
    return Look(model=name, **took, weight_bytes=sum(tensor.nbytes for tensor in tensors))


def _model(part: Any) -> Any:
    model = empty_model(part.model_class(), part.config).half().to_empty(device="cpu")
    for weight in model.parameters():
        weight.data.fill_(1)
    return model


def report(beside: Mapping[str, float], looks: list[Look], *, steps: int, rounds: int) -> str:
    """Both tables as Markdown."""
    images = [(name, f"{1e3 * seconds:.1f}") for name, seconds in beside.items()]
    models = [
        (
            each.model,
            f"{1e3 * each.unet:.2f}",
            f"{1e3 * each.all:.2f}",
            f"{1e3 * each.weights:.0f}",
            f"{each.weight_bytes / 1e9:.2f}",
            f"{each.weight_bytes / each.weights / 1e9:.1f}",
        )
        for each in looks
    ]
    tables = [
        f"One image of `digits`, {steps} steps, medians of {rounds} in turn, on {processor()}:",
        markdown_table(("", "ms beside the engines"), images),
    ]
    if models:
        tables += [
            "The look at a pipeline's models in float16 before an image, and their checksum beside the first calls:",
            markdown_table(("model", "U-Net, ms", "all models, ms", "checksum, ms", "GB", "GB/s"), models),
        ]
    return "\n\n".join(tables)


def main() -> None:
    """Measure and print."""
    from deepcache_trt.progress import quiet_libraries

    parser = argparse.ArgumentParser(description="What an image costs beside its engines.")
    parser.add_argument("--steps", type=int, default=20, help="denoising steps")
    parser.add_argument("--rounds", type=int, default=40, help="how often each is timed")
    parser.add_argument("--models", nargs="*", default=LOOKED_AT, help="names of the catalogue whose models to look at")
    options = parser.parse_args()
    quiet_libraries()
    beside = outside_engines(steps=options.steps, rounds=options.rounds)
    looks = [look(name, rounds=max(1, options.rounds // 4)) for name in options.models]
    print(report(beside, looks, steps=options.steps, rounds=options.rounds))


if __name__ == "__main__":
    main()
