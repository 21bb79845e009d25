"""What a generation holds in memory, by shapes alone: `deepcache-trt memory`.

Nothing is computed and no weights are needed. What an engine takes for its activations while it runs is its compiler's
affair and not in it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from deepcache_trt.builder.component import Component, from_architecture
from deepcache_trt.builder.pieces import variants_of
from deepcache_trt.builder.shapes import profiles_for, shapes_from_text
from deepcache_trt.errors import DeepCacheError, UnknownNameError, did_you_mean
from deepcache_trt.models.architecture import OUTPUT, Architecture
from deepcache_trt.models.catalogue import CATALOGUE
from deepcache_trt.models.fresh import fake_model
from deepcache_trt.models.taps import tapped
from deepcache_trt.runtime.policies.deepcache import DeepCache


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes that the engines of one component and their session hold.

    Attributes:
        weights: that each variant reads, by its name; a compiled engine has a copy of its own.
        buffers: the static tensors that all variants share, by name.
    """

    weights: Mapping[str, int]
    buffers: Mapping[str, int]


def held_by(component: Component, branch: int, sizes: Mapping[str, int]) -> Held:
    """What the engines of a component hold at a shape.

    Args:
        component: of which nothing but the config is read.
        branch: DeepCache's k, read where the component is a denoiser.
        sizes: of every axis.

    Raises:
        UnknownNameError: no such branch.
    """
    architecture = component.architecture
    model: Any = fake_model(component.model_class, component.config, component.dtype)
    weights = list(model.get_submodule(architecture.module).parameters())
    buffers = {
        spec.name: math.prod(spec.resolve(sizes)) * getattr(torch, spec.dtype).itemsize
        for spec in (*architecture.inputs, *architecture.outputs)
    }
    read = {"full": sum(weight.nbytes for weight in weights)}
    if architecture.is_denoiser:
        full, shallow = variants_of(architecture, DeepCache(cache_branch_id=branch), component.name)
        (name,) = full.emits
        buffers[name], read[shallow.name] = _tap_and_shallow_weights(model, architecture, name, sizes)
    return Held(weights=read, buffers=buffers)


def _tap_and_shallow_weights(
    model: Any, architecture: Architecture, name: str, sizes: Mapping[str, int]
) -> tuple[int, int]:
    """Bytes of a tap, and of the weights that a prediction from that tap has a gradient by: those that it reads."""
    weights = list(model.parameters())
    with weights[0].fake_mode, torch.enable_grad():
        inputs = {
            spec.name: torch.zeros(spec.resolve(sizes), dtype=getattr(torch, spec.dtype))
            for spec in architecture.inputs
        }
        with tapped(model, architecture.taps, consumed={}) as emitted:
            architecture.call(model, inputs)
        tap = emitted[name].detach()
        with tapped(model, architecture.taps, consumed={name: tap}):
            prediction = architecture.call(model, inputs)[OUTPUT]
        gradients = torch.autograd.grad(prediction.sum(), weights, allow_unused=True)
    read = [weight for weight, gradient in zip(weights, gradients, strict=True) if gradient is not None]
    return tap.nbytes, sum(weight.nbytes for weight in read)


def generation(
    model: str, *, size: str | None, batch: int, frames: int | None, dtype: str, branch: int
) -> dict[str, Held]:
    """What the engines of a catalogue model hold in a guided generation, by component.

    Args:
        model: of the catalogue, with an architecture of its own there.
        size: pixels, as "576x1024"; None: the model's own.
        batch: images or videos at a time.
        frames: of a video, all decoded at once; None: as many as the U-Net's config says.
        dtype: of the pipeline.
        branch: DeepCache's k.

    Raises:
        UnknownNameError: no such model or branch.
        ShapeError: a size that the model cannot take.
        DeepCacheError: frames of a model that draws images.
    """
    parts = CATALOGUE[model].parts if model in CATALOGUE else {}
    if not parts:
        known = [name for name, entry in CATALOGUE.items() if entry.parts]
        raise UnknownNameError(f"unknown model {model!r}{did_you_mean(model, known)}; there are {', '.join(known)}")
    own = parts["unet"].config.get("num_frames")
    if frames is not None and own is None:
        raise DeepCacheError(f"--frames {frames}: {model} draws images; leave it out")
    shapes = shapes_from_text([size] if size else [], [str(batch)])
    components = {}
    for name, part in parts.items():
        config = {**part.config, **({"num_frames": frames} if frames and name == "unet" else {})}
        component = from_architecture(part.model_class(), config, name=model, part=name, dtype=dtype)
        sizes = profiles_for(component, shapes)[0].at("opt")
        if own is not None and name == "vae":
            sizes["batch"] = frames or own
        components[name] = held_by(component, branch, sizes)
    return components


def generations(
    model: str, *, size: str | None, batch: int, frames: Sequence[int], dtype: str, branch: int
) -> dict[str, dict[str, Held]]:
    """Columns of `table`: one for each number of frames, or a single one, of the model's own; else see `generation`."""
    columns: dict[str, int | None] = {f"{count} frames": count for count in frames} or {model: None}
    return {
        title: generation(model, size=size, batch=batch, frames=count, dtype=dtype, branch=branch)
        for title, count in columns.items()
    }


def table(columns: Mapping[str, Mapping[str, Held]]) -> str:
    """Markdown, in MB of 10⁶ bytes: a column for each generation, by its title."""
    rows: dict[str, list[int]] = {}
    for generated in columns.values():
        for part, held in generated.items():
            for variant, count in held.weights.items():
                rows.setdefault(f"{part}: weights, {variant}", []).append(count)
            for name, count in held.buffers.items():
                rows.setdefault(f"{part}: {name}", []).append(count)
    rows["**all**"] = [sum(counts) for counts in zip(*rows.values(), strict=True)]
    lines = [f"| MB | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    lines += [f"| {name} | {' | '.join(f'{count / 1e6:,.1f}' for count in counts)} |" for name, counts in rows.items()]
    return "\n".join(lines)
