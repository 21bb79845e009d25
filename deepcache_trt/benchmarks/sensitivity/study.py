"""Which layers bear 8 bits: each group is drawn with alone, and as many as a budget allows together.

All is drawn in PyTorch, where layers are rounded as the quantized graph rounds them (`builder.quantized.emulating`),
and cached by the policy that will be used. What 8 bits cost is told beside what caching costs: as dB of the PSNR that
the cached latents have against the uncached ones.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from deepcache_trt.benchmarks.counting import layers as counting
from deepcache_trt.benchmarks.fidelity.distances import relative_error
from deepcache_trt.benchmarks.sensitivity.groups import Group, groups_of
from deepcache_trt.benchmarks.timing.drawing import Scene, draw
from deepcache_trt.builder.component import Component, from_model
from deepcache_trt.builder.graphs import GRAPH, activation_scales, graph_artefact
from deepcache_trt.builder.pieces import variants_of
from deepcache_trt.builder.quantized.choice import chosen
from deepcache_trt.builder.quantized.emulating import emulated
from deepcache_trt.builder.quantized.quantizing import ALL
from deepcache_trt.builder.shapes import Shapes, profiles_for
from deepcache_trt.engines.store import Store, default_root
from deepcache_trt.errors import DeepCacheError, UnsupportedError
from deepcache_trt.export.cut import cut
from deepcache_trt.export.layers import Layer
from deepcache_trt.pipelines.cached_denoiser import part_of_denoiser
from deepcache_trt.pipelines.calibrating.drawing import plain_copy
from deepcache_trt.pipelines.calibrating.on_torch import on_torch, quantized_component
from deepcache_trt.pipelines.engine_options import EngineOptions
from deepcache_trt.progress import shown
from deepcache_trt.runtime.policies import Policy

# Called with a line about each stage.
Tell = Callable[[str], None]

# The row of what was found.
FOUND = "found"

# Seeds of the check count up from here, those of the study from 0.
_UNSEEN = 1000


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A group of layers.

    Attributes:
        group: which.
        share: of the operations of a whole cached generation.
        error: ‖latents − those with no layer in 8 bits‖ over the norm of these, with this group alone in 8 bits.
    """

    group: Group
    share: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Study:
    """What was found.

    Attributes:
        ranked: all groups, those first that cause the least squared error for each operation.
        taken: how many of them, from the first, are in 8 bits.
        caching: the relative error of the latents that caching alone causes, on the seeds of the study.
        loss: dB that the taken groups together lose on these seeds.
        checked: the taken groups, the default, if there is one, and all layers beside each other, by name.
    """

    ranked: tuple[Ranked, ...]
    taken: int
    caching: float
    loss: float
    checked: Mapping[str, "Checked"]

    @property
    def patterns(self) -> tuple[str, ...]:
        """What `--quantize` is to be given."""
        return tuple(pattern for each in self.ranked[: self.taken] for pattern in each.group.patterns)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Layers in 8 bits, on seeds that nothing was chosen by.

    Attributes:
        layers: how many.
        share: of the operations of a whole cached generation.
        loss: dB that they lose together.
    """

    layers: int
    share: float
    loss: float


def study(
    plain: Any,
    name: str,
    policy: Policy,
    scene: Scene,
    options: EngineOptions,
    *,
    budget: float,
    seeds: int,
    unseen: int,
    tell: Tell,
) -> Study:
    """Rank the groups of layers of a pipeline's denoiser, and find which a budget leaves in 8 bits.

    Args:
        plain: the pipeline, which runs plain diffusers; it stays as it is.
        name: of its model.
        policy: how it will be cached.
        scene: what is drawn.
        options: whose precision, store and calibration prompts are used.
        budget: dB that may be lost.
        seeds: batches that groups are ranked by.
        unseen: further ones, that what was found is checked on.
        tell: see `Tell`.

    Raises:
        DeepCacheError: caching by the policy loses nothing to compare with, or no group is within the budget.
    """
    store = Store(Path(options.store or default_root()))
    part = part_of_denoiser(plain)
    component = quantized_component(plain, from_model(getattr(plain, part), name=name, part=part), policy, options)
    graph = onnx.load(graph_artefact(component.unquantized, store, shown).folder / GRAPH, load_external_data=False)
    scales = activation_scales(component, store, shown)
    every, shares = _chosen(graph, component, (ALL,)), _shares(graph, component, policy, scene.steps)
    own, others = range(seeds), range(_UNSEEN, _UNSEEN + unseen)
    tell("drawing without a cache")
    truths = {seed: draw(plain, scene, seed, decode=False).latents for seed in (*own, *others)}
    pipe = plain_copy(plain)
    with on_torch(pipe, component=component.unquantized, policy=policy, store=options.store):
        tell("drawing with one, and without 8 bits")
        trials = _Trials(pipe, scene, component, scales, truths)
        if not all(trials.missed.values()):
            raise DeepCacheError(
                f"{policy.in_words} loses nothing that --loss could be beside; choose another schedule, as --interval 3"
            )
        ranked = _ranked(groups_of(every), trials, own, shares, tell)
        taken, loss = _most(ranked, lambda layers: trials.lost(layers, own), budget, tell)
        tell("checking what was found on other seeds")
        found = [layer for each in ranked[:taken] for layer in each.group.layers]
        rivals = {FOUND: found, **_default(graph, component), "all": every}
        checked = {
            name: Checked(
                layers=len(layers),
                share=sum(shares[layer.name] for layer in layers),
                loss=trials.lost(layers, others),
            )
            for name, layers in rivals.items()
        }
    return Study(
        ranked=tuple(ranked),
        taken=taken,
        caching=statistics.mean(trials.missed[seed] for seed in own),
        loss=loss,
        checked=checked,
    )


class _Trials:
    """Draws with some layers in 8 bits, and says how far that is from what is drawn without.

    Attributes:
        missed: the relative error of what is drawn without 8 bits, which is that of caching, by seed.
    """

    def __init__(
        self,
        pipe: Any,
        scene: Scene,
        component: Component,
        scales: Mapping[str, float],
        truths: Mapping[int, np.ndarray],
    ) -> None:
        """Draw without 8 bits.

        Args:
            pipe: whose denoiser runs in PyTorch on the tensors of the component, cached.
            scene: what is drawn.
            component: quantized.
            scales: of its activations.
            truths: the latents without a cache, by seed.
        """
        assert component.quantizing is not None
        self._pipe, self._scene, self._truths, self._scales = pipe, scene, truths, scales
        self._precision, self._state = component.quantizing.precision, dict(component.tensors())
        self._bases = {seed: self._drawn((), seed) for seed in truths}
        self.missed = {seed: relative_error(truths[seed], base) for seed, base in self._bases.items()}

    def moved(self, layers: Sequence[Layer], seeds: Sequence[int]) -> float:
        """See `Ranked.error`: the mean over seeds."""
        return statistics.mean(relative_error(self._bases[seed], self._drawn(layers, seed)) for seed in seeds)

    def lost(self, layers: Sequence[Layer], seeds: Sequence[int]) -> float:
        """DB of PSNR against the latents without a cache: the mean over seeds."""
        errors = ((relative_error(self._truths[seed], self._drawn(layers, seed)), self.missed[seed]) for seed in seeds)
        return statistics.mean(20 * math.log10(ours / theirs) for ours, theirs in errors)

    def _drawn(self, layers: Sequence[Layer], seed: int) -> np.ndarray:
        with emulated(self._state, layers, self._scales, self._precision):
            return draw(self._pipe, self._scene, seed, decode=False).latents


def _ranked(
    groups: Sequence[Group], trials: _Trials, seeds: Sequence[int], shares: Mapping[str, float], tell: Tell
) -> list[Ranked]:
    """Each group alone, those first that cause the least squared error for each operation."""
    ranked = []
    for number, group in enumerate(groups, 1):
        error, share = trials.moved(group.layers, seeds), sum(shares[layer.name] for layer in group.layers)
        ranked.append(Ranked(group=group, share=share, error=error))
        tell(f"{number} of {len(groups)}: {group.name}: an error of {error:.2g} in {share:.1%} of the operations")
    return sorted(ranked, key=lambda each: each.error**2 / each.share)


def _most(
    ranked: Sequence[Ranked], lost: Callable[[Sequence[Layer]], float], budget: float, tell: Tell
) -> tuple[int, float]:
    """As many groups from the first as the budget allows together, and what they lose; halved for, as losses grow.

    Raises:
        DeepCacheError: the first one alone loses more.
    """
    few, many, loss = 0, len(ranked) + 1, 0.0
    while many - few > 1:
        tried = (few + many) // 2
        found = lost([layer for each in ranked[:tried] for layer in each.group.layers])
        tell(f"the best {tried} of {len(ranked)} groups together lose {found:.2f} dB")
        if found <= budget:
            few, loss = tried, found
        else:
            many = tried
    if not few:
        raise DeepCacheError(f"8 bits in {ranked[0].group.name} alone lose more than --loss {budget:g}; allow more")
    return few, loss


def _chosen(graph: onnx.ModelProto, component: Component, patterns: tuple[str, ...]) -> tuple[Layer, ...]:
    assert component.quantizing is not None
    return chosen(graph, patterns, component.quantizing.cached, title=component.title)


def _default(graph: onnx.ModelProto, component: Component) -> dict[str, tuple[Layer, ...]]:
    """The layers that are quantized unless others are named, by the name of their row; there may be none."""
    try:
        return {"the default": _chosen(graph, component, ())}
    except UnsupportedError:
        return {}


def _shares(graph: onnx.ModelProto, component: Component, policy: Policy, steps: int) -> dict[str, float]:
    """Each layer's share of the operations of a generation, products of attention among them, by the layer's name."""
    sizes = profiles_for(component, Shapes())[0].at("opt")
    calls = Counter(policy.plan(steps).variants)
    spent: Counter[str] = Counter()
    for variant in variants_of(component.architecture, policy, component.name):
        for layer in counting.layers_of(cut(graph, variant), sizes):
            spent[layer.path] += layer.macs.total * calls[variant.name]
    whole = sum(spent.values())
    return {name: count / whole for name, count in spent.items()}
