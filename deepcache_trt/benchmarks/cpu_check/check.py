"""What this package gains on a CPU, and against whom: `deepcache-trt check cpu`.

Real-size Stable Diffusion 1.5 with seeded weights at 256 × 256, guidance on: our OpenVINO engines, the DeepCache
package on eager diffusers, and diffusers alone, eager and compiled. The systems run in groups that fit into memory
together; every figure compares systems of one group. Needs no network, and an otherwise idle machine.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.cpu_check.rows import (
    Row,
    ideal_row,
    markdown,
    memory_row,
    outside_row,
    speed_row,
)
from deepcache_trt.benchmarks.fidelity.distances import latent_distances
from deepcache_trt.benchmarks.report import write_json
from deepcache_trt.benchmarks.timing.turns import Outcome, System, take_turns
from deepcache_trt.errors import UnknownNameError, did_you_mean
from deepcache_trt.runtime.policies.deepcache import DeepCache
from deepcache_trt.tensors import LATENT_PIXELS, PROMPT_TOKENS

BACKEND, INTERVAL, BRANCH = "openvino", 5, 0

# What each model is drawn at where nothing else is asked for.
PIXELS = {"sd15": 256, "digits": 64}

# Systems.
OURS, UNCACHED, OURS_FLOAT = "ours bf16", "ours bf16, interval 1", "ours fp32"
PACKAGE, PACKAGE_FLOAT = "DeepCache package bf16", "DeepCache package fp32"
COMPILED, PLAIN, REFERENCE = "compiled diffusers bf16", "diffusers bf16", "diffusers fp32"

# Groups. The first one leaves the engines in the store, so that what is timed and weighed later only loads them.
BUILD, CACHED, WHOLE, TRUTH = "build", "cached", "uncached", "reference"

Groups = Mapping[str, Sequence[Outcome]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is drawn, and how often.

    Attributes:
        model: a key of `PIXELS`.
        pixels: height and width.
        steps: of denoising.
        repeats: timed images of each system, after its first one.
    """

    model: str
    pixels: int
    steps: int
    repeats: int


def settings_of(model: str, *, pixels: int | None, steps: int, repeats: int) -> Settings:
    """The settings of a check; without `pixels` those of the model.

    Raises:
        UnknownNameError: a model that is not in `PIXELS`.
    """
    if model not in PIXELS:
        known = list(PIXELS)
        raise UnknownNameError(f"unknown model {model!r}{did_you_mean(model, known)}; there are {', '.join(known)}")
    return Settings(model=model, pixels=pixels or PIXELS[model], steps=steps, repeats=repeats)


def plan_groups(settings: Settings, folders: Mapping[str, str], store: Path, latents: Path) -> dict[str, list[System]]:
    """The systems by group.

    Args:
        settings: of the check.
        folders: of the pipeline, by dtype.
        store: where engines are kept.
        latents: a folder for what the systems' first images end with.
    """
    from deepcache_trt.benchmarks.timing import our_system, systems

    def make(name: str, factory: Callable[..., Any], dtype: str, rounds: int, **arguments: Any) -> System:
        picture = systems.Picture(
            folder=folders[dtype],
            dtype=dtype,
            pixels=settings.pixels,
            steps=settings.steps,
            latents=str(latents_file(latents, name)),
        )
        return systems.system(factory, picture, name=name, rounds=rounds, **arguments)

    def ours(name: str, dtype: str, rounds: int, interval: int = INTERVAL) -> System:
        policy = DeepCache(cache_interval=interval, cache_branch_id=BRANCH)
        where = {"backend": BACKEND, "store": str(store), "keep_torch_weights": False}
        return make(name, our_system.ours, dtype, rounds, policy=policy.to_json(), **where)

    half, single, repeats = "bfloat16", "float32", settings.repeats
    package = {"interval": INTERVAL, "branch": BRANCH}
    return {
        BUILD: [ours(OURS, half, 0), ours(OURS_FLOAT, single, 0)],
        CACHED: [
            ours(OURS, half, repeats),
            make(PACKAGE, systems.deepcache, half, repeats, **package),
            make(PACKAGE_FLOAT, systems.deepcache, single, repeats, **package),
            ours(OURS_FLOAT, single, repeats),
        ],
        WHOLE: [
            ours(OURS, half, repeats),
            ours(UNCACHED, half, repeats, interval=1),
            make(PLAIN, systems.diffusers, half, repeats),
            make(COMPILED, systems.compiled, half, repeats),
        ],
        TRUTH: [make(REFERENCE, systems.diffusers, single, 0)],
    }


def latents_file(folder: Path, system: str) -> Path:
    """Where a system's latents are put."""
    return folder / f"{system.replace(' ', '-').replace(',', '')}.npy"


# What is required of each figure.
_OUTSIDE = Row(measure="time outside the engines, whole loop", required=0.01, at_most=True, unit="%")
_AGAINST_PACKAGE = Row(measure="OpenVINO bf16 against the DeepCache package in eager fp32", required=3.0)
_EQUAL_HALF = Row(measure="the same at equal precision, bf16", required=1.4)
_EQUAL_FLOAT = Row(measure="the same at equal precision, fp32")
_AGAINST_COMPILED = Row(measure="OpenVINO bf16 against torch.compiled uncached diffusers at bf16", required=3.8)
_AGAINST_PLAIN = Row(measure="OpenVINO bf16 against eager uncached diffusers at bf16")
_IDEAL = Row(measure="speed-up by caching over the ideal from MACs", required=0.95, unit="")
_MEMORY = Row(measure="peak memory, torch weights dropped, against plain diffusers, bf16", required=1.15, at_most=True)


