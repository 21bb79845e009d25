"""The systems of each cell of a grid, and the model that all of them load."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.bench.grid import (
    COMPILED,
    DEEPCACHE,
    DIFFUSERS,
    NAMES,
    OURS,
    REFERENCE,
    Cell,
    Settings,
    ours_on,
)
from deepcache_trt.benchmarks.timing import our_system, systems
from deepcache_trt.benchmarks.timing.systems import Picture
from deepcache_trt.benchmarks.timing.turns import System
from deepcache_trt.engines import backends
from deepcache_trt.errors import CheckpointError, first_line
from deepcache_trt.pipelines.calibrating.prompts import NOISE


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What the systems of a row are made from.

    Attributes:
        settings: of the grid.
        folder: of the pipeline that all load.
        store: where engines are kept.
        latents: a folder for what their first pictures end with.
        python: the interpreter of all but ours; "": this one.
    """

    settings: Settings
    folder: str
    store: Path
    latents: Path
    python: str

    def latents_file(self, cell: Cell, name: str) -> Path:
        """Where a system's latents are put: each has a file of its own for each cell."""
        return self.latents / (re.sub(r"[^a-z0-9]+", "-", f"{cell.column} {name}".lower()) + ".npy")

    def builders(self, row: Cell) -> dict[str, System]:
        """What builds the engines of a row, by the name of ours that they are for."""
        return {
            ours_on(backend, precision): systems.system(
                our_system.build,
                self._picture(row, "build"),
                name=f"building for {ours_on(backend, precision)}",
                rounds=0,
                backend=backend,
                policies=[policy.to_json() for policy in self.settings.policies],
                store=str(self.store),
                quantizing=self._quantizing(precision),
            )
            for backend, precision in self.settings.ours
            if not self._runs_model(backend)  # nothing is built for the model itself
        }

    def reference(self, row: Cell) -> System:
        """What draws the picture of a row that all others are compared with."""
        picture = replace(self._picture(row, REFERENCE), dtype="float32")
        return systems.system(systems.diffusers, picture, name=REFERENCE, rounds=0, python=self.python)

    def systems(self, cell: Cell) -> list[System]:
        """The systems that can draw a cell: the package caches only, diffusers does not."""
        asked = self.settings.systems
        chosen = [self._ours(cell, *ours) for ours in self.settings.ours if OURS in asked]
        if cell.is_plain:
            if {DIFFUSERS, DEEPCACHE} & set(asked):
                chosen.append(self._peer(cell, DIFFUSERS, systems.diffusers))
            if COMPILED in asked:
                chosen.append(self._peer(cell, COMPILED, systems.compiled))
        elif DEEPCACHE in asked and cell.published_form is not None:
            interval, branch = cell.published_form
            chosen.append(self._peer(cell, DEEPCACHE, systems.deepcache, interval=interval, branch=branch))
        return chosen

    def _ours(self, cell: Cell, backend: str, precision: str | None) -> System:
        name = ours_on(backend, precision)
        return systems.system(
            our_system.ours,
            self._picture(cell, name),
            name=name,
            rounds=self.settings.repeats,
            backend=backend,
            policy=cell.policy.to_json(),
            store=str(self.store),
            keep_torch_weights=False,
            quantizing=self._quantizing(precision),
            exact=not self._runs_model(backend),
        )

    def _quantizing(self, precision: str | None) -> dict[str, Any]:
        """Of `EngineOptions`; random weights draw nothing from a prompt that would tell more than noise does."""
        if precision is None:
            return {}
        prompts = NOISE if self.settings.random_weights else None
        return {"precision": precision, "quantize": self.settings.quantize or None, "calibration_prompts": prompts}

    def _runs_model(self, backend: str) -> bool:
        return backends.find(backend, self.settings.device).runs_model

    def _peer(self, cell: Cell, kind: str, factory: Callable[..., Any], **caching: int) -> System:
        name, rounds = NAMES[kind], self.settings.repeats
        return systems.system(
            factory, self._picture(cell, name), name=name, rounds=rounds, python=self.python, **caching
        )

    def _picture(self, cell: Cell, name: str) -> Picture:
        return Picture(
            folder=self.folder,
            dtype=self.settings.dtype,
            pixels=cell.pixels,
            steps=self.settings.steps,
            latents=str(self.latents_file(cell, name)),
            batch=cell.batch,
            device=self.settings.device,
        )


def count_operations(stage: Stage, row: Cell) -> list[dict[str, Any]]:
    """Multiply-accumulate operations of one run of each variant for one image of a row, from the graph in the store.

    Each entry has "pixels", "policy" and of its "variants" each with "weights" and "attention".
    """
    import onnx

    from deepcache_trt.benchmarks.bench.published import image_sizes
    from deepcache_trt.benchmarks.counting.macs import count_macs
    from deepcache_trt.builder.graphs import GRAPH, graph_artefact
    from deepcache_trt.builder.model_source import ModelSource, find_components
    from deepcache_trt.builder.pieces import variants_of
    from deepcache_trt.engines.store import Store
    from deepcache_trt.export.cut import cut
    from deepcache_trt.progress import logged

    source = ModelSource(model=stage.folder)
    (component,) = find_components(source, dtype=stage.settings.dtype, parts=("unet",))
    path = graph_artefact(component, Store(stage.store), logged).folder / GRAPH
    graph, sizes = onnx.load(path, load_external_data=False), image_sizes(row.pixels)
    wanted = {policy: variants_of(component.architecture, policy, component.name) for policy in stage.settings.policies}
    counts = {each: asdict(count_macs(cut(graph, each), sizes)) for each in {*chain(*wanted.values())}}
    return [
        {"pixels": row.pixels, "policy": policy.to_json(), "variants": {each.name: counts[each] for each in variants}}
        for policy, variants in wanted.items()
    ]


def pipeline_folder(settings: Settings, store: Path) -> str:
    """The folder that every system loads; what has to be drawn or downloaded is, before anything is timed.

    Raises:
        UnknownNameError: no such model, or a component of it that layers are to be quantized of.
        CheckpointError: it cannot be downloaded, or draws nothing from a prompt.
    """
    from deepcache_trt.benchmarks.timing.seeded import random_pipeline
    from deepcache_trt.builder.quantized.quantizing import check_owners
    from deepcache_trt.engines.store import Store
    from deepcache_trt.models.catalogue import CATALOGUE, resolve
    from deepcache_trt.models.checkpoint.folder import read_index
    from deepcache_trt.models.registry import COVERED

    if settings.random_weights and (settings.model not in CATALOGUE or CATALOGUE[settings.model].parts):
        folder = random_pipeline(settings.model, settings.dtype, Store(store), prompts=True)
    else:
        folder = str(resolve(settings.model))
    if not Path(folder).is_dir():
        from diffusers import DiffusionPipeline

        try:
            folder = DiffusionPipeline.download(folder, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"cannot get {folder!r}: {first_line(error)}; check the name, the network and your access, "
                f"give a local folder, or use --random-weights"
            ) from error
    parts = read_index(Path(folder))
    if not {"unet", "vae", "text_encoder", "tokenizer"} <= set(parts):
        raise CheckpointError(f"{settings.model} draws no images from a prompt with a U-Net, which is what is compared")
    check_owners(settings.quantize, [part for part, (_, kind) in parts.items() if kind in COVERED])
    return folder
