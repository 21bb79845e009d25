"""Probing a diffusers scheduler for its sampler table.

The real scheduler is run once, in float64, on symbols instead of images: every sample, output and noise tensor is a
basis vector of its own, and what `step` returns at call i holds the weight of each. A table is trusted only after the
real scheduler agreed with it on a non-linear model. The alternative to a table is the scheduler's own `step`, and
`NoTable` says why.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray

from deepcache_trt.foreign import Scheduler
from deepcache_trt.runtime.sampler.table import NoTable, SamplerTable
from deepcache_trt.runtime.sampler.trial_run import (
    SAME_AT_EVERY_CALL,
    RefusedError,
    Symbols,
    TrialRun,
    accepted_arguments,
)

# The largest difference from the real scheduler in the sample of one call, over the largest value of that sample, both
# in float32. It is passed where a step is enormous, as Euler's first one from σ = 4096 if there are few: of what
# diffusers makes there, the last digits are chance.
TOLERANCE = 5e-6

# No scheduler but those that correct a sample of their own (see `_without_tail`) remembers more calls than this.
_LONGEST_MEMORY = 16


def probe(
    scheduler: Scheduler, timesteps: Iterable[torch.Tensor], step_arguments: Mapping[str, object] | None = None
) -> SamplerTable | NoTable:
    """The table of one generation, or why there is none. The scheduler is copied and stays as it is.

    Args:
        scheduler: a diffusers scheduler after the pipeline's `set_timesteps` and before its first `step`.
        timesteps: [n], those that the pipeline will go through; after `strength` or `denoising_end` not all there are.
        step_arguments: what the pipeline passes to `step` by keyword. `generator` and `return_dict` change no weight.
    """
    calls = list(torch.stack(list(timesteps)).cpu())
    with _on_the_cpu():
        try:
            arguments = accepted_arguments(scheduler, step_arguments or {})
            table = _table_from_symbols(scheduler, calls, arguments)
            _verify(table, scheduler, calls, arguments)
        except RefusedError as refusal:
            return NoTable(str(refusal))
    return table


def probe_add_noise(
    scheduler: Scheduler, timesteps: Iterable[torch.Tensor], step_arguments: Mapping[str, object] | None = None
) -> NDArray[np.float64] | NoTable:
    """How noisy `add_noise` makes a given image after each call, for inpainting; arguments as for `probe`.

    Returns:
        [n, 2] float64, the weights of image and noise at the next call's timestep; the last row is the image alone. Or
        why there are none.
    """
    calls = list(torch.stack(list(timesteps)).cpu())
    # A channel of image, one of noise, and one of both that tells whether it is linear.
    given = torch.tensor([[1, 0], [0, 1], [0.3, -0.7], [0, 0]], dtype=torch.float64)
    image, noise = given.T.reshape(2, 1, 4, 1, 1)
    scales = np.tile([1.0, 0.0], [len(calls), 1])
    with _on_the_cpu():
        try:
            real = TrialRun(scheduler, accepted_arguments(scheduler, step_arguments or {}))
            for i, t in enumerate(calls[:-1]):
                real.step(torch.zeros_like(image), t, torch.zeros_like(image))  # some schedulers count their steps
                noisy = real.add_noise(image, noise, calls[i + 1].reshape(1)).double().flatten().numpy()
                if not abs(given[2].numpy() @ noisy[:2] - noisy[2]) <= TOLERANCE * np.abs(noisy).max():
                    raise RefusedError("its add_noise is not linear")
                scales[i] = noisy[:2]
        except RefusedError as refusal:
            return NoTable(str(refusal))
    return scales


def _on_the_cpu() -> AbstractContextManager[object]:
    """Symbols belong on no GPU; a context that changes nothing is left out, since it would see every operation."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


def state_key(
    scheduler: Scheduler, timesteps: Iterable[torch.Tensor], step_arguments: Mapping[str, object] | None = None
) -> str:
    """A key for the result of `probe`: the scheduler's class and whole state, the timesteps and the arguments."""
    arguments = {name: value for name, value in (step_arguments or {}).items() if name in SAME_AT_EVERY_CALL}
    given = arguments, sorted(step_arguments or {}), torch.get_default_dtype()
    state = type(scheduler).__module__, type(scheduler).__qualname__, vars(scheduler), torch.stack(list(timesteps))
    digest = hashlib.blake2b(digest_size=16)
    for part in _flat((state, given)):
        digest.update(part)
    return digest.hexdigest()


def _table_from_symbols(
    scheduler: Scheduler, timesteps: list[torch.Tensor], arguments: dict[str, object]
) -> SamplerTable:
    n = len(timesteps)
    scales, rows, draws = np.empty(n), np.empty([n, 3 * n]), []
    real = TrialRun(scheduler, arguments)
    with Symbols(real.generator, 3 * n) as symbols:  # they stand for x[0…n-1], ε[0…n-1], z[0…n-1]
        for i, t in enumerate(timesteps):
            sample = symbols.symbol(i)
            scales[i] = real.scale(sample, t)[0, i].item()
            symbols.expected, symbols.drawn = 2 * n + i, None
            result = real.step(symbols.symbol(n + i), t, sample)
            if result.shape != sample.shape:
                raise RefusedError(f"its step makes a sample of shape {list(result.shape)} of {list(sample.shape)}")
            rows[i] = result.double().flatten().numpy()
            draws.append(symbols.drawn is not None)
    if not (np.isfinite(rows).all() and np.isfinite(scales).all()):
        raise RefusedError("its coefficients are not finite")
    weights = rows.reshape(n, 3, n)
    short = weights if _memory(weights) <= _LONGEST_MEMORY else _without_tail(weights)
    return SamplerTable(
        input_scales=scales,
        sample_weights=_lags(short[:, 0], at_least=1),
        output_weights=_lags(short[:, 1], at_least=1),
        noise_weights=_lags(short[:, 2], at_least=0),
        draws=tuple(draws),
        noise_dtypes=_noise_dtypes(scheduler, timesteps[: draws.index(True) + 1], arguments) if any(draws) else {},
        takes_edited_samples=short is weights,
    )


