"""What a run of an experiment is asked for: from options, or from the file that an earlier run wrote."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from deepcache_trt.errors import DeepCacheError, did_you_mean, first_line

_LISTS = ("prompts", "intervals", "branches", "schedulers")


@dataclass(frozen=True, kw_only=True)
class Config:
    """All that pictures and figures depend on.

    Attributes:
        experiment: its name.
        model: as `DeepCachePipeline.from_pretrained` takes it.
        revision: of it on the hub.
        variant: of its weights.
        prompts: none: those for the model.
        seeds: pictures of each prompt; None: as many as the experiment has.
        seed: of sample 0.
        steps: of denoising.
        guidance: its scale; None: the pipeline's.
        batch: samples of one call.
        intervals: see `Setting`.
        branches: likewise.
        schedulers: likewise, as they are typed.
        backend: of the engines.
        dtype: of the pipeline; None: float16 on a GPU, float32 without one.
        clip: whether to take the CLIP score.
    """

    experiment: str
    model: str = "digits"
    revision: str | None = None
    variant: str | None = None
    prompts: tuple[str, ...] = ()
    seeds: int | None = None
    seed: int = 0
    steps: int = 50
    guidance: float | None = None
    batch: int = 10
    intervals: tuple[int, ...] = ()
    branches: tuple[int, ...] = ()
    schedulers: tuple[str, ...] = ()
    backend: str = "auto"
    dtype: str | None = None
    clip: bool = False

    def __post_init__(self) -> None:
        counts = {"seeds": (self.seeds, 1), "steps": (self.steps, 1), "batch": (self.batch, 1), "seed": (self.seed, 0)}
        for name, (value, least) in counts.items():
            if value is not None and value < least:
                raise DeepCacheError(f"{name} {value} is below {least}; give at least that many")
        if any(not prompt.strip() for prompt in self.prompts):
            raise DeepCacheError("a prompt is empty; leave it out, or write one")

    def with_given(self, given: Mapping[str, Any]) -> Self:
        """With other values, where they are not None."""
        values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        changed: dict[str, Any] = {name: tuple(each) if name in _LISTS else each for name, each in values.items()}
        return replace(self, **changed)

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {name: list(value) if name in _LISTS else value for name, value in asdict(self).items()}


def read_config(path: Path) -> Config:
    """The config in a .json or .toml.

    Raises:
        DeepCacheError: it cannot be read, or does not say what a config says.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found: Any = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else first_line(error)
        raise DeepCacheError(f"cannot read --config {path}: {reason}; give the config.json of an experiment") from error
    if not isinstance(found, dict) or not isinstance(found.get("experiment"), str):
        raise DeepCacheError(f"--config {path} names no experiment; give the config.json of one")
    known = {each.name: each.type for each in fields(Config)}
    for name, value in found.items():
        if name not in known:
            raise DeepCacheError(
                f"--config {path} has an unknown {name!r}{did_you_mean(name, list(known))}; take it out"
            )
        if not _is_such(name, value):
            raise DeepCacheError(f"--config {path}: {name} is {json.dumps(value)}, which is no {known[name]}; mend it")
    return Config(experiment=found["experiment"]).with_given(found)


def _is_such(name: str, value: Any) -> bool:
    """Whether a value read from a file is of the type of the field."""
    default = getattr(Config(experiment=""), name)
    if name in _LISTS:
        kind: type = int if name in ("intervals", "branches") else str
        return isinstance(value, list) and all(isinstance(each, kind) and not isinstance(each, bool) for each in value)
    if name in ("seeds", "guidance"):
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    if name in ("revision", "variant", "dtype"):
        return value is None or isinstance(value, str)
    return type(value) is type(default)
