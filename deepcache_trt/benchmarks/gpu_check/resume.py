"""Going on from an earlier check: what passed is kept, and what did not runs again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.gpu_check.rows import MISSING, PASS, WHOLE, WORKS, Row
from deepcache_trt.documents import read_json
from deepcache_trt.errors import DeepCacheError, first_line

# What a report says of a check itself. Another commit may be what mends what failed: the report names both.
_OWN_FACTS = {"date", "command", "minutes allowed", "phases", "deepcache-trt", "went on from"}


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """What an earlier check found.

    Attributes:
        path: of its record.
        environment: where.
        rows: all of them.
    """

    path: Path
    environment: Mapping[str, str]
    rows: tuple[Row, ...]

    @property
    def passed(self) -> set[tuple[str, ...]]:
        """The checks, as `Row.check_key`, of which no row failed or was skipped."""
        checks = {row.check_key for row in self.rows if row.check not in (WORKS, WHOLE)}
        return checks - {row.check_key for row in self.rows if row.status not in (PASS, MISSING)}

    @property
    def kept(self) -> tuple[Row, ...]:
        """The rows that stand until others about the same take their place: all that passed."""
        return tuple(
            row
            for row in self.rows
            if row.check not in (WORKS, WHOLE) and (row.status == PASS or row.check_key in self.passed)
        )

    @property
    def title(self) -> str:
        """Which check it was, for a report."""
        return f"{self.environment.get('deepcache-trt', 'unknown')}, {self.environment.get('date', 'unknown date')}"

    def check_same(self, environment: Mapping[str, str]) -> None:
        """Refuse to mix figures of two machines.

        Raises:
            DeepCacheError: other hardware, or other versions.
        """
        for name in sorted((self.environment.keys() | environment.keys()) - _OWN_FACTS):
            there, here = self.environment.get(name, "none"), environment.get(name, "none")
            if there != here:
                raise DeepCacheError(
                    f"--resume {self.path} is of other hardware or versions: {_difference(name, there, here)}; "
                    f"leave it out and check everything here"
                )


def _difference(name: str, there: str, here: str) -> str:
    """Of a list that part which differs."""
    if ", " in there or ", " in here:
        theirs, ours = there.split(", "), here.split(", ")
        there = ", ".join(part for part in theirs if part not in ours) or "none of these"
        here = ", ".join(part for part in ours if part not in theirs) or "none of these"
    return f"{name} was {there} and is {here}"


def read_earlier(path: Path) -> Earlier:
    """Read the JSON of an earlier check.

    Raises:
        DeepCacheError: it cannot be read, or is no such file.
    """
    try:
        record: Any = read_json(path)
        rows: Sequence[Row] = [Row(**data) for data in record["rows"]]
        environment = {str(name): str(value) for name, value in record["environment"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        reason = first_line(error) if isinstance(error, OSError) else f"{type(error).__name__}: {first_line(error)}"
        raise DeepCacheError(
            f"--resume {path} is no usable result of `deepcache-trt check gpu`: {reason}; leave it out"
        ) from error
    return Earlier(path=path, environment=environment, rows=tuple(rows))
