"""What `deepcache-trt bench` measures: the cells of a grid, the systems, the settings; values only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from deepcache_trt.errors import DeepCacheError, UnknownNameError, did_you_mean
from deepcache_trt.runtime.plan import CacheParams, make_plan

# An interval and a branch.
Caching = tuple[int, int]

# Systems, as they are asked for. Ours stands for each backend.
OURS, DEEPCACHE, DIFFUSERS, COMPILED = "ours", "deepcache", "diffusers", "compiled"
SYSTEMS = (OURS, DEEPCACHE, DIFFUSERS, COMPILED)

DTYPES = ("float32", "float16", "bfloat16")

# What a cached step is supposed to cost when the time that is left is estimated.
_CACHED_STEP = 0.15


@dataclass(frozen=True, kw_only=True, order=True)
class Cell:
    """One size, batch and way to cache.

    Attributes:
        pixels: height and width.
        batch: images of a call.
        interval: one step in so many is full; 1: plain.
        branch: DeepCache's k.
    """

    pixels: int
    batch: int
    interval: int
    branch: int

    @property
    def plain(self) -> "Cell":
        """The same without caching: what its speed-up is measured against."""
        return replace(self, interval=1, branch=0)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is cached."""
        return self.interval == 1

    @property
    def row(self) -> str:
        """Its row of the table."""
        return f"{self.pixels} px, batch {self.batch}"

    @property
    def title(self) -> str:
        """For a person."""
        return f"{self.row}, {title_of(self.interval, self.branch)}"


def title_of(interval: int, branch: int) -> str:
    """The heading of a column, as it is published."""
    return "plain" if interval == 1 else f"I={interval} B={branch}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that a benchmark's figures depend on, beside the machine.

    Attributes:
        model: a name of the catalogue, a folder or a hub id.
        random_weights: a catalogue model of real size with seeded weights.
        dtype: of every system that is timed.
        device: "cpu" or "cuda".
        steps: of denoising.
        sizes: pixels, height and width.
        batches: images of a call.
        caching: interval and branch of each cached column; the plain one comes before them.
        systems: of `SYSTEMS`.
        backends: of ours.
        repeats: timed calls of each system in each plain cell, after its first one; see `calls`.
    """

    model: str
    random_weights: bool
    dtype: str
    device: str
    steps: int
    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    caching: tuple[Caching, ...]
    systems: tuple[str, ...]
    backends: tuple[str, ...]
    repeats: int

    def __post_init__(self) -> None:
        for name in self.systems:
            _check_name("system", name, SYSTEMS)
        _check_name("dtype", self.dtype, DTYPES)
        for option, values in (
            ("--size", self.sizes),
            ("--batch", self.batches),
            ("--steps", (self.steps,)),
            ("--repeats", (self.repeats,)),
        ):
            for value in values:
                if value < 1:
                    raise DeepCacheError(f"{option} must be at least 1, not {value}")
        for interval, branch in self.caching:
            if interval < 2:
                raise DeepCacheError(f"--interval {interval} caches nothing, which every grid has; give 2 or more")
            CacheParams(cache_interval=interval, cache_branch_id=branch)  # refuses what it refuses

    @property
    def cells(self) -> list[Cell]:
        """All cells, row by row, the plain one first."""
        return [
            Cell(pixels=pixels, batch=batch, interval=interval, branch=branch)
            for pixels in self.sizes
            for batch in self.batches
            for interval, branch in ((1, 0), *self.caching)
        ]

    def calls(self, cell: Cell) -> int:
        """Timed calls of each system in a cell: of the shorter, cached ones twice as many."""
        return self.repeats * (1 if cell.is_plain else 2)

    def cost(self, cell: Cell) -> float:
        """About how long a cell takes, in units that are the same for all."""
        full = len(make_plan(CacheParams(cache_interval=cell.interval), self.steps).full_steps)
        of_a_call = cell.pixels**2 * cell.batch * (full + _CACHED_STEP * (self.steps - full))
        return of_a_call * (1 + self.calls(cell))

    @property
    def branches(self) -> tuple[int, ...]:
        """Of all columns."""
        return tuple(sorted({0, *(branch for _, branch in self.caching)}))

    def record(self) -> dict[str, Any]:
        """For JSON; `settings_from` reads it."""
        return {**asdict(self), "caching": [list(pair) for pair in self.caching]}


def settings_from(record: Mapping[str, Any]) -> Settings:
    """The settings of a record."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
    return Settings(**{**values, "caching": tuple((interval, branch) for interval, branch in record["caching"])})


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named grid; the fields are those of `Settings`, and None is left to the machine.

    Attributes:
        about: what it is, for help.
    """

    about: str
    model: str
    random_weights: bool
    steps: int
    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    caching: tuple[Caching, ...]
    systems: tuple[str, ...]
    repeats: int
    dtype: str | None = None
    device: str | None = None


PRESETS = {
    "a5000": Preset(
        about="the published table: Stable Diffusion 2.1, 50 steps",
        model="sd21",
        random_weights=False,
        steps=50,
        sizes=(512, 768, 1024),
        batches=(8, 4, 1),
        caching=((3, 0), (5, 0), (5, 1)),
        systems=SYSTEMS,
        repeats=5,
    ),
    "cpu": Preset(
        about="the published columns at a size for a few cores",
        model="sd21",
        random_weights=True,
        steps=15,
        sizes=(192,),
        batches=(2, 1),
        caching=((3, 0), (5, 0), (5, 1)),
        systems=SYSTEMS,
        repeats=3,
        dtype="bfloat16",
        device="cpu",
    ),
    "smoke": Preset(
        about="the bundled digits, in a minute",
        model="digits",
        random_weights=False,
        steps=10,
        sizes=(64,),
        batches=(1,),
        caching=((3, 0),),
        systems=(OURS, DEEPCACHE, DIFFUSERS),
        repeats=5,
        dtype="float32",
        device="cpu",
    ),
}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        UnknownNameError: there is none.
    """
    _check_name("preset", name, tuple(PRESETS))
    return PRESETS[name]


