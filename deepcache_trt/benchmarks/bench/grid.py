"""What `deepcache-trt bench` measures: the cells of a grid, the systems, the settings; values only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from typing import Any

from deepcache_trt.errors import DeepCacheError, UnknownNameError, did_you_mean
from deepcache_trt.runtime.plan import FULL, SHALLOW, SKIP, CacheParams, in_words, make_plan
from deepcache_trt.runtime.plan_file import fields_of

PLAIN = CacheParams(cache_interval=1)

# Systems, as they are asked for. Ours stands for each backend.
OURS, DEEPCACHE, DIFFUSERS, COMPILED = "ours", "deepcache", "diffusers", "compiled"
SYSTEMS = (OURS, DEEPCACHE, DIFFUSERS, COMPILED)

# What steps are supposed to cost when the time that is left is estimated.
_COST = {FULL: 1, SHALLOW: 0.15, SKIP: 0}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One size, batch and way to cache.

    Attributes:
        pixels: height and width.
        batch: images of a call.
        params: how it is cached; `PLAIN`: not at all.
    """

    pixels: int
    batch: int
    params: CacheParams

    def record(self) -> dict[str, Any]:
        """For JSON; `cell_from` reads it."""
        return {**asdict(self), "params": fields_of(self.params)}

    @property
    def plain(self) -> "Cell":
        """The same without caching: what its speed-up is measured against."""
        return replace(self, params=PLAIN)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is cached."""
        return self.params == PLAIN

    @property
    def is_uniform(self) -> bool:
        """Whether an interval and a branch say all, as in the published table."""
        return self.params == interval_params(self.params.cache_interval, self.params.cache_branch_id)

    @property
    def row(self) -> str:
        """Its row of the table."""
        return f"{self.pixels} px, batch {self.batch}"

    @property
    def column(self) -> str:
        """The heading of its column: as it is published, where it is one of those plans."""
        if self.is_plain:
            return "plain"
        if self.is_uniform:
            return f"I={self.params.cache_interval} B={self.params.cache_branch_id}"
        return in_words(self.params)

    @property
    def title(self) -> str:
        """For a person."""
        return f"{self.row}, {self.column}"


def interval_params(interval: int, branch: int) -> CacheParams:
    """A plan of the published table: I and B."""
    return CacheParams(cache_interval=interval, cache_branch_id=branch)


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
        caching: the plan of each cached column; the plain one comes before them.
        systems: of `SYSTEMS`.
        backends: of ours.
        repeats: timed calls of each system in each cell, after its first one.
    """

    model: str
    random_weights: bool
    dtype: str
    device: str
    steps: int
    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    caching: tuple[CacheParams, ...]
    systems: tuple[str, ...]
    backends: tuple[str, ...]
    repeats: int

    def __post_init__(self) -> None:
        for name in self.systems:
            _check_name("system", name, SYSTEMS)
        for option, values in (
            ("--size", self.sizes),
            ("--batch", self.batches),
            ("--steps", (self.steps,)),
            ("--repeats", (self.repeats,)),
        ):
            for value in values:
                if value < 1:
                    raise DeepCacheError(f"{option} must be at least 1, not {value}")
        calls = max(self.steps, 2)  # in one step no plan caches anything
        for params in self.caching:
            if len(make_plan(params, calls).full_steps) == calls:
                raise DeepCacheError(
                    f"{in_words(params)}: nothing is cached in {self.steps} steps, which every grid has as its plain "
                    f"column; give an interval of 2 or more"
                )

    @property
    def cells(self) -> list[Cell]:
        """All cells, row by row, the plain one first."""
        return [
            Cell(pixels=pixels, batch=batch, params=params)
            for pixels in self.sizes
            for batch in self.batches
            for params in (PLAIN, *self.caching)
        ]

    def cost(self, cell: Cell) -> float:
        """About how long a cell takes, in units that are the same for all."""
        steps = sum(_COST[variant] for variant in make_plan(cell.params, self.steps).variants)
        of_a_call = cell.pixels**2 * cell.batch * steps
        return of_a_call * (1 + self.repeats)

    @property
    def branches(self) -> tuple[int, ...]:
        """Of all columns."""
        return tuple(sorted({0, *(params.cache_branch_id for params in self.caching)}))

    def record(self) -> dict[str, Any]:
        """For JSON; `settings_from` reads it."""
        return {**asdict(self), "caching": [fields_of(params) for params in self.caching]}


def settings_from(record: Mapping[str, Any]) -> Settings:
    """The settings of a record."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
    return Settings(**{**values, "caching": tuple(CacheParams(**each) for each in record["caching"])})


def cell_from(record: Mapping[str, Any]) -> Cell:
    """The cell of a record."""
    return Cell(**{**record, "params": CacheParams(**record["params"])})


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named grid; the fields are those of `Settings`, and None is left to the machine."""

    model: str
    random_weights: bool
    steps: int
    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    caching: tuple[CacheParams, ...]
    systems: tuple[str, ...]
    repeats: int
    dtype: str | None = None
    device: str | None = None


# Those of the published table.
COLUMNS = (interval_params(3, 0), interval_params(5, 0), interval_params(5, 1))

PRESETS = {
    "a5000": Preset(
        model="sd21",
        random_weights=False,
        steps=50,
        sizes=(512, 768, 1024),
        batches=(8, 4, 1),
        caching=COLUMNS,
        systems=SYSTEMS,
        repeats=5,
    ),
    "cpu": Preset(
        model="sd21",
        random_weights=True,
        steps=9,
        sizes=(128,),
        batches=(2, 1),
        caching=COLUMNS,
        systems=SYSTEMS,
        repeats=16,
        dtype="bfloat16",
        device="cpu",
    ),
    "smoke": Preset(
        model="digits",
        random_weights=False,
        steps=10,
        sizes=(64,),
        batches=(1,),
        caching=(interval_params(3, 0),),
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
    plans: Sequence[CacheParams] | None = None,
    systems: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    dtype: str | None = None,
    repeats: int | None = None,
) -> Settings:
    """A preset with what is given in place of its own, on this machine's best device.

    Every interval has every branch, and plans are columns beside them; a call that gives none of these has the preset's
    columns.

    Raises:
        UnknownNameError: no such system, backend or dtype.
        BackendError: a backend that does not work here, or not in that precision.
        DeepCacheError: a number that makes no grid.
    """
    from deepcache_trt.engines import backends as known

    caching = preset.caching
    if intervals or branches:
        own = [(params.cache_interval, params.cache_branch_id) for params in preset.caching]
        both = product(intervals or [interval for interval, _ in own], branches or [branch for _, branch in own])
        caching = tuple(interval_params(interval, branch) for interval, branch in both)
    elif plans:
        caching = ()
    wanted = list(backends or ["auto"])
    device = preset.device or known.best_device(wanted[0])
    precision = known.dtype_or_default(dtype or preset.dtype, device)
    settings = Settings(
        model=model or preset.model,
        random_weights=preset.random_weights if random_weights is None else random_weights,
        dtype=precision,
        device=device,
        steps=preset.steps if steps is None else steps,
        sizes=tuple(dict.fromkeys(sizes or preset.sizes)),
        batches=tuple(dict.fromkeys(batches or preset.batches)),
        caching=tuple(dict.fromkeys((*caching, *(plans or ())))),
        systems=tuple(dict.fromkeys(systems or preset.systems)),
        backends=tuple(dict.fromkeys(known.resolve(name, device).name for name in wanted)),
        repeats=preset.repeats if repeats is None else repeats,
    )
    for backend in settings.backends:
        known.find(backend, device).check_dtype(precision)
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
