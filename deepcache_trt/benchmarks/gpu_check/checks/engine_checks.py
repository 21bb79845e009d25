"""The checks of what engines compute: alone, replayed and in turn, against torch and against each other."""

import time
from collections.abc import Mapping
from dataclasses import replace

import torch

from deepcache_trt.benchmarks.gpu_check.checks.subject import POLICY, Buffers, Subject, record
from deepcache_trt.benchmarks.gpu_check.rows import Row
from deepcache_trt.builder.engines import build_pieces
from deepcache_trt.builder.graphs import graph_artefact
from deepcache_trt.builder.trust import TOLERANCE, relative_error
from deepcache_trt.engines.store import Artefact
from deepcache_trt.models.architecture import OUTPUT
from deepcache_trt.progress import logged
from deepcache_trt.runtime.plan import FULL
from deepcache_trt.runtime.policies.deepcache import SHALLOW
from deepcache_trt.tensors import LATENT_PIXELS


def build(subject: Subject) -> list[Row]:
    """Build both engines; on a GPU each is compared with ONNX Runtime before it is trusted."""
    component, sizes = subject.component, subject.sizes() if subject.target.capability is None else None
    started = time.perf_counter()
    if not subject.target.backend.runs_model:
        graph_artefact(component, subject.target.store, logged)
    exported = time.perf_counter()
    artefacts = build_pieces(component, POLICY, subject.target, sizes=sizes, progress=logged)
    export_seconds, seconds = exported - started, time.perf_counter() - exported
    own_bytes = {variant: _own_bytes(artefact) for variant, artefact in artefacts.items()}
    trust = {variant: artefact.about.get("check") for variant, artefact in artefacts.items()}
    detail = f"{seconds:.1f} s, {subject.dtype}; without linked weights {_megabytes(own_bytes)}"
    if export_seconds > 1:  # else another backend has done it
        detail = f"export {export_seconds:.1f} s, engines {detail}"
    for variant, check in trust.items():
        if check is not None:
            errors = ", ".join(f"{error:.1e}" for error in check["relative_error"].values())
            detail += f"; {variant} against ONNX Runtime on the CPU: {errors or check['reason']}"
    figures = {"export_seconds": export_seconds, "seconds": seconds, "own_bytes": own_bytes, "trust": trust}
    return [subject.row("build", True, detail, **figures)]


def _own_bytes(artefact: Artefact) -> int:
    """The files that the artefact shares with no other."""
    files = (file.stat() for file in artefact.folder.iterdir())
    return sum(status.st_size for status in files if status.st_nlink == 1)


def parity(subject: Subject) -> list[Row]:
    """Full and shallow engines against torch in float32, on the same seeded inputs and each with its own taps."""
    return [_compare(subject, "parity", {"": _errors(subject, subject.sizes())})]


def shapes(subject: Subject) -> list[Row]:
    """The same at two sizes, one after the other, and the first one again bit for bit."""
    if subject.workload.other_pixels is None:
        return [subject.row("shapes", "skipped", "one size only of this model; see digits")]
    first, second = subject.sizes(), subject.sizes(subject.workload.other_pixels)
    inputs = subject.inputs(first)
    before = Buffers(subject.session.engines, first, subject.device).run(FULL, inputs)
    errors = {f"{sizes['height'] * LATENT_PIXELS} pixels ": _errors(subject, sizes) for sizes in (first, second)}
    after = Buffers(subject.session.engines, first, subject.device).run(FULL, inputs)
    row = _compare(subject, "shapes", errors)
    if torch.equal(before, after):
        return [row]
    return [replace(row, status="fail", detail=f"{row.detail}; the first size again gives another result")]


def _errors(subject: Subject, sizes: Mapping[str, int]) -> dict[str, float]:
    """‖engine − reference‖ / ‖reference‖ of each variant, the shallow one on other inputs than those of its tap."""
    buffers = Buffers(subject.session.engines, sizes, subject.device)
    computed = {
        variant: buffers.run(variant, subject.inputs(sizes, seed)) for seed, variant in enumerate((FULL, SHALLOW))
    }
    return {
        variant: relative_error(computed[variant], expected) for variant, expected in subject.reference(sizes).items()
    }


def _compare(subject: Subject, check: str, errors: Mapping[str, Mapping[str, float]]) -> Row:
    flat = {f"{at}{variant}": error for at, by_variant in errors.items() for variant, error in by_variant.items()}
    limit = TOLERANCE[subject.dtype]
    detail = f"{', '.join(f'{name} {error:.1e}' for name, error in flat.items())} of the norm, limit {limit:g}"
    passed = all(error <= limit for error in flat.values())  # NaN is not
    return subject.row(check, passed, detail, relative_error=flat, limit=limit)


