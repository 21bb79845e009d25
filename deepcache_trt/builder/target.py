"""What engines are built for and where they are kept."""

from dataclasses import dataclass, field
from pathlib import Path

from deepcache_trt.builder.shapes import Shapes
from deepcache_trt.engines.backend import Backend, BuildOptions
from deepcache_trt.engines.store import Store


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to build for: a backend, and a store to keep it in.

    Attributes:
        backend: see `backends.resolve`.
        store: where everything is kept.
        build: "never" refuses instead of building.
        shapes: what compiled engines are built for, and nothing else then runs; None: whatever is called for.
        capability: of a GPU elsewhere, such as "sm86"; None: this machine's device.
        options: how the backend builds, if it takes options.
        segments: whether variants are lists of segments that share all weights; None: as the policy prefers.
    """

    backend: Backend
    store: Store
    build: str = "auto"
    shapes: Shapes | None = None
    capability: str | None = None
    options: BuildOptions = field(default_factory=BuildOptions)
    segments: bool | None = None

    @property
    def device(self) -> str:
        """Where engines read and fill their tensors: "cpu" or "cuda"."""
        return self.backend.device

    @property
    def device_tag(self) -> str:
        """The device as engines' keys and manifests have it."""
        return self.backend.device_tag(self.capability)

    def cache(self, kind: str, name: str) -> Path:
        """Where the backend keeps what it learns about one engine or device: a file, or a folder, of its own making."""
        folder = self.store.root / "caches" / kind / f"{self.backend.name}-{self.backend.version()}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name.replace(" ", "-")
