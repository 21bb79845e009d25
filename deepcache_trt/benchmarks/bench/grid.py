"""What `deepcache-trt bench` measures: the cells of a grid, the systems, the settings; values only."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from deepcache_trt.benchmarks.timing.published_table import interval_params
from deepcache_trt.errors import DeepCacheError, UnknownNameError, did_you_mean
from deepcache_trt.runtime.plan import FULL, SKIP
from deepcache_trt.runtime.policies.deepcache import DeepCache
from deepcache_trt.runtime.policies.policy import Policy, policy_from_json

PLAIN = DeepCache(cache_interval=1)

# Systems, as they are asked for. Ours stands for each backend.
OURS, DEEPCACHE, DIFFUSERS, COMPILED = "ours", "deepcache", "diffusers", "compiled"
SYSTEMS = (OURS, DEEPCACHE, DIFFUSERS, COMPILED)

# The others, and what draws the reference, as they are shown.
NAMES = {DEEPCACHE: "DeepCache package", DIFFUSERS: "diffusers", COMPILED: "diffusers, torch.compile"}
REFERENCE = "diffusers float32"

# What steps are supposed to cost when the time that is left is estimated.
_COST = {FULL: 1, SKIP: 0}
_COST_OF_CACHED = 0.15


def ours_on(backend: str, precision: str | None = None) -> str:
    """Ours on a backend, as it is shown; and in a precision beside the dtype."""
    return f"{OURS} ({backend}{f', {precision}' if precision else ''})"


def is_ours(name: str) -> bool:
    """Whether a system that is shown by this name is ours."""
    return name.startswith(OURS)


def baseline_of(name: str) -> str:
    """The system whose plain column a system's speed-ups are over: its own; the package's is that of diffusers."""
    return NAMES[DIFFUSERS] if name == NAMES[DEEPCACHE] else name


def label_of(name: str) -> str:
    """A system as a row of the table is headed: with the system of its plain column, where that is another."""
    return name if baseline_of(name) == name else f"{name} (plain: {baseline_of(name)})"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One size, batch and way to cache.

    Attributes:
        pixels: height and width.
        batch: images of a call.
        policy: how it is cached; `PLAIN`: not at all.
    """

    pixels: int
    batch: int
    policy: Policy

    def record(self) -> dict[str, Any]:
        """For JSON; `cell_from` reads it."""
        return {**asdict(self), "policy": self.policy.to_json()}

    @property
    def plain(self) -> "Cell":
        """The same without caching: what its speed-up is measured against."""
        return replace(self, policy=PLAIN)

    @property
    def is_plain(self) -> bool:
        """Whether nothing is cached."""
        return self.policy == PLAIN

    @property
    def published_form(self) -> tuple[int, int] | None:
        """The interval and the branch, where they say all, as in the published table; None where they do not."""
        if not isinstance(self.policy, DeepCache):
            return None
        both = self.policy.cache_interval, self.policy.cache_branch_id
        return both if self.policy == interval_params(*both) else None

    @property
    def row(self) -> str:
        """Its row of the table."""
        return f"{self.pixels} px, batch {self.batch}"

    @property
    def column(self) -> str:
        """The heading of its column: as it is published, where it is one of those plans."""
        if self.is_plain:
            return "plain"
        if self.published_form is not None:
            return "I={} B={}".format(*self.published_form)
        return self.policy.in_words

    @property
    def title(self) -> str:
        """For a person."""
        return f"{self.row}, {self.column}"


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
        precision: ours is timed with quantized layers too, which have this one; None: without alone.
        quantize: which layers these are, as in `EngineOptions`; none: the default.
    """

    model: str
    random_weights: bool
    dtype: str
    device: str
    steps: int
    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    caching: tuple[Policy, ...]
    systems: tuple[str, ...]
    backends: tuple[str, ...]
    repeats: int
    precision: str | None = None
    quantize: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.systems:
            check_name("system", name, SYSTEMS)
        for option, values in (
            ("--size", self.sizes),
            ("--batch", self.batches),
            ("--steps", (self.steps,)),
            ("--repeats", (self.repeats,)),
        ):
            for value in values:
                if value < 1:
                    raise DeepCacheError(f"{option} must be at least 1, not {value}")
        calls = max(self.steps, 2)  # a plan of one step caches nothing
        for policy in self.caching:
            if len(policy.plan(calls).full_steps) == calls:
                raise DeepCacheError(
                    f"{policy.in_words}: nothing is cached in {self.steps} steps, which every grid has as its plain "
                    f"column; give an interval of 2 or more"
                )

    @property
    def cells(self) -> list[Cell]:
        """All cells, row by row, the plain one first."""
        return [
            Cell(pixels=pixels, batch=batch, policy=policy)
            for pixels in self.sizes
            for batch in self.batches
            for policy in self.policies
        ]

    def cost(self, cell: Cell) -> float:
        """About how long a cell takes, in units that are the same for all."""
        steps = sum(_COST.get(variant, _COST_OF_CACHED) for variant in cell.policy.plan(self.steps).variants)
        of_a_call = cell.pixels**2 * cell.batch * steps
        return of_a_call * (1 + self.repeats)

    @property
    def ours(self) -> tuple[tuple[str, str | None], ...]:
        """Each of ours: its backend and its precision, None being that of the dtype."""
        precisions = (None,) if self.precision is None else (None, self.precision)
        return tuple((backend, precision) for backend in self.backends for precision in precisions)

    @property
    def policies(self) -> tuple[Policy, ...]:
        """Of all columns."""
        return PLAIN, *self.caching

    def record(self) -> dict[str, Any]:
        """For JSON; `settings_from` reads it."""
        return {**asdict(self), "caching": [policy.to_json() for policy in self.caching]}


def settings_from(record: Mapping[str, Any]) -> Settings:
    """The settings of a record."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.items()
    }
    return Settings(**{**values, "caching": tuple(policy_from_json(each) for each in record["caching"])})


def cell_from(record: Mapping[str, Any]) -> Cell:
    """The cell of a record; the policy may go by the name of "params"."""
    policy = record.get("policy") or record["params"]
    return Cell(pixels=record["pixels"], batch=record["batch"], policy=policy_from_json(policy))


def check_name(kind: str, name: str, known: tuple[str, ...]) -> None:
    """Refuse a name that is not among the known ones.

    Raises:
        UnknownNameError: it is not.
    """
    if name not in known:
        raise UnknownNameError(
            f"unknown {kind} {name!r}{did_you_mean(name, list(known))}; there are {', '.join(known)}"
        )
