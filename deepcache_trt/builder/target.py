"""What engines are built for and where they are kept."""

from dataclasses import dataclass, field
from pathlib import Path

from deepcache_trt.builder.shapes import Shapes
from deepcache_trt.engines import backends
from deepcache_trt.engines.store import Store
from deepcache_trt.engines.tensorrt_build import BuildOptions


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to build for: a backend on a device, and a store to keep it in.

    Attributes:
        backend: a real one, never "auto": see `backends.resolve`.
        device: "cpu" or "cuda".
        store: where everything is kept.
        build: "never" refuses instead of building.
        shapes: what compiled engines are built for, and nothing else then runs; None: whatever is called for.
        capability: of a GPU elsewhere, such as "sm86"; None: this machine's device.
        options: how TensorRT builds.
    """

    backend: str
    device: str
    store: Store
    build: str = "auto"
    shapes: Shapes | None = None
    capability: str | None = None
    options: BuildOptions = field(default_factory=BuildOptions)

    @property
    def compiled(self) -> bool:
        """Whether engines are built for shape profiles."""
        return self.backend in backends.COMPILED

    @property
    def device_tag(self) -> str:
        """The device as engines' keys and manifests have it."""
        return backends.device_tag(self.backend, self.device, self.capability)

    def cache(self, kind: str, name: str) -> Path:
        """Where the backend keeps what it learns about one engine or device: a file, or a folder, of its own making."""
        version = backends.version_of(self.backend)
        folder = self.store.root / "caches" / kind / f"{self.backend}-{version}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name.replace(" ", "-")
