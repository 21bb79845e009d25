"""OpenVINO: a graph compiled for the CPU, on torch's own memory."""

import functools
import hashlib
import logging
import mmap
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcache_trt.engines.backend import ENGINE_GRAPH, Backend, Built, package_version
from deepcache_trt.engines.caches import is_usable, keep
from deepcache_trt.engines.engine import Engine, check_binding, profile_for
from deepcache_trt.engines.profile import ShapeProfile
from deepcache_trt.errors import BackendError, StoreError
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

# How often the pages of a file that is being loaded are given back.
_GIVE_BACK_SECONDS = 0.02

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
        self._mapped: list[Any] = []  # what requests read from, alive for as long as they are
        self._requests = {0: self._request(profiles[0])} if len(profiles) == 1 else {}  # the compiled ones, by profile
        self._current: Any = None  # the request that has been told of every bound tensor
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
        self._requests.clear()
        self._current = None
        self._mapped.clear()

    def _prepare(self) -> Any:
        """The request of the nearest profile, told of the memory of every bound tensor."""
        missing = [name for name in (*self.inputs, *self.outputs) if name not in self._bound]
        assert not missing, f"unbound: {missing}"
        profile = profile_for(self.inputs, self.outputs, self._bound, self._profiles)
        if profile not in self._requests:
            self._requests[profile] = self._request(self._profiles[profile])
        request = self._requests[profile]
        for name, spec in {**self.inputs, **self.outputs}.items():
            request.set_tensor(name, self._shared(self._bound[name], spec))
        return request

    def _request(self, profile: ShapeProfile) -> Any:
        """A request of the graph for one profile: loaded if it was compiled before, else compiled."""
        try:
            if self._cache is None:
                return self._compile(profile).create_infer_request()
            blob = self._cache / f"{_name_of(profile)}.blob"
            if is_usable(blob):
                try:
                    return self._load(blob)
                except (OSError, RuntimeError, ValueError) as error:
                    _log.warning("OpenVINO does not take %s (%s); it is compiled anew", blob, reason(error))
            compiled = self._compile(profile)
            try:
                blob.parent.mkdir(parents=True, exist_ok=True)
                exported = compiled.export_model()
                keep(blob, exported if isinstance(exported, bytes) else exported.getbuffer())
                return self._load(blob)
            except OSError as error:  # the next one compiles again
                _log.warning("what OpenVINO compiled was not saved to %s: %s", blob, error.strerror)
                return compiled.create_infer_request()
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot compile {self._path.name}: {reason(error)}") from error

    def _compile(self, profile: ShapeProfile) -> Any:
        model = _core().read_model(self._path)
        _scale_in_float32(model)
        model.reshape({name: self._partial_shape(spec, profile) for name, spec in self.inputs.items()})
        return _core().compile_model(model, "CPU", _config())

    def _load(self, blob: Path) -> Any:
        """A request of what was compiled; OpenVINO reads some weights from the mapped file ever after."""
        import numpy as np

        with blob.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # a tensor takes no memory that is read-only
        tensor = self._ov.Tensor(np.frombuffer(mapped, np.uint8), shared_memory=True)
        with _given_back(mapped):
            request = _core().import_model(tensor, "CPU", _config()).create_infer_request()
        self._mapped.append(tensor)
        return request

    def _partial_shape(self, spec: TensorSpec, profile: ShapeProfile) -> Any:
        low, high = (spec.resolve(profile.at(end)) for end in ("min", "max"))
        return self._ov.PartialShape([self._ov.Dimension(*bounds) for bounds in zip(low, high, strict=True)])

    def _shared(self, tensor: "torch.Tensor", spec: TensorSpec) -> Any:
        """OpenVINO's view of the tensor's memory."""
        import torch

        # numpy has no bfloat16, and OpenVINO asks the array for its address only.
        plain = tensor.detach().view(torch.int16) if spec.dtype == "bfloat16" else tensor.detach()
        return self._ov.Tensor(plain.numpy(), list(tensor.shape), getattr(self._ov.Type, _TYPES[spec.dtype]))


