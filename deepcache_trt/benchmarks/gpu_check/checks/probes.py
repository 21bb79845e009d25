"""The checks of the runtime under the engines: what was tried on doubles of CUDA, on the GPU at hand."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch

from deepcache_trt.benchmarks.gpu_check.checks.subject import Subject, draw
from deepcache_trt.benchmarks.gpu_check.rows import FAIL, MISSING, SKIPPED, Row
from deepcache_trt.benchmarks.gpu_check.schedule import MORE_TIME
from deepcache_trt.builder.trust import TOLERANCE, relative_error
from deepcache_trt.runtime import cuda_graph
from deepcache_trt.runtime.cuda_graph import CudaGraphs
from deepcache_trt.runtime.decision import Decision
from deepcache_trt.runtime.policies import Adaptive
from deepcache_trt.runtime.switch import Step, Switch, Unit

_STEPS = 4
_RULED_STEPS = 20

# A combination is not begun with less time than this, in which its update is compiled.
_COMPILE_SECONDS = 10

# Every combination of these has shapes, rings or guidance of its own; torch's compiler gives up on a function at its
# ninth one.
_SCHEDULERS = ("DDIMScheduler", "DPMSolverMultistepScheduler", "EulerAncestralDiscreteScheduler")
_CALLS: tuple[dict[str, Any], ...] = (
    {},
    {"guidance_scale": 1.0},
    {"height": 96, "width": 64},
)


class _Counter:
    """Units of work on one number, each of which leaves its mark in the order of the others."""

    def __init__(self) -> None:
        self.number = torch.zeros(1, device="cuda")
        self.units: Sequence[Unit] = (self._double, self._increment, self._negate)

    def _double(self) -> None:
        self.number.mul_(2)

    def _increment(self) -> None:
        self.number.add_(1)

    def _negate(self) -> None:
        self.number.neg_()

    def run(self, units: Sequence[Unit], start: float) -> float:
        """One by one."""
        self.number.fill_(start)
        for unit in units:
            unit()
        return float(self.number)

    def launch(self, graphs: CudaGraphs, units: Sequence[Step], start: float) -> float | None:
        """As recorded; None where they are not."""
        self.number.fill_(start)
        return float(self.number) if graphs.launch(units) else None


@contextmanager
def _graphs() -> Iterator[CudaGraphs]:
    graphs = CudaGraphs(torch.device("cuda", torch.cuda.current_device()))
    try:
        yield graphs
    finally:
        graphs.close()


def record(subject: Subject) -> list[Row]:
    """A recorded unit computes with what is in memory when it is launched."""
    if not subject.on_gpu:
        return [subject.row("record", MISSING, "no GPU")]
    counter, starts = _Counter(), (3.0, -8.0)
    with _graphs() as graphs:
        unit = counter.units[0]
        unit()
        graphs.record([unit])
        found = [counter.launch(graphs, [unit], start) for start in starts]
    expected = [counter.run([unit], start) for start in starts]
    return [subject.row("record", found == expected, f"{found}, one by one {expected}")]


def compose(subject: Subject) -> list[Row]:
    """Units in three orders, each launched as one graph, compute what they compute one by one."""
    if not subject.on_gpu:
        return [subject.row("compose", MISSING, "no GPU")]
    counter = _Counter()
    a, b, c = counter.units
    orders = ((a, b, c), (c, b, a), (b, a, a, c, b, a))
    with _graphs() as graphs:
        counter.run(counter.units, 0.0)
        graphs.record(counter.units)
        found = [counter.launch(graphs, order, 5.0) for order in orders]
        plans = graphs.recorded.plans
    expected = [counter.run(order, 5.0) for order in orders]
    how = f"{plans} plans composed" if plans else "launched one by one: cuda-bindings is not installed"
    return [subject.row("compose", found == expected, f"{found}, one by one {expected}; {how}", plans=plans)]


def switch(subject: Subject) -> list[Row]:
    """A graph runs the branch that a number on the GPU says when it is launched, and none where that is too large."""
    if not subject.on_gpu:
        return [subject.row("switch", MISSING, "no GPU")]
    counter, choice = _Counter(), torch.zeros(1, dtype=torch.int32, device="cuda")
    double, increment, negate = counter.units
    branches = ((double,), (negate, increment), ())
    order: list[Step] = [increment, Switch(address=choice.data_ptr(), branches=branches), increment]
    found = []
    with _warnings() as said, _graphs() as graphs:
        counter.run(counter.units, 0.0)
        graphs.record(counter.units)
        for number in range(len(branches) + 1):
            choice.fill_(number)
            found.append(counter.launch(graphs, order, 5.0))
    expected = [counter.run([increment, *branch, increment], 5.0) for branch in (*branches, ())]
    if not any(found):
        return [subject.row("switch", MISSING, said[0] if said else "cuda-bindings is not installed")]
    return [subject.row("switch", found == expected, f"{found}, one by one {expected}")]


def failed_capture(subject: Subject) -> list[Row]:
    """A unit that cannot be recorded leaves a process in which memory is given back and others are recorded."""
    if not subject.on_gpu:
        return [subject.row("failed capture", MISSING, "no GPU")]
    counter = _Counter()

    def asks_the_gpu() -> None:
        torch.zeros(1 << 20, device="cuda").add_(float(counter.number))

    with _warnings() as said, _graphs() as graphs:
        asks_the_gpu()
        graphs.record([asks_the_gpu])
        refused = not graphs.launch([asks_the_gpu])
    torch.cuda.empty_cache()
    with _graphs() as graphs:
        counter.run(counter.units, 0.0)
        graphs.record(counter.units)
        found = counter.launch(graphs, counter.units, 5.0)
    expected = counter.run(counter.units, 5.0)
    torch.cuda.empty_cache()
    detail = f"said {len(said)} times: {said[0] if said else 'nothing'}; afterwards {found}, one by one {expected}"
    return [subject.row("failed capture", refused and len(said) == 1 and found == expected, detail)]


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What the log of CUDA graphs says meanwhile."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    log, keep = logging.getLogger(cuda_graph.__name__), Keep(logging.WARNING)
    log.addHandler(keep)
    try:
        yield said
    finally:
        log.removeHandler(keep)


def updates(subject: Subject) -> list[Row]:
    """Nine combinations of shapes, schedulers and guidance draw what the pipeline's own loop draws."""
    import diffusers

    pipe, errors = _cached(subject), dict[str, float]()
    combinations = list(product(_SCHEDULERS, _CALLS))
    try:
        for name, call in combinations:
            if subject.seconds_left < _COMPILE_SECONDS:
                break
            pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
            expected = _latents(subject, pipe, **call, callback_on_step_end=lambda *given: given[-1])
            draws = [_latents(subject, pipe, **call) for _ in range(2)]  # the first one may record
            title = ", ".join([name, *(f"{key} {value}" for key, value in call.items())])
            errors[title] = float(np.max([relative_error(latents, expected) for latents in draws]))
    finally:
        pipe.disable_cache()
    if not errors:
        return [subject.row("updates", SKIPPED, f"{max(subject.seconds_left, 0):.0f} s left; {MORE_TIME}")]
    row = _compared(subject, "updates", errors, f"{len(errors)} of {len(combinations)} combinations")
    return [row if len(errors) == len(combinations) or row.status == FAIL else replace(row, status=SKIPPED)]


