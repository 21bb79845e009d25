"""The pipelines that are covered, and what each of them is called with: the rows of docs/pipelines.md."""

import itertools
from dataclasses import dataclass

from tests.pipelines.micro import MICROS

STEPS, INTERVAL = 5, 3
BRANCHES = (0, 1)

# Of those that draw noise, take two evaluations a step, and take several steps back; None: the pipeline's own.
SCHEDULERS = (None, "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler")
# Others stand their own scheduler alone.
OWN = ("ddpm", "ddim", "lcm", "lcm img2img")


@dataclass(frozen=True)
class Case:
    """One call."""

    seed: int
    height: int
    width: int
    batch: int
    guided: bool
    scheduler: str | None
    branch: int

    def __str__(self) -> str:
        words = f"seed {self.seed}-{self.height}x{self.width}-batch {self.batch}-{'guided' if self.guided else 'alone'}"
        return f"{words}-{self.scheduler or 'own'}-branch {self.branch}"


SIZES = ((64, 64), (128, 64))
# Each value of each of these, in few cases.
SOME = [
    Case(0, *SIZES[0], 1, True, SCHEDULERS[0], 0),
    Case(1, *SIZES[1], 3, True, SCHEDULERS[1], 1),
    Case(2, *SIZES[0], 3, False, SCHEDULERS[2], 0),
    Case(0, *SIZES[1], 1, False, SCHEDULERS[3], 1),
]
# Every combination of them, schedulers and branches in turn.
CALLS = itertools.product((0, 1, 2), SIZES, (1, 3), (True, False))
EVERY = SOME + [
    Case(seed, *size, batch, guided, SCHEDULERS[i // 2 % 4], BRANCHES[i % 2])
    for i, (seed, size, batch, guided) in enumerate(CALLS)
]

# Those that the DeepCache package knows.
WITH_PACKAGE = [name for name in MICROS if MICROS[name].shares != "ddpm"]


@dataclass(frozen=True)
class OfClasses:
    """A pipeline that is called with classes, of which tests of its own say what is drawn with it."""

    kind: str
    tested: str
    channels: int


OF_CLASSES = {
    "DiTPipeline": OfClasses("dit", "masks of its sublayers; DDIM, DDPM, DPM-Solver++, PNDM and UniPC", 4),
    "OriginalDiTPipeline": OfClasses("original dit", "ours: three channels guided; DDIM, DPM-Solver++ and PNDM", 4),
    "LDMClassToImagePipeline": OfClasses("ldm", "ours; every branch; DDIM, DPM-Solver++ and PNDM", 3),
}
# Text2Video-Zero, of which each frame is an image.
VIDEOS_OF_IMAGES = {"sd": "TextToVideoZeroPipeline", "sdxl": "TextToVideoZeroSDXLPipeline"}