def cut(subject: Subject) -> list[Row]:
    """A cached step on the tap of a full one with the same inputs is that full step."""
    buffers, inputs = Buffers(subject.session.engines, subject.sizes(), subject.device), subject.inputs(subject.sizes())
    full, shallow = (buffers.run(variant, inputs) for variant in (FULL, SHALLOW))
    exact, largest = torch.equal(full, shallow), float((full.float() - shallow.float()).abs().max())
    error, limit = relative_error(shallow, full), TOLERANCE[subject.dtype]
    # A compiler may choose other kernels for a part of a graph than for all of it; torch runs the same ones.
    passed = exact or (not subject.target.backend.bit_exact and error <= limit)
    detail = "bit for bit" if exact else f"largest difference {largest:.1e}, {error:.1e} of the norm"
    return [subject.row("cut", passed, detail, exact=exact, largest_difference=largest, relative_error=error)]


def capture(subject: Subject) -> list[Row]:
    """A replayed CUDA graph reads what is in the buffers now and computes what a plain run computes."""
    if not subject.on_gpu:
        return [subject.row("capture", "missing", "no GPU")]
    engines = subject.session.engines
    captured = all(engine.capturable for engine in engines.values())
    if not captured and not subject.target.backend.captures:
        return [subject.row("capture", "missing", "this backend uses no CUDA graphs")]
    replay = _replayed if captured else _replayed_inside
    wrong = [variant for variant in engines if not torch.equal(*replay(subject, variant))]
    how = "captured from outside" if captured else "captured by the backend itself"
    detail = f"{how}; replay differs in {', '.join(wrong)}" if wrong else f"{how}, replay equals a plain run"
    return [subject.row("capture", not wrong, detail, from_outside=captured)]


def _replayed(subject: Subject, variant: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What a plain run and a replay give for inputs that came after the capture."""
    buffers, sizes = Buffers(subject.session.engines, subject.sizes(), subject.device), subject.sizes()
    buffers.run(FULL, subject.inputs(sizes))  # fills the tap
    graph = record(buffers.engines[variant])
    expected = buffers.run(variant, subject.inputs(sizes, seed=1))
    buffers.tensors[OUTPUT].fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    return expected, buffers.tensors[OUTPUT].clone()


def _replayed_inside(subject: Subject, variant: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for a backend that captures the second run in a row on the same memory, and then replays."""
    sizes = subject.sizes()
    buffers, inputs = Buffers(subject.session.engines, sizes, subject.device), subject.inputs(sizes)
    buffers.run(FULL, inputs)
    for _ in range(2):
        buffers.run(variant, inputs)
    elsewhere = {name: tensor.clone() for name, tensor in buffers.tensors.items()}
    replayed = buffers.run(variant, subject.inputs(sizes, seed=1))
    plain = Buffers(subject.session.engines, sizes, subject.device)
    plain.fill(elsewhere)
    return plain.run(variant, subject.inputs(sizes, seed=1)), replayed


def workspace(subject: Subject) -> list[Row]:
    """Engines that share their scratch memory compute what they compute apart; and what each of them holds."""
    engines, sizes = subject.session.engines, subject.sizes()
    order = [(FULL, 0), (SHALLOW, 1), (FULL, 1), (SHALLOW, 0)]
    shared, apart = (
        [buffers.run(variant, subject.inputs(sizes, seed)) for variant, seed in order]
        for buffers in (Buffers(engines, sizes, subject.device, share=share) for share in (True, False))
    )
    same = all(torch.equal(*pair) for pair in zip(shared, apart, strict=True))
    needed = {variant: engine.workspace_bytes for variant, engine in engines.items()}
    held = subject.close_session()
    detail = f"run in turn the engines {'' if same else 'do not '}give what they give apart"
    if any(needed.values()):
        detail += "; one workspace for both, they need " + _megabytes(needed)
    else:
        detail += "; the backend manages its own workspace"
    if subject.on_gpu:
        detail += "; closed one after the other they gave back " + _megabytes(held)
    return [subject.row("workspace", same, detail, workspace_bytes=needed, held_bytes=held if subject.on_gpu else None)]


def _megabytes(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count / 1e6:,.1f} MB" for name, count in counts.items())
