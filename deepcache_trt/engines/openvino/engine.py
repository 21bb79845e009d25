"""OpenVINO: a graph compiled for the CPU, on torch's own memory."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcache_trt.engines.engine import Engine, check_binding, profile_for
from deepcache_trt.engines.openvino.compiled import Compiled, compiled
from deepcache_trt.engines.openvino.library import core, load, reason
from deepcache_trt.engines.profile import ShapeProfile
from deepcache_trt.errors import BackendError, StoreError
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

# OpenVINO's names of the dtypes.
_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int64": "i64", "bool": "boolean"}


class OpenVinoEngine(Engine):
    """A graph on the CPU; inputs and outputs are torch tensors, bound without a copy.

    It computes in the types of the graph: a bfloat16 graph in bfloat16 where the CPU has it and else, as a float16 one,
    in float32. A profile of one size is compiled for just that size and is faster than one that spans several. Of
    several profiles each is compiled when it is first run; each compiled one holds the weights anew.
    """

    capturable = False

    def __init__(
        self,
        path: Path,
        *,
        inputs: Mapping[str, TensorSpec],
        outputs: Mapping[str, TensorSpec],
        profiles: Sequence[ShapeProfile],
        cache: Path | None = None,
    ) -> None:
        """Take the graph at `path`; its weights lie beside it and are mapped into memory.

        Args:
            path: the graph.
            inputs: of the graph: OpenVINO drops the names of the axes.
            outputs: of the graph.
            profiles: the shapes that it can be run at.
            cache: a folder of this engine's own for what OpenVINO compiles, with the weights in it: loaded from there
                it takes less memory and time. None: compile each time.

        Raises:
            StoreError: there is no graph.
            BackendError: OpenVINO is not installed, or cannot compile the graph.
        """
        self._ov = load()
        if not path.is_file():
            raise StoreError(f"there is no graph at {path}; build it again")
        self.inputs, self.outputs = dict(inputs), dict(outputs)
        self._path = path
        self._profiles = profiles
        self._cache = cache
        # One profile will be run, of several maybe only some.
        self._compiled = {0: self._compile(profiles[0])} if len(profiles) == 1 else {}  # the compiled ones, by profile
        self._current: Compiled | None = None  # that has been told of every bound tensor
        self._bound: dict[str, torch.Tensor] = {}

    def bind(self, name: str, tensor: "torch.Tensor") -> None:
        """Use the tensor's memory; its shape meets the others' at the next `run`."""
        check_binding(self.inputs.get(name) or self.outputs[name], tensor, "cpu")
        bound = self._bound.get(name)
        if bound is None or bound.data_ptr() != tensor.data_ptr() or bound.shape != tensor.shape:
            self._current = None
        self._bound[name] = tensor

    def run(self) -> None:
        """Run one inference; the outputs are filled when this returns. The first one of a profile compiles it.

        Raises:
            ShapeError: the bound shapes do not go together, or no profile covers them.
            BackendError: OpenVINO cannot compile or run the graph.
        """
        if self._current is None:
            self._current = self._prepare()
        try:
            self._current.infer()
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed in {self._path.name}: {reason(error)}") from error

    def close(self) -> None:
        """Drop the compiled models and the references to bound tensors."""
        self._bound.clear()
        self._compiled.clear()
        self._current = None

    def _prepare(self) -> Compiled:
        """What is compiled for the nearest profile, told of the memory of every bound tensor."""
        missing = [name for name in (*self.inputs, *self.outputs) if name not in self._bound]
        assert not missing, f"unbound: {missing}"
        profile = profile_for(self.inputs, self.outputs, self._bound, self._profiles)
        if profile not in self._compiled:
            self._compiled[profile] = self._compile(self._profiles[profile])
        ready = self._compiled[profile]
        for name, spec in {**self.inputs, **self.outputs}.items():
            ready.bind(name, self._shared(self._bound[name], spec))
        return ready

    def _compile(self, profile: ShapeProfile) -> Compiled:
        """The graph for one profile: loaded if it was compiled before, else compiled."""
        shapes = {name: self._partial_shape(spec, profile) for name, spec in self.inputs.items()}
        blob = None if self._cache is None else self._cache / f"{_name_of(profile)}.blob"
        try:
            return compiled(self._path, shapes, blob)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot compile {self._path.name}: {reason(error)}") from error

    def _partial_shape(self, spec: TensorSpec, profile: ShapeProfile) -> Any:
        low, high = (spec.resolve(profile.at(end)) for end in ("min", "max"))
        return self._ov.PartialShape([self._ov.Dimension(*bounds) for bounds in zip(low, high, strict=True)])

    def _shared(self, tensor: "torch.Tensor", spec: TensorSpec) -> Any:
        """OpenVINO's view of the tensor's memory."""
        import torch

        # numpy has no bfloat16, and OpenVINO asks the array for its address only.
        plain = tensor.detach().view(torch.int16) if spec.dtype == "bfloat16" else tensor.detach()
        return self._ov.Tensor(plain.numpy(), list(tensor.shape), getattr(self._ov.Type, _TYPES[spec.dtype]))


def _name_of(profile: ShapeProfile) -> str:
    """What is compiled depends on the shapes and the instructions of the CPU, beside what the folder stands for."""
    features = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    made_for = repr((asdict(profile), sorted(features), core().get_property("CPU", "FULL_DEVICE_NAME")))
    return hashlib.sha256(made_for.encode()).hexdigest()[:20]
