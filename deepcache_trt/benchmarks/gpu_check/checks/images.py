"""The check of whole images: plain diffusers, the DeepCache package and ours, from the same seed, each in turn."""

import copy
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from deepcache_trt.benchmarks.fidelity.distances import image_psnr
from deepcache_trt.benchmarks.gpu_check.checks.subject import Subject, draw
from deepcache_trt.benchmarks.gpu_check.rows import FAIL, MISSING, SKIPPED, Row
from deepcache_trt.benchmarks.gpu_check.schedule import MORE_TIME
from deepcache_trt.benchmarks.gpu_check.workloads import (
    ENGINES,
    ONE_GRAPH,
    PACKAGE,
    PER_STEP,
    PLAIN,
    UNCACHED,
    Setting,
    settings_of,
)
from deepcache_trt.benchmarks.timing.systems import LoopClock
from deepcache_trt.errors import first_line
from deepcache_trt.pipelines.whole_loop import Run

_ROUNDS = 5

# How much longer than another setting's images the first of one can take, which builds, compiles or records.
_FIRST = 3


@dataclass(frozen=True, kw_only=True)
class _Shot:
    """One image, the seconds of its loop, and what launched the steps: "per step", "one by one" or "one graph"."""

    image: Any
    loop_seconds: float
    launched: str


_Action = Callable[[], _Shot]


@dataclass(kw_only=True)
class _Drawn:
    """What a setting has drawn: the first image, and the seconds of each image after it."""

    action: _Action
    first: _Shot
    launched: str = ""
    seconds: list[float] = field(default_factory=list)
    loop_seconds: list[float] = field(default_factory=list)

    def again(self) -> None:
        """Draw once more, timed."""
        started = time.perf_counter()
        shot = self.action()  # an image ends on the CPU
        self.seconds.append(time.perf_counter() - started)
        self.loop_seconds.append(shot.loop_seconds)
        self.launched = shot.launched


def images(subject: Subject) -> Iterator[Row]:
    """A row for each setting as soon as it is timed, and again with every round; with too little time fewer rounds."""
    drawn: dict[Setting, _Drawn] = {}
    with _pipelines(subject) as action_of:
        for setting in settings_of(subject.workload, with_package=subject.target.backend.bit_exact):
            yield _first(subject, setting, functools.partial(action_of, setting), drawn)
        for _ in range(_ROUNDS - 1):
            if subject.seconds_left < 2 * sum(each.seconds[-1] for each in drawn.values()):
                break
            for each in drawn.values():
                each.again()
            for setting in drawn:
                yield _row(subject, setting, drawn)


def _first(subject: Subject, setting: Setting, action: _Action, drawn: dict[Setting, _Drawn]) -> Row:
    """Draw a setting for the first time, which builds what is missing and warms up, and once more."""
    if setting != setting.plain and setting.plain not in drawn:
        return subject.row("images", SKIPPED, f"no {setting.plain.name} to compare it with", setting.name)
    slowest = max((each.seconds[-1] for each in drawn.values()), default=0.0)
    if subject.seconds_left < _FIRST * slowest:
        detail = f"{max(subject.seconds_left, 0):.0f} s left, an image takes {slowest:.1f} s; {MORE_TIME}"
        return subject.row("images", SKIPPED, detail, setting.name)
    try:
        new = _Drawn(action=action, first=action())
        new.again()
    except Exception as error:  # one setting costs the others nothing
        status = MISSING if isinstance(error, ImportError) else FAIL
        return subject.row("images", status, first_line(error), setting.name)
    drawn[setting] = new
    return _row(subject, setting, drawn)


def _row(subject: Subject, setting: Setting, drawn: dict[Setting, _Drawn]) -> Row:
    own, plain = drawn[setting], drawn[setting.plain]
    seconds = statistics.median(own.seconds)
    decibels = _decibels(plain.first.image, own.first.image)
    identical = decibels == float("inf")
    figures = {
        "seconds": seconds,
        "loop_seconds": statistics.median(own.loop_seconds),
        "images": len(own.seconds),
        "launched": own.launched,
        "speedup": statistics.median(plain.seconds) / seconds,
        "identical": identical,
        "psnr_db": None if identical else decibels,
    }
    detail, least = f"{seconds:.3g} s", subject.workload.least_psnr
    is_uncached = setting.system == ENGINES and setting.params == UNCACHED
    is_far = is_uncached and least is not None and not decibels >= least
    if is_far:
        detail += f", {decibels:.0f} dB against {PLAIN}, limit {least:g}"
    is_other_way = setting.system == ENGINES and setting.per_step != (own.launched == PER_STEP)
    if is_other_way:
        detail += f", but its steps were launched {own.launched}"
    return subject.row("images", not (is_far or is_other_way), detail, setting.name, **figures)


def _decibels(plain: Any, own: Any) -> float:
    """PSNR; NaN where there is no picture: what is not finite comes out of the decoder as one colour, and is equal."""
    is_blank = any(np.ptp(np.asarray(image)) == 0 for image in (plain, own))
    return math.nan if is_blank else image_psnr([plain], [own])


@contextmanager
def _pipelines(subject: Subject) -> Iterator[Callable[[Setting], _Shot]]:
    """What draws the image of a setting.

    All share the models of one pipeline; only the DeepCache package has a U-Net of its own, whose methods it replaces.
    """
    from deepcache_trt import DeepCachePipeline

    engines = functools.cache(
        lambda: DeepCachePipeline.from_pipe(subject.pipe, backend=subject.backend, store=subject.target.store.root)
    )
    package = functools.cache(lambda: _package(subject.pipe))

    def pipeline_of(setting: Setting) -> Any:
        params = {
            "cache_interval": setting.params.cache_interval,
            "cache_branch_id": setting.params.cache_branch_id,
        }
        if setting.system == ENGINES:
            engines().set_cache_params(**params)
            return engines()
        if setting.system == PACKAGE:
            pipe, helper = package()
            helper.set_params(**params)
            return pipe
        return subject.pipe

    def action(setting: Setting) -> _Shot:
        pipe, clock = pipeline_of(setting), LoopClock(functools.partial(_wait, subject))
        pipe.progress_bar = clock  # a cached pipeline puts its own back after each call
        call = {"callback_on_step_end": lambda *given: given[-1]} if setting.per_step else {}
        image = draw(subject, pipe, num_inference_steps=setting.steps, **call)
        launched = _launched(pipe.last_run) if setting.system == ENGINES else PER_STEP
        return _Shot(image=image, loop_seconds=clock.seconds, launched=launched)

    try:
        yield action
    finally:
        if engines.cache_info().currsize:
            engines().disable_cache()


def _launched(run: Run) -> str:
    if run.way == PER_STEP:
        return PER_STEP
    return ONE_GRAPH if run.recorded is not None and run.recorded.plans else "one by one"


def _wait(subject: Subject) -> None:
    if subject.on_gpu:
        torch.cuda.synchronize()


def _package(pipe: Any) -> tuple[Any, Any]:
    from DeepCache import DeepCacheSDHelper

    copied = copy.copy(pipe)
    copied.unet = copy.deepcopy(pipe.unet)
    helper = DeepCacheSDHelper(pipe=copied)
    helper.set_params()
    helper.enable()
    return copied, helper