def _config() -> dict[str, str | int]:
    # The default, bf16 where the CPU has it, rounds whatever a graph holds in float32: float32 pipelines, and in all
    # others the timestep, of which 481 then gives the image of 480. This one keeps to the graph's own types.
    threads = _threads()
    return {"INFERENCE_PRECISION_HINT": "f32"} | ({"INFERENCE_NUM_THREADS": threads} if threads else {})


def _name_of(profile: ShapeProfile) -> str:
    """What is compiled depends on the shapes and the instructions of the CPU, beside what the folder stands for."""
    features = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    made_for = repr((asdict(profile), sorted(features), _core().get_property("CPU", "FULL_DEVICE_NAME")))
    return hashlib.sha256(made_for.encode()).hexdigest()[:20]


def _scale_in_float32(model: Any) -> None:
    """Let what a quantized bfloat16 graph multiplies with constants be multiplied in float32, as in a normalisation.

    Where layers are quantized OpenVINO moves scales about, those that it finds in normalisations too, and cannot put
    what it makes of them, which is float32, beside bfloat16. It fuses the conversions with what is around them.
    """
    from openvino import Type, opset13

    nodes = model.get_ops()
    if not any(node.get_type_name() == "FakeQuantize" for node in nodes):
        return
    for node in nodes:
        if node.get_type_name() != "Multiply" or node.get_output_element_type(0) != Type.bf16:
            continue
        given = [place.get_source_output() for place in node.inputs()]
        if any(map(_is_constant, given)):
            product = opset13.multiply(*(opset13.convert(each, Type.f32) for each in given))
            rounded = opset13.convert(product, Type.bf16).output(0)
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(rounded)


def _is_constant(given: Any) -> bool:
    node = given.get_node()
    while node.get_type_name() in ("Unsqueeze", "Reshape", "Convert") and node.get_input_size():
        node = node.input(0).get_source_output().get_node()
    return bool(node.get_type_name() == "Constant")


@contextmanager
def _given_back(mapped: mmap.mmap) -> Iterator[None]:
    """Give the pages of a mapped file back as they are read: the weights are copied, and would be in memory twice."""
    done = threading.Event()

    def give_back() -> None:
        while not done.wait(_GIVE_BACK_SECONDS):
            mapped.madvise(mmap.MADV_DONTNEED)
        mapped.madvise(mmap.MADV_DONTNEED)

    helper = threading.Thread(target=give_back, daemon=True)
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        helper.start()
    try:
        yield
    finally:
        done.set()
        if helper.ident is not None:
            helper.join()


def load() -> Any:
    """The module of OpenVINO.

    Raises:
        BackendError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise BackendError("backend 'openvino' is not installed; pip install 'deepcache-trt[cpu]'") from error
    return openvino


@functools.cache  # each one loads the plugins anew
def _core() -> Any:
    return load().Core()


def _threads() -> int | None:
    """As many threads as torch was told to use; None where nobody told it: OpenVINO knows sockets and slow cores."""
    import psutil
    import torch

    threads = torch.get_num_threads()
    return threads if threads < (psutil.cpu_count(logical=False) or 1) else None


def reason(error: BaseException) -> str:
    """The last line of OpenVINO's message; those before it say where in its sources it was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__


def _open(built: Built) -> OpenVinoEngine:
    return OpenVinoEngine(
        built.folder / ENGINE_GRAPH,
        inputs=built.inputs,
        outputs=built.outputs,
        profiles=built.profiles,
        cache=built.cache("engines"),
    )


OPENVINO = Backend(
    name="openvino",
    device="cpu",
    probe=lambda: str(load().__version__),
    version=functools.partial(package_version, "openvino"),
    open=_open,
    packages=("openvino",),
    compiled=True,
    static=True,
)
