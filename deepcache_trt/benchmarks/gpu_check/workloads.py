"""What is drawn with each model, and by whom; values only."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from deepcache_trt.benchmarks.timing import published_table
from deepcache_trt.benchmarks.timing.published_table import interval_params
from deepcache_trt.runtime.policies.deepcache import DeepCache

# Who draws.
PLAIN, PACKAGE, ENGINES = "plain diffusers", "DeepCache package", "engines"

# What launches the steps of an image, beside each by itself in a loop that does not come back to the pipeline's.
PER_STEP, ONE_GRAPH = "per step", "one graph"

UNCACHED = DeepCache(cache_interval=1)
_CACHED = (interval_params(3, 0), interval_params(5, 0))


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is drawn with a model: one image at a time.

    Attributes:
        title: of the model, for a person.
        pixels: height and width.
        other_pixels: those of a second shape; None where a compiled backend would have to build too much for it.
        steps: of denoising; every setting is drawn with each of these numbers.
        caching: how it is cached.
        published: speed-ups that others have published for some of these, on `published_table.HARDWARE`.
        is_seeded: whether its weights are drawn, and its images of a real size's cost and of nothing else.
        least_psnr: dB that engines without a cache must have against plain diffusers; None for random weights, whose
            images may turn on a rounding.
        export_seconds: what an export of its graph takes, with its check, on a machine of many cores.
    """

    title: str
    pixels: int
    other_pixels: int | None = None
    steps: tuple[int, ...]
    caching: tuple[DeepCache, ...] = _CACHED
    published: Mapping[DeepCache, float] = field(default_factory=dict)
    is_seeded: bool = True
    least_psnr: float | None = None
    export_seconds: float


def _ratios(pixels: int) -> list[float]:
    """The published speed-ups of one image at a time."""
    plain, *cached = published_table.SECONDS[pixels, 1]
    return [plain / seconds for seconds in cached]


WORKLOADS: dict[str, Workload] = {
    "digits": Workload(
        title="digits", pixels=64, other_pixels=128, steps=(20,), is_seeded=False, least_psnr=20, export_seconds=20
    ),
    "sd15": Workload(title="SD1.5", pixels=512, steps=(50,), export_seconds=120),
    published_table.MODEL: Workload(  # the settings that are published, at the smallest of the calls
        title="SD2.1",
        pixels=512,
        steps=(published_table.STEPS,),
        caching=published_table.COLUMNS,
        published=dict(zip(published_table.COLUMNS, _ratios(512), strict=True)),
        export_seconds=120,
    ),
    "sdxl": Workload(title="SDXL", pixels=1024, steps=(20, 30), export_seconds=400),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to draw the image of a workload.

    Attributes:
        system: `PLAIN`, `PACKAGE` or `ENGINES`.
        params: how it is cached; `UNCACHED`: not at all.
        steps: of denoising.
        per_step: whether the pipeline's own loop runs and each step is launched by itself; else, where there are CUDA
            graphs, the whole loop is one.
    """

    system: str
    params: DeepCache = UNCACHED
    steps: int
    per_step: bool = False

    @property
    def way(self) -> str:
        """The system and how it caches, for a person."""
        cached = f"I={self.params.cache_interval} B={self.params.cache_branch_id}"
        words = [self.system]
        if self.system != PLAIN:
            words.append("uncached" if self.params == UNCACHED else cached)
        return ", ".join([*words, *([PER_STEP] if self.per_step else [])])

    @property
    def name(self) -> str:
        """Unique in a workload."""
        return f"{self.way}, {self.steps} steps"

    @property
    def calls(self) -> Mapping[str, int]:
        """How often each variant runs."""
        return Counter(self.params.plan(self.steps).variants)

    @property
    def plain(self) -> "Setting":
        """Plain diffusers with as many steps."""
        return Setting(system=PLAIN, steps=self.steps)

    @property
    def baseline(self) -> "Setting":
        """Its own system without a cache, which of the package is plain diffusers."""
        return Setting(system=ENGINES, steps=self.steps) if self.system == ENGINES else self.plain


def settings_of(workload: Workload, *, with_package: bool) -> tuple[Setting, ...]:
    """All that are drawn, those that tell the most first.

    Args:
        workload: what is drawn.
        with_package: whether the DeepCache package draws too, which is eager whatever the backend.
    """
    settings: list[Setting] = []
    for steps in workload.steps:
        settings += [Setting(system=PLAIN, steps=steps), Setting(system=ENGINES, steps=steps)]
        for params in workload.caching:
            settings.append(Setting(system=ENGINES, params=params, steps=steps))
            if with_package:
                settings.append(Setting(system=PACKAGE, params=params, steps=steps))
        settings.append(Setting(system=ENGINES, params=workload.caching[0], steps=steps, per_step=True))
    return tuple(settings)
