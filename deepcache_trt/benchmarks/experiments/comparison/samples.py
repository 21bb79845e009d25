"""What is drawn with each cell."""

from dataclasses import dataclass
from typing import Any

# A prompt, a class, or nothing.
Subject = str | int | None


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Sample i is of subject i // `seeds` and comes from the noise of seed `seed` + i.

    Attributes:
        subjects: at least one.
        seeds: pictures of each.
        seed: of sample 0.
        batch: samples of one call.
        limit: how many of the samples are looked at; None: all.
    """

    subjects: tuple[Subject, ...]
    seeds: int = 1
    seed: int
    batch: int
    limit: int | None = None

    def __len__(self) -> int:
        """How many samples there are."""
        every = len(self.subjects) * self.seeds
        return every if self.limit is None else min(self.limit, every)

    def subject(self, index: int) -> Subject:
        """Of a sample."""
        return self.subjects[index // self.seeds]

    def line(self, index: int) -> dict[str, Any]:
        """What a sample is of, for JSON."""
        subject = self.subject(index)
        kind = {} if subject is None else {"prompt" if isinstance(subject, str) else "class": subject}
        return {"index": index, **kind, "seed": self.seed + index}