def _check_name(kind: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise UnknownNameError(
            f"unknown {kind} {name!r}{did_you_mean(name, list(known))}; there are {', '.join(known)}"
        )


def settings_of(
    preset: Preset,
    *,
    model: str | None = None,
    random_weights: bool | None = None,
    steps: int | None = None,
    sizes: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
    intervals: Sequence[int] | None = None,
    branches: Sequence[int] | None = None,
    systems: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    dtype: str | None = None,
    repeats: int | None = None,
) -> Settings:
    """A preset with what is given in place of its own, on this machine's best device; every interval has every branch.

    Raises:
        UnknownNameError: no such system, backend or dtype.
        BackendError: a backend that does not work here, or not in that precision.
        DeepCacheError: a number that makes no grid.
    """
    from deepcache_trt.engines import backends as known

    caching = preset.caching
    if intervals or branches:
        own = [list(dict.fromkeys(pair[place] for pair in preset.caching)) for place in (0, 1)]
        caching = tuple((interval, branch) for interval in intervals or own[0] for branch in branches or own[1])
    wanted = list(backends or ["auto"])
    device = preset.device or known.best_device(wanted[0])
    precision = dtype or preset.dtype or ("float16" if device == "cuda" else "float32")
    settings = Settings(
        model=model or preset.model,
        random_weights=preset.random_weights if random_weights is None else random_weights,
        dtype=precision,
        device=device,
        steps=preset.steps if steps is None else steps,
        sizes=tuple(dict.fromkeys(sizes or preset.sizes)),
        batches=tuple(dict.fromkeys(batches or preset.batches)),
        caching=caching,
        systems=tuple(dict.fromkeys(systems or preset.systems)),
        backends=tuple(dict.fromkeys(known.resolve(name, device) for name in wanted)),
        repeats=preset.repeats if repeats is None else repeats,
    )
    for backend in settings.backends:
        known.check_dtype(backend, device, precision)
    return settings


def differences(new: Settings, old: Settings, *, ignoring: Sequence[str] = ()) -> list[str]:
    """What two settings disagree about, in words."""
    return [
        f"{field.name} {getattr(old, field.name)} against {getattr(new, field.name)}"
        for field in fields(Settings)
        if field.name not in ignoring and getattr(old, field.name) != getattr(new, field.name)
    ]


def minutes(seconds: float) -> str:
    """A duration for a person: "40 s", "12 min"."""
    return f"{math.ceil(seconds)} s" if seconds < 100 else f"{seconds / 60:.0f} min"
