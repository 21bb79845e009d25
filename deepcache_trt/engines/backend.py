"""A backend: one value that says what it is, whether it works here, how it builds and how it opens.

Nothing else knows a backend by its name: whoever has to know something about one asks its value, and whatever differs
between two of them is a field here. `engines.backends` lists the values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepcache_trt.engines.engine import Engine
from deepcache_trt.engines.profile import ShapeProfile
from deepcache_trt.errors import BackendError
from deepcache_trt.progress import Progress
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

TensorFunction = Callable[[Mapping[str, "torch.Tensor"]], Mapping[str, "torch.Tensor"]]

# What an engine's folder holds where the backend takes the graph as it is; its weights lie beside it.
ENGINE_GRAPH = "engine.onnx"


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What may be chosen about a build; all of it enters the key of the engine, where the backend takes options."""

    optimization_level: int | None = None  # 0…5, the last one slow; None: the backend's default
    workspace_bytes: int | None = None  # scratch memory that a kernel may use; None: as much as the backend likes
    refittable: bool = False  # whether the engine can take other weights later; costs some speed


@dataclass(frozen=True, kw_only=True)
class Order:
    """One engine to be built.

    Attributes:
        graph: the variant's ONNX file with its weights beside it; both are the backend's to take away.
        folder: an empty folder for what is built.
        inputs: of the graph.
        profiles: the shapes to build for.
        target: the GPU elsewhere that it is for, such as "sm86"; None: this machine's device.
        options: as far as the backend takes any.
        cache: the file or folder, by a kind of the backend's own, for what it learns about the device.
        progress: told about the build, under the name `stage`.
        stage: what is built, in words.
    """

    graph: Path
    folder: Path
    inputs: Mapping[str, TensorSpec]
    profiles: Sequence[ShapeProfile]
    target: str | None
    options: BuildOptions
    cache: Callable[[str], Path]
    progress: Progress
    stage: str


@dataclass(frozen=True, kw_only=True)
class TorchVariant:
    """A variant as PyTorch runs it, for the backends that run the model itself.

    Attributes:
        inputs: of the model: its own `forward` asks for what a supplied tap makes superfluous too.
        eager: makes the function.
        traceable: makes one that torch's compiler can trace as a whole; None: the model asks tensors for their values,
            which cannot be traced.
    """

    inputs: Mapping[str, TensorSpec]
    eager: Callable[[], TensorFunction]
    traceable: Callable[[], TensorFunction] | None


@dataclass(frozen=True, kw_only=True)
class Built:
    """One engine to be opened.

    Attributes:
        folder: what `build` has filled.
        inputs: of the graph.
        outputs: of the graph.
        profiles: the shapes that it was built for.
        cache: the file or folder, by a kind of the backend's own, for what it learns about this engine.
        variant: the same in PyTorch; None: it is a segment, which no backend has that runs the model itself.
        options: that it was built with.
    """

    folder: Path
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    profiles: Sequence[ShapeProfile]
    cache: Callable[[str], Path]
    variant: TorchVariant | None
    options: BuildOptions = BuildOptions()


def keep_graph(order: Order) -> dict[str, Any]:
    """Build nothing: the graph with its weights is what is opened."""
    for file in order.graph.parent.iterdir():
        file.rename(order.folder / (ENGINE_GRAPH if file == order.graph else file.name))
    return {}


def keep_nothing(order: Order) -> dict[str, Any]:
    """Build nothing: the model itself is what is opened."""
    return {}


def takes_anything(target: str | None, options: BuildOptions) -> None:
    """There is nothing to refuse before a build."""


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One way to run a variant on one kind of device.

    Attributes:
        name: what users call it; it enters keys and manifests.
        device: "cpu" or "cuda".
        probe: gives, for a person, what works here; raises BackendError with the reason and what to install.
        version: enters the key of an engine; for a backend that `probe` accepts.
        open: from what was built to an engine.
        build: fills a folder; returns what the manifest says about it.
        check: raises BackendError or UnknownNameError for a target or options that a build would refuse.
        packages: what it needs, as package indices call it; reports tell their versions.
        compiled: whether engines are built for shape profiles and take no other shapes.
        static: whether one shape is faster than a range of shapes; what is compiled for a range serves the small too.
        options: whether it takes `BuildOptions`.
        refits: whether an engine that was built refittable takes other weights in place.
        ahead: says whether engines for another GPU can be built on this machine; None: never. Engines of such a backend
            belong to a compute capability, those of the others to one model of GPU.
        trusted: whether its engines are used without a comparison with ONNX Runtime on the CPU.
        runs_model: whether its engine is the torch model itself, whose weights must stay.
        opens_graphs: whether nothing is won by keeping an engine: it is opened as quickly from its graph.
        bit_exact: whether a cached step gives what the full step gives bit for bit.
        captures: whether its engines record CUDA graphs of their own.
        lacks: precisions that it has not, each with the cure.
    """

    name: str
    device: str
    probe: Callable[[], str]
    version: Callable[[], str]
    open: Callable[[Built], Engine]
    build: Callable[[Order], dict[str, Any]] = keep_graph
    check: Callable[[str | None, BuildOptions], None] = takes_anything
    packages: tuple[str, ...] = ()
    compiled: bool = False
    static: bool = False
    options: bool = False
    refits: bool = False
    ahead: Callable[[], bool] | None = None
    trusted: bool = False
    runs_model: bool = False
    opens_graphs: bool = False
    bit_exact: bool = False
    captures: bool = False
    lacks: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def check_dtype(self, dtype: str) -> None:
        """Raise BackendError unless it computes in that precision."""
        if dtype in self.lacks:
            raise BackendError(
                f"backend {self.name!r} has no {dtype} on the {self.device.upper()}; {self.lacks[dtype]}"
            )

    def device_tag(self, target: str | None = None) -> str:
        """The device that enters the key of an engine: an engine for one is not loaded on another.

        Args:
            target: the compute capability of a GPU elsewhere, such as "sm86"; None: this machine's device.
        """
        if target is not None:
            return target
        if self.device == "cpu":
            import platform

            return f"cpu-{platform.machine()}"
        import torch

        major, minor = torch.cuda.get_device_capability()
        capability = f"sm{major}{minor}"
        return capability if self.ahead is not None else f"{torch.cuda.get_device_name()} {capability}"


def why_no_gpu() -> str | None:
    """Why there is no GPU to run on; None where there is one."""
    import torch

    if torch.cuda.is_available():
        return None
    return f"torch {torch.__version__} sees no GPU; install an NVIDIA driver and torch's CUDA build"


def package_version(*names: str) -> str:
    """The version of the first of these packages that is installed."""
    from importlib.metadata import PackageNotFoundError, version

    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown version"
