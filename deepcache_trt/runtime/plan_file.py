"""Plan files: how to cache, as a small JSON file that a person can read, write and pass on.

    {
      "cache_interval": 4,
      "forecast": "taylor1",
      "about": {"model": "digits", "steps": 50}
    }

The fields are those of `CacheParams`; what is left out is as in `CacheParams()`. "about" tells what the plan was found
for and is never read by a pipeline.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepcache_trt.errors import DeepCacheError, UnknownNameError, did_you_mean, first_line
from deepcache_trt.runtime.plan import CacheParams

ABOUT = "about"


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """What a plan file says.

    Attributes:
        params: how to cache.
        about: what it was found for, e.g. {"model": "digits", "steps": 50}; information only.
    """

    params: CacheParams
    about: Mapping[str, Any] = field(default_factory=dict)


def read_plan(path: Path | str) -> PlanFile:
    """Read a plan file.

    Raises:
        UnknownNameError: a field that there is not.
        DeepCacheError: no such file, no JSON object, or a value that `CacheParams` refuses; the message names the file,
            the field, the value and the cure.
    """
    found = _load(Path(path))
    about = found.pop(ABOUT, {})
    known = CacheParams.names()
    for name in found:
        if name not in known:
            raise UnknownNameError(
                f"plan file {path}: unknown field {name!r}{did_you_mean(name, [*known, ABOUT])}; "
                f"there are {', '.join(known)}, and {ABOUT} for what it was found for"
            )
    if not isinstance(about, dict):
        raise DeepCacheError(
            f'plan file {path}: {ABOUT} must be an object such as {{"model": "digits", "steps": 50}}, not {about!r}'
        )
    steps = found.get("full_steps")
    if steps is not None and not isinstance(steps, list):
        raise DeepCacheError(f"plan file {path}: full_steps must be a list such as [0, 4, 9], not {steps!r}")
    try:
        return PlanFile(params=CacheParams(**found), about=about)
    except DeepCacheError as error:
        raise type(error)(f"plan file {path}: {error}") from error


def read_params(path: Path | str, others: Iterable[str]) -> CacheParams:
    """How to cache, where a plan file says all of it.

    Args:
        path: of the file.
        others: the names of the fields that were given beside it.

    Raises:
        DeepCacheError: there are any; and as `read_plan`.
    """
    if names := ", ".join(others):
        raise DeepCacheError(f"the plan file {path} says how to cache already; leave out {names}, or write it there")
    return read_plan(path).params


def write_plan(path: Path, plan: PlanFile) -> None:
    """Write a plan file; fields that are None are left out, which says the same.

    Raises:
        DeepCacheError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(fields_of(plan.params) | {ABOUT: dict(plan.about)}, indent=2) + "\n", encoding="utf-8"
        )
    except OSError as error:
        raise DeepCacheError(f"cannot write {path}: {error}; choose another file") from error


def fields_of(params: CacheParams) -> dict[str, Any]:
    """The fields of a plan file that are not None."""
    return {name: value for name, value in asdict(params).items() if value is not None}


def _load(path: Path) -> dict[str, Any]:
    cure = 'give a JSON file such as {"cache_interval": 3, "cache_branch_id": 0}, as `deepcache-trt tune` writes it'
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeepCacheError(f"cannot read the plan file {path}: {error.strerror}; {cure}") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise DeepCacheError(f"plan file {path} is no JSON ({first_line(error)}); {cure}") from error
    if not isinstance(found, dict):
        raise DeepCacheError(f"plan file {path} holds {found!r}, no object; {cure}")
    return found
