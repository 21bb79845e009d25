"""Named grids, and what is made of one by the options of `deepcache-trt bench` on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from deepcache_trt.benchmarks.bench.grid import DEEPCACHE, DIFFUSERS, OURS, SYSTEMS, Settings, check_name
from deepcache_trt.benchmarks.timing.published_table import COLUMNS, interval_params
from deepcache_trt.runtime.policies import DeepCache, Policy


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named grid; the fields are those of `Settings`, and None is left to the machine."""

    model: str
    random_weights: bool
    steps: int
    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    caching: tuple[DeepCache, ...]
    systems: tuple[str, ...]
    repeats: int
    dtype: str | None = None
    device: str | None = None


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
    check_name("preset", name, tuple(PRESETS))
    return PRESETS[name]


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
    plans: Sequence[Policy] | None = None,
    systems: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    dtype: str | None = None,
    repeats: int | None = None,
    precision: str | None = None,
    quantize: Sequence[str] | None = None,
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
    from deepcache_trt.export.precision import precision_of
    from deepcache_trt.pipelines.engine_options import EngineOptions

    caching: tuple[Policy, ...] = preset.caching
    if intervals or branches:
        own = [(policy.cache_interval, policy.cache_branch_id) for policy in preset.caching]
        both = product(intervals or [interval for interval, _ in own], branches or [branch for _, branch in own])
        caching = tuple(interval_params(interval, branch) for interval, branch in both)
    elif plans:
        caching = ()
    wanted = list(backends or ["auto"])
    device = preset.device or known.best_device(wanted[0])
    chosen = known.dtype_or_default(dtype or preset.dtype, device)
    quantized = precision_of(precision)
    EngineOptions(precision=precision, quantize=tuple(quantize or ()) or None)  # refuses what has no meaning together
    settings = Settings(
        model=model or preset.model,
        random_weights=preset.random_weights if random_weights is None else random_weights,
        dtype=chosen,
        device=device,
        steps=preset.steps if steps is None else steps,
        sizes=tuple(dict.fromkeys(sizes or preset.sizes)),
        batches=tuple(dict.fromkeys(batches or preset.batches)),
        caching=tuple(dict.fromkeys((*caching, *(plans or ())))),
        systems=tuple(dict.fromkeys(systems or preset.systems)),
        backends=tuple(dict.fromkeys(known.resolve(name, device).name for name in wanted)),
        repeats=preset.repeats if repeats is None else repeats,
        precision=precision,
        quantize=tuple(quantize or ()),
    )
    for backend in settings.backends:
        for name in (chosen, *([] if quantized is None else [quantized.name])):
            known.find(backend, device).check_dtype(name)
    return settings
