"""An adaptive cache: each call decides, by what it is given and what was answered so far, whether it reuses.

AdaptiveDiffusion (Ye et al. 2024) and EasyCache (Zhou et al. 2025) decide whether to call the model; here a call that
need not be full can be a shallow one too. Both bound what adds up, and how many calls in a row reuse.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from deepcache_trt.errors import DeepCacheError
from deepcache_trt.models.taps import Variant
from deepcache_trt.runtime.decision import CRITERIA, Rule
from deepcache_trt.runtime.plan import FULL, SKIP, Plan
from deepcache_trt.runtime.policies.deepcache import FORECASTS, SHALLOW, DeepCache
from deepcache_trt.runtime.policies.policy import Policy, check_integer, check_name


@dataclass(frozen=True, kw_only=True)
class Adaptive(Policy):
    """A full call wherever the error of reusing would add up to more than a threshold. A batch decides together.

    Attributes:
        threshold: the errors that may add up, as the criterion counts them, in the worst image of a batch.
        max_consecutive: so many calls in a row reuse at most.
        criterion: "response", the change that the prediction is expected to have; or "curvature", how unsteadily the
            latents move.
        skip_threshold: a call whose own error is within this takes the last prediction; None: none does.
        cache_branch_id: k, as of `DeepCache`.
        forecast: as of `DeepCache`.
    """

    kind: ClassVar[str] = "adaptive"

    threshold: float
    max_consecutive: int = 4
    criterion: str = "response"
    skip_threshold: float | None = None
    cache_branch_id: int = 0
    forecast: str | None = None

    def __post_init__(self) -> None:
        check_name("criterion", self.criterion, tuple(CRITERIA))
        if self.forecast is not None:
            check_name("forecast", self.forecast, FORECASTS)
        check_integer("max_consecutive", self.max_consecutive, 1)
        check_integer("cache_branch_id", self.cache_branch_id, 0)
        for name in ("threshold", "skip_threshold"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 <= value < float("inf")):
                raise DeepCacheError(f"{name} must be a number of at least 0, not {value!r}; 0.1 caches a little")

    def variants(self, taps: Sequence[str]) -> tuple[Variant, ...]:
        """All of the model, and its shallow layers."""
        return DeepCache(cache_branch_id=self.cache_branch_id).variants(taps)

    def plan(self, calls: int) -> Plan:
        """Full calls but for those that the rule decides about."""
        rule = Rule(
            criterion=self.criterion,
            threshold=self.threshold,
            skip_threshold=self.skip_threshold,
            max_consecutive=self.max_consecutive,
            full=FULL,
            cached=SHALLOW,
            skip=SKIP,
        )
        return Plan(variants=(FULL,) * calls, forecast=self.forecast, rule=rule)

    @property
    def in_words(self) -> str:
        """For a person."""
        words = {
            f"{self.criterion} within {self.threshold:g}": True,
            f"branch {self.cache_branch_id}": self.cache_branch_id > 0,
            f"at most {self.max_consecutive} in a row": True,
            f"skipped within {self.skip_threshold}": self.skip_threshold is not None,
            str(self.forecast): self.forecast is not None,
        }
        return ", ".join(word for word, said in words.items() if said)

    @property
    def build_option(self) -> str:
        """What makes `deepcache-trt build` build for it."""
        return f"--branch {self.cache_branch_id}"
