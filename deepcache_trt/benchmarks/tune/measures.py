"""In what the fidelity of a plan is asked for and told: how near its batch is to the uncached one of the same seed."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from deepcache_trt.benchmarks.fidelity.distances import comparisons, relative_error
from deepcache_trt.benchmarks.timing.drawing import Drawn
from deepcache_trt.errors import DeepCacheError

Between = Callable[[Drawn, Drawn], float]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One figure of two batches.

    Attributes:
        name: of the figure.
        title: for a person.
        unit: of its values; "": they have none.
        form: of its values.
        of: the figure of the uncached batch and another.
        more_is_nearer: whether a larger value is better.
        decodes: whether it looks at pictures and not at latents.
    """

    name: str
    title: str
    form: str
    of: Between
    unit: str = ""
    more_is_nearer: bool = False
    decodes: bool = True

    @property
    def heading(self) -> str:
        """Of its column."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def loss(self, value: float) -> float:
        """The value, or its negative, so that less is better."""
        return -value if self.more_is_nearer else value

    def in_words(self, value: float) -> str:
        """The value in a table."""
        return "∞" if math.isinf(value) else self.form.format(value)


@dataclass(frozen=True, kw_only=True)
class Goal:
    """The least fidelity that is asked for."""

    measure: Measure
    value: float

    def __str__(self) -> str:
        bound = "at least" if self.measure.more_is_nearer else "at most"
        return f"{self.measure.title} of {bound} {self.value:g} {self.measure.unit}".rstrip()


def _error(reference: Drawn, drawn: Drawn) -> float:
    return relative_error(reference.latents, drawn.latents)


# The figures of `comparisons` by the names of options: their names there, titles, units and forms.
_OF_PICTURES = {"psnr": ("psnr_db", "PSNR", "dB", "{:.1f}"), "lpips": ("lpips", "LPIPS", "", "{:.4f}")}

ERROR = Measure(name="error", title="error", form="{:.4f}", of=_error, decodes=False)


def measure_of(name: str) -> Measure:
    """One of "error", of the latents, and "psnr" and "lpips" of decoded pictures.

    Raises:
        DeepCacheError: it cannot be had here; the message has the cure.
    """
    if name == ERROR.name:
        return ERROR
    figure, title, unit, form = _OF_PICTURES[name]
    found = comparisons()
    if figure not in found.functions:
        raise DeepCacheError(f"no {title}: {found.absent[figure]}; or ask for another figure, as --error 0.05")
    compare = found.functions[figure]

    def of(reference: Drawn, drawn: Drawn) -> float:
        assert reference.pictures is not None
        assert drawn.pictures is not None
        return compare(reference.pictures, drawn.pictures)

    return Measure(name=figure, title=title, unit=unit, form=form, of=of, more_is_nearer=name == "psnr")