def make_rows(groups: Groups, macs: Mapping[str, int]) -> list[Row]:
    """Every row of the table, as far as the groups have been run.

    Args:
        groups: of outcomes, by name.
        macs: of a run of each variant; empty: unknown.
    """

    def outcome_of(group: str, name: str) -> Outcome:
        outcomes = {outcome.name: outcome for outcome in groups.get(group, ())}
        return outcomes.get(name, Outcome(name=name, error="not measured"))

    cached, whole = outcome_of(CACHED, OURS), outcome_of(WHOLE, OURS)
    package_float, plain = outcome_of(CACHED, PACKAGE_FLOAT), outcome_of(WHOLE, PLAIN)
    return [
        outside_row(_OUTSIDE, whole),
        speed_row(_AGAINST_PACKAGE, package_float, cached),
        speed_row(_EQUAL_HALF, outcome_of(CACHED, PACKAGE), cached),
        speed_row(_EQUAL_FLOAT, package_float, outcome_of(CACHED, OURS_FLOAT)),
        speed_row(_AGAINST_COMPILED, outcome_of(WHOLE, COMPILED), whole),
        speed_row(_AGAINST_PLAIN, plain, whole),
        ideal_row(_IDEAL, outcome_of(WHOLE, UNCACHED), whole, macs),
        memory_row(_MEMORY, whole, plain),
    ]


def count_variants(folder: str, store: Path, pixels: int) -> dict[str, int]:
    """Multiply-accumulate operations of one guided run of each variant, from its graph in the store."""
    import onnx

    from deepcache_trt.benchmarks.counting.macs import variant_macs
    from deepcache_trt.builder.graphs import GRAPH, graph_artefact
    from deepcache_trt.builder.model_source import ModelSource, find_components
    from deepcache_trt.builder.pieces import variants_of
    from deepcache_trt.engines.store import Store
    from deepcache_trt.progress import logged

    (component,) = find_components(ModelSource(model=folder), dtype="bfloat16", parts=("unet",))
    graph = onnx.load(graph_artefact(component, Store(store), logged).folder / GRAPH, load_external_data=False)
    side = pixels // LATENT_PIXELS
    sizes = {"batch": 2, "height": side, "width": side, "sequence": PROMPT_TOKENS}
    variants = variants_of(component.architecture, DeepCache(cache_branch_id=BRANCH), component.name)
    return variant_macs(graph, variants, sizes)


def measure_distances(folder: Path, names: Iterable[str]) -> dict[str, dict[str, float | None]]:
    """How far each system's latents are from the reference's, for those that left some."""
    import numpy as np

    files = {name: latents_file(folder, name) for name in (REFERENCE, *names)}
    latents = {name: np.load(file) for name, file in files.items() if file.exists()}
    reference = latents.pop(REFERENCE, None)
    return {} if reference is None else {name: latent_distances(reference, each) for name, each in latents.items()}


def pipeline_folders(model: str, store: Path) -> dict[str, str]:
    """The folder of the pipeline for each dtype."""
    from deepcache_trt.benchmarks.timing.seeded import random_pipeline
    from deepcache_trt.engines.store import Store
    from deepcache_trt.models.catalogue import resolve

    dtypes = ("bfloat16", "float32")
    if model == "digits":
        return dict.fromkeys(dtypes, str(resolve(model)))
    return {dtype: random_pipeline(model, dtype, Store(store)) for dtype in dtypes}


def check(settings: Settings, out: Path, store: Path, tell: Callable[[str], None]) -> tuple[list[Row], str]:
    """Run every group; returns the rows, and the report as Markdown.

    Args:
        settings: of the check.
        out: the JSON file, which is written after every group.
        store: where engines and seeded weights are kept.
        tell: called with a line about each step.
    """
    facts = _facts(settings)
    groups: dict[str, list[Outcome]] = {}
    macs: dict[str, int] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    folders = pipeline_folders(settings.model, store)
    with tempfile.TemporaryDirectory(prefix="cpu-check-") as temporary:
        latents = Path(temporary)
        for group, systems in plan_groups(settings, folders, store, latents).items():
            tell(f"group {group}: {', '.join(system.name for system in systems)}")
            groups[group] = take_turns(systems, tell)
            if group == BUILD and not groups[group][0].error:
                macs = count_variants(folders["bfloat16"], store, settings.pixels)
            rows = make_rows(groups, macs)
            names = {outcome.name for outcomes in groups.values() for outcome in outcomes}
            distances = measure_distances(latents, names)
            write_json(out, _record(facts, rows, groups, distances) | {"macs": macs})
    return rows, markdown(facts, rows, groups, distances)


def _facts(settings: Settings) -> dict[str, Any]:
    from deepcache_trt.benchmarks.machine import environment, memory

    caching = {"backend": BACKEND, "interval": INTERVAL, "branch": BRANCH}
    return {**asdict(settings), **caching, **environment(), "memory": memory()}


def _record(
    facts: Mapping[str, Any], rows: Sequence[Row], groups: Groups, distances: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "environment": dict(facts),
        "rows": [row.record() for row in rows],
        "fidelity": dict(distances),
        "groups": {group: [asdict(outcome) for outcome in outcomes] for group, outcomes in groups.items()},
    }
