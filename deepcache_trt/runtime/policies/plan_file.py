"""Plan files: how to cache, as a small JSON file that a person can read, write and pass on.

    {
      "policy": "deepcache",
      "cache_interval": 4,
      "forecast": "taylor1",
      "about": {"model": "digits", "steps": 50},
      "sha256": "5c1d…"
    }

"policy" is the kind of a policy, "deepcache" where it is left out, and the fields are that policy's; of those what is
left out has its default. "about" tells what the plan was found for and is never read by a pipeline. "sha256" is a hash
of all the rest, by which damage is noticed: leave it out of what you write or change yourself.
"""

import hashlib
import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepcache_trt.documents import read_json
from deepcache_trt.errors import DeepCacheError, first_line
from deepcache_trt.runtime.policies.policy import Policy, policy_from_json

ABOUT = "about"
_HASH = "sha256"


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """What a plan file says.

    Attributes:
        policy: how to cache.
        about: what it was found for, e.g. {"model": "digits", "steps": 50}; information only.
    """

    policy: Policy
    about: Mapping[str, Any] = field(default_factory=dict)


def read_plan(path: Path | str) -> PlanFile:
    """Read a plan file.

    Raises:
        UnknownNameError: a policy or a field that there is not.
        DeepCacheError: no such file, no JSON object, or a value that the policy refuses; the message names the file,
            the field, the value and the cure.
    """
    found = _load(Path(path))
    kept = found.pop(_HASH, None)
    if kept is not None and kept != _hash_of(found):
        raise DeepCacheError(
            f'plan file {path} was changed since it was written; if that was meant, delete its "{_HASH}", otherwise '
            f"get it again"
        )
    about = found.pop(ABOUT, {})
    if not isinstance(about, dict):
        raise DeepCacheError(
            f'plan file {path}: {ABOUT} must be an object such as {{"model": "digits", "steps": 50}}, not {about!r}'
        )
    try:
        return PlanFile(policy=policy_from_json(found, beside=[ABOUT]), about=about)
    except DeepCacheError as error:
        raise type(error)(f"plan file {path}: {error}") from error


def read_policy(path: Path | str, others: Iterable[str]) -> Policy:
    """How to cache, where a plan file says all of it.

    Args:
        path: of the file.
        others: the names of the fields that were given beside it.

    Raises:
        DeepCacheError: there are any; and as `read_plan`.
    """
    if names := ", ".join(others):
        raise DeepCacheError(f"the plan file {path} says how to cache already; leave out {names}, or write it there")
    return read_plan(path).policy


def write_plan(path: Path, plan: PlanFile) -> None:
    """Write a plan file; fields that are None are left out, which says the same.

    Raises:
        DeepCacheError: it cannot be written.
    """
    said = plan.policy.to_json() | {ABOUT: dict(plan.about)}
    said[_HASH] = _hash_of(said)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DeepCacheError(f"cannot write {path}: {error}; choose another file") from error


def _hash_of(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _load(path: Path) -> dict[str, Any]:
    cure = 'give a JSON file such as {"cache_interval": 3, "cache_branch_id": 0}, as `deepcache-trt tune` writes it'
    try:
        found = read_json(path)
    except OSError as error:
        raise DeepCacheError(f"cannot read the plan file {path}: {error.strerror}; {cure}") from error
    except ValueError as error:
        raise DeepCacheError(f"plan file {path} is no JSON ({first_line(error)}); {cure}") from error
    if not isinstance(found, dict):
        raise DeepCacheError(f"plan file {path} holds {reprlib.repr(found)}, no object; {cure}")
    return found