def rule(subject: Subject) -> list[Row]:
    """Images by a rule that is followed on the GPU are those of the first one, which the host asked about each call."""
    pipe, found = _cached(subject), list[tuple[torch.Tensor, Sequence[Decision]]]()
    try:
        pipe.set_cache_params(policy=Adaptive(threshold=0.2, skip_threshold=0.01, forecast="taylor1"))
        for _ in range(3):
            latents = _latents(subject, pipe, num_inference_steps=_RULED_STEPS)
            found.append((latents, pipe.last_run.decisions))
        plans = pipe.last_run.recorded.plans if pipe.last_run.recorded is not None else 0
    finally:
        pipe.disable_cache()
    (first, decisions), *others = found
    errors = [relative_error(latents, first) for latents, _ in others]
    are_same = all(tuple(decided) == tuple(decisions) for _, decided in others)
    ran = Counter(decision.variant for decision in decisions)
    detail = f"{', '.join(f'{count} {name}' for name, count in ran.items())}; {plans} graphs composed; "
    detail += (
        f"at most {max(errors):.1e} of the norm from the first image, decided {'alike' if are_same else 'otherwise'}"
    )
    passed = are_same and all(error <= TOLERANCE[subject.dtype] for error in errors)
    return [subject.row("rule", passed, detail, relative_error=errors, decided=dict(ran))]


def moved_weights(subject: Subject) -> list[Row]:
    """An image after its model's weights have moved is that of before, whatever lies where they were."""
    pipe, errors = _cached(subject), dict[str, float]()
    unet, device = subject.pipe.unet, subject.device
    moves: dict[str, Callable[[], Any]] = {
        "channels last": lambda: unet.to(memory_format=torch.channels_last),
        "to the CPU and back": lambda: unet.to("cpu").to(device),
        "contiguous again": lambda: unet.to(memory_format=torch.contiguous_format),
    }
    try:
        before = [_latents(subject, pipe) for _ in range(2)][-1]
        for title, move in moves.items():
            move()
            if subject.on_gpu:
                torch.cuda.empty_cache()
                torch.full((1 << 28,), torch.nan, device=device)  # what is given back is overwritten
            drawn = [_latents(subject, pipe) for _ in range(2)]
            errors[title] = float(np.max([relative_error(latents, before) for latents in drawn]))
    finally:
        pipe.disable_cache()
    return [_compared(subject, "moved weights", errors, "moved three times")]


def _cached(subject: Subject) -> Any:
    from deepcache_trt import DeepCachePipeline

    return DeepCachePipeline.from_pipe(
        subject.pipe, backend=subject.backend, store=subject.target.store.root, components=()
    )


def _latents(subject: Subject, pipe: Any, **call: Any) -> torch.Tensor:
    drawn = draw(subject, pipe, **{"output_type": "latent", "num_inference_steps": _STEPS, **call})
    latents: torch.Tensor = drawn.float().cpu()
    return latents


def _compared(subject: Subject, check: str, errors: dict[str, float], what: str) -> Row:
    limit = TOLERANCE[subject.dtype]
    wrong = [title for title, error in errors.items() if not error <= limit]  # NaN is not
    worst = max(errors, key=lambda title: errors[title])
    detail = f"{what}, at most {errors[worst]:.1e} of the norm ({worst}), limit {limit:g}"
    if wrong:
        detail += f"; not as expected: {', '.join(wrong)}"
    return subject.row(check, not wrong, detail, relative_error=errors, limit=limit)
