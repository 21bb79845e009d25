"""The check of engines in 8 bits, beside those in the precision of the pipeline."""

import statistics
from collections.abc import Callable, Mapping

import torch

from deepcache_trt.benchmarks.gpu_check.checks.steps import samples_ms
from deepcache_trt.benchmarks.gpu_check.checks.subject import POLICY, Buffers, Subject
from deepcache_trt.benchmarks.gpu_check.rows import MISSING, Row
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.builder.quantized.quantized_component import quantized
from deepcache_trt.builder.quantized.quantizing import ALL
from deepcache_trt.builder.quantized.seeded import seeded_calibration
from deepcache_trt.builder.trust import relative_error
from deepcache_trt.engines.engine import Engine
from deepcache_trt.export.precision import INT8
from deepcache_trt.progress import logged


@torch.no_grad()
def eight_bits(subject: Subject) -> list[Row]:
    """Both variants with every layer in 8 bits and without, in turn: how fast, and how near on seeded inputs."""
    why = subject.target.backend.lacks.get(INT8.name)
    if why is not None:
        return [subject.row("8 bits", MISSING, why)]
    component = quantized(subject.component, POLICY, INT8, (ALL,), seeded_calibration(subject.component))
    session = open_session(component, POLICY, subject.target, sizes=subject.sizes(), progress=logged)
    try:
        return [_compare(subject, session.engines)]
    finally:
        session.close()


def _compare(subject: Subject, whole: Mapping[str, Engine]) -> Row:
    engines, inputs = subject.session.engines, subject.inputs(subject.sizes())
    given = {name: Buffers(each, subject.sizes(), subject.device) for name, each in (("", engines), ("int8_", whole))}
    made = {name: {variant: buffers.run(variant, inputs) for variant in engines} for name, buffers in given.items()}
    errors = {variant: relative_error(made["int8_"][variant], made[""][variant]) for variant in engines}
    actions: dict[str, Callable[[], object]] = {
        f"{name}{variant}_ms": buffers.engines[variant].run for name, buffers in given.items() for variant in engines
    }
    samples = samples_ms(actions, on_gpu=subject.on_gpu, seconds=subject.seconds_left / 2)
    figures = {name: statistics.median(times) for name, times in samples.items()}
    ratios = {variant: figures[f"{variant}_ms"] / figures[f"int8_{variant}_ms"] for variant in engines}
    detail = ", ".join(
        f"{variant} {ratios[variant]:.2f}× as fast and {errors[variant]:.1e} of the norm away" for variant in engines
    )
    near = all(error <= INT8.tolerance for error in errors.values())  # NaN is not
    return subject.row("8 bits", near, detail, relative_error=errors, limit=INT8.tolerance, ratio=ratios, **figures)