def _noise_dtypes(
    scheduler: Scheduler, timesteps: list[torch.Tensor], arguments: dict[str, object]
) -> dict[torch.dtype, torch.dtype]:
    """In which dtype the last of these calls draws, for latents of each dtype."""
    drawn = {}
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        real = TrialRun(scheduler, arguments)
        latents = torch.zeros(1, 4, 1, 1, dtype=dtype)
        with Symbols(real.generator, 4) as symbols:
            for t in timesteps:
                symbols.drawn = None
                real.step(latents, t, real.scale(latents, t))
        assert symbols.drawn is not None, "this call drew noise for symbols"
        drawn[dtype] = symbols.drawn
    return drawn


def _verify(
    table: SamplerTable, scheduler: Scheduler, timesteps: list[torch.Tensor], arguments: dict[str, object]
) -> None:
    """Compare every call with the real scheduler's on a small batch, real noise and a non-linear model."""
    real = TrialRun(scheduler, arguments)
    same = torch.Generator().manual_seed(0)
    samples = [torch.randn(2, 4, 4, 4, dtype=torch.float32, generator=torch.Generator().manual_seed(1))]
    samples[0] *= float(getattr(scheduler, "init_noise_sigma", 1.0))
    outputs: list[torch.Tensor] = []
    noise: list[torch.Tensor] = []
    for i, t in enumerate(timesteps):
        scaled = real.scale(samples[i], t)
        _compare(scaled, float(table.input_scales[i]) * samples[i], i)
        outputs.append(torch.sin(3 * scaled) + 0.5 * scaled.roll(1, -1))
        drawn = table.draw(i, samples[i], same)
        noise.append(torch.zeros_like(samples[i]) if drawn is None else drawn)
        samples.append(real.step(outputs[i], t, samples[i]))
        _compare(samples[i + 1], table.next_sample(i, samples, outputs, noise), i)


def _compare(real: torch.Tensor, ours: torch.Tensor, call: int) -> None:
    if real.shape != ours.shape:
        raise RefusedError(f"it makes a sample of shape {list(real.shape)} where {list(ours.shape)} went in")
    error, size = float((real - ours).abs().max()), float(real.abs().max())
    if not error <= TOLERANCE * size:
        raise RefusedError(
            f"it is not linear, or rounds a lot: a table is off by {error:.0e} of {size:.0e} at call {call}"
        )


def _memory(weights: NDArray[np.float64]) -> int:
    """How many calls back the weights [n, 3, n] of x, ε and z reach."""
    call, _, of = np.nonzero(weights)
    if (of > call).any():
        raise RefusedError("it adds something of its own to the sample")
    return int((call - of).max(initial=-1)) + 1


def _without_tail(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same samples from fewer tensors, where a scheduler remembers a sample that it never returns.

    UniPC and SA correct the sample by which they go on and return its prediction: everything that ever was lives on in
    the corrected one. Older than some calls, row i is then a multiple ρ of row i-1, which made x[i], so that

        x[i+1] = ρ · x[i] + (row i - ρ · row i-1), in which nothing old is left.
    """
    n = len(weights)
    for kept in range(2, min(_LONGEST_MEMORY, n) + 1):
        short = weights.copy()
        for i in range(kept, n):
            old, before = weights[i, :, : i - kept + 1], weights[i - 1, :, : i - kept + 1]
            ratio = (old * before).sum() / max((before**2).sum(), np.finfo(float).tiny)
            short[i] -= ratio * weights[i - 1]
            short[i, 0, i] += ratio
            if np.abs(short[i, :, : i - kept + 1]).max() > 1e-12 * np.abs(weights[i]).max():
                break
            short[i, :, : i - kept + 1] = 0
        else:
            return short
    return weights


def _lags(rows: NDArray[np.float64], at_least: int) -> NDArray[np.float64]:
    """[n, n] weights by call → [n, depth] by how many calls ago."""
    call, of = np.nonzero(rows)
    depth = max(at_least, int((call - of).max(initial=-1)) + 1)
    lags = np.zeros([len(rows), depth])
    lags[call, call - of] = rows[call, of]
    return lags


def _flat(value: object) -> Iterator[bytes]:
    """What tells values apart, as bytes; tensors by content."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode()
        yield value.tobytes()
    elif isinstance(value, Mapping):
        for key in value:
            yield f"{key!r}:".encode()
            yield from _flat(value[key])
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__}{len(value)}".encode()
        for item in value:
            yield from _flat(item)
    else:
        yield repr(value).encode() + b";"
