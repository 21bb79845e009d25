"""A test-size model, exported once for all tests, and its graphs with the weights beside them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from deepcache_trt.builder.component import Component, from_model
from deepcache_trt.builder.graphs import GRAPH, graph_artefact, weights_artefact
from deepcache_trt.engines.store import Store
from deepcache_trt.export import parity, weights
from deepcache_trt.export.cut import cut
from deepcache_trt.models.architecture import CallForm
from deepcache_trt.models.taps import Variant
from deepcache_trt.progress import logged

WHOLE = Variant(name="whole")


@dataclass(frozen=True)
class Exported:
    component: Component
    model: Any
    graph: onnx.ModelProto
    about: dict[str, Any]
    folder: Path  # with the weights in it

    @property
    def taps(self) -> list[str]:
        return [tap.name for tap in self.component.architecture.taps]

    @property
    def weights(self) -> set[str]:
        """The names of what the graph reads from the checkpoint."""
        return self.weights_of(WHOLE)

    def weights_of(self, variant: Variant) -> set[str]:
        """The names of what a variant's graph reads from the checkpoint."""
        external = onnx.TensorProto.EXTERNAL
        return {i.name for i in cut(self.graph, variant).graph.initializer if i.data_location == external}

    @property
    def constants(self) -> dict[str, torch.Tensor]:
        """What the graph holds itself."""
        inline = [i for i in self.graph.graph.initializer if i.data_location != onnx.TensorProto.EXTERNAL]
        return {i.name: torch.from_numpy(onnx.numpy_helper.to_array(i).copy()) for i in inline}

    def save(self, variant: Variant = WHOLE) -> Path:
        path = self.folder / f"{variant.name}.onnx"
        model = cut(self.graph, variant)
        weights.save_bound(model, weights.locate(sorted(self.folder.glob("*.safetensors"))), path)
        return path

    def inputs(self, **sizes: int) -> dict[str, torch.Tensor]:
        return parity.example_inputs(self.component.architecture, sizes, seed=sum(sizes.values()))


def export(model: Any, name: str, store_root: Path, folder: Path, *, controlled: bool = False) -> Exported:
    store = Store(store_root)
    component = from_model(model, name="tiny", part=name, form=CallForm(controlled=controlled))
    artefact = graph_artefact(component, store, logged)
    weights.link(sorted(weights_artefact(component, store, logged).folder.glob("*.safetensors")), folder)
    graph = onnx.load(artefact.folder / GRAPH, load_external_data=False)
    return Exported(component, model, graph, artefact.about, folder)
