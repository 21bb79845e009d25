"""The checks of `gpu_check`, in a process of their own: what ends it costs the other backends nothing.

    python -m deepcache_trt.benchmarks.gpu_check.checks --backend torch --device cuda --model digits --store … --out …

Its rows are written after every check, so that what was found survives the process.
"""

import argparse
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from deepcache_trt.benchmarks.gpu_check import timings as gpu_timings
from deepcache_trt.benchmarks.gpu_check.loop import loop
from deepcache_trt.benchmarks.gpu_check.report import CHECKS, Row
from deepcache_trt.benchmarks.gpu_check.subject import BRANCH, WORKLOADS, Bench, Buffers, record
from deepcache_trt.benchmarks.report import write_json
from deepcache_trt.builder.component import Component, from_model
from deepcache_trt.builder.engines import build_variants, variants_of
from deepcache_trt.builder.graphs import bound_graph, graph_artefact
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.builder.trust import TOLERANCE
from deepcache_trt.engines.backend import BuildOptions
from deepcache_trt.engines.store import Artefact, Store
from deepcache_trt.errors import DeepCacheError, first_line
from deepcache_trt.models.architecture import OUTPUT
from deepcache_trt.progress import logged
from deepcache_trt.runtime.plan import FULL, SHALLOW
from deepcache_trt.runtime.session import Session

# A check is not begun with less time than this: the process would be ended in the middle of it.
_LEAST_SECONDS = 5


def build(bench: Bench) -> list[Row]:
    """Build both engines; on a GPU each is compared with ONNX Runtime before it is trusted."""
    component, sizes = bench.component, bench.sizes() if bench.target.capability is None else None
    started = time.perf_counter()
    graph_artefact(component, bench.target.store, logged)
    exported = time.perf_counter()
    artefacts = build_variants(component, BRANCH, bench.target, sizes=sizes, progress=logged)
    export_seconds, seconds = exported - started, time.perf_counter() - exported
    own_bytes = {variant: _own_bytes(artefact) for variant, artefact in artefacts.items()}
    trust = {variant: artefact.about.get("check") for variant, artefact in artefacts.items()}
    detail = f"{seconds:.1f} s, {bench.dtype}; without linked weights {_megabytes(own_bytes)}"
    if export_seconds > 1:  # else another backend has done it
        detail = f"export {export_seconds:.1f} s, engines {detail}"
    for variant, check in trust.items():
        if check is not None:
            errors = ", ".join(f"{error:.1e}" for error in check["relative_error"].values())
            detail += f"; {variant} against ONNX Runtime on the CPU: {errors or check['reason']}"
    figures = {"export_seconds": export_seconds, "seconds": seconds, "own_bytes": own_bytes, "trust": trust}
    return [bench.row("build", True, detail, **figures)]


def _own_bytes(artefact: Artefact) -> int:
    """The files that the artefact shares with no other."""
    files = (file.stat() for file in artefact.folder.iterdir())
    return sum(status.st_size for status in files if status.st_nlink == 1)


def parity(bench: Bench) -> list[Row]:
    """Full and shallow engines against torch in float32, on the same seeded inputs and each with its own taps."""
    return [_compare(bench, "parity", {"": _errors(bench, bench.sizes())})]


def shapes(bench: Bench) -> list[Row]:
    """The same at two sizes, one after the other, and the first one again bit for bit."""
    if bench.workload.other_pixels is None:
        return [bench.row("shapes", "skipped", "one size only of this model; see digits")]
    here, there = bench.sizes(), bench.sizes(bench.workload.other_pixels)
    inputs = bench.inputs(here)
    before = Buffers(bench.session.engines, here, bench.device).run(FULL, inputs)
    errors = {f"{sizes['height'] * 8} pixels ": _errors(bench, sizes) for sizes in (here, there)}
    after = Buffers(bench.session.engines, here, bench.device).run(FULL, inputs)
    row = _compare(bench, "shapes", errors)
    if torch.equal(before, after):
        return [row]
    return [replace(row, status="fail", detail=f"{row.detail}; the first size again gives another result")]


def _errors(bench: Bench, sizes: Mapping[str, int]) -> dict[str, float]:
    """‖engine − reference‖ / ‖reference‖ of each variant, the shallow one on other inputs than those of its tap."""
    buffers = Buffers(bench.session.engines, sizes, bench.device)
    found = {variant: buffers.run(variant, bench.inputs(sizes, seed)) for seed, variant in enumerate((FULL, SHALLOW))}
    return {variant: _distance(found[variant], expected) for variant, expected in bench.reference(sizes).items()}


def _compare(bench: Bench, check: str, errors: Mapping[str, Mapping[str, float]]) -> Row:
    flat = {f"{at}{variant}": error for at, found in errors.items() for variant, error in found.items()}
    limit = TOLERANCE[bench.dtype]
    detail = f"{', '.join(f'{name} {error:.1e}' for name, error in flat.items())} of the norm, limit {limit:g}"
    passed = all(error <= limit for error in flat.values())  # NaN is not
    return bench.row(check, passed, detail, relative_error=flat, limit=limit)


def cut(bench: Bench) -> list[Row]:
    """A cached step on the tap of a full one with the same inputs is that full step."""
    buffers, inputs = Buffers(bench.session.engines, bench.sizes(), bench.device), bench.inputs(bench.sizes())
    full, shallow = (buffers.run(variant, inputs) for variant in (FULL, SHALLOW))
    exact, largest = torch.equal(full, shallow), float((full.float() - shallow.float()).abs().max())
    error, limit = _distance(shallow, full), TOLERANCE[bench.dtype]
    # A compiler may choose other kernels for a part of a graph than for all of it; torch runs the same ones.
    passed = exact or (not bench.target.backend.bit_exact and error <= limit)
    detail = "bit for bit" if exact else f"largest difference {largest:.1e}, {error:.1e} of the norm"
    return [bench.row("cut", passed, detail, exact=exact, largest_difference=largest, relative_error=error)]


def capture(bench: Bench) -> list[Row]:
    """A replayed CUDA graph reads what is in the buffers now and computes what a plain run computes."""
    if not bench.on_gpu:
        return [bench.row("capture", "missing", "no GPU")]
    engines = bench.session.engines
    captured = all(engine.capturable for engine in engines.values())
    if not captured and not bench.target.backend.captures:
        return [bench.row("capture", "missing", "this backend uses no CUDA graphs")]
    replay = _replayed if captured else _replayed_inside
    wrong = [variant for variant in engines if not torch.equal(*replay(bench, variant))]
    how = "captured from outside" if captured else "captured by the backend itself"
    detail = f"{how}; replay differs in {', '.join(wrong)}" if wrong else f"{how}, replay equals a plain run"
    return [bench.row("capture", not wrong, detail, from_outside=captured)]


def _replayed(bench: Bench, variant: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What a plain run and a replay give for inputs that came after the capture."""
    buffers, sizes = Buffers(bench.session.engines, bench.sizes(), bench.device), bench.sizes()
    buffers.run(FULL, bench.inputs(sizes))  # fills the tap
    graph = record(buffers.engines[variant])
    expected = buffers.run(variant, bench.inputs(sizes, seed=1))
    buffers.tensors[OUTPUT].fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    return expected, buffers.tensors[OUTPUT].clone()


def _replayed_inside(bench: Bench, variant: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for a backend that captures the second run in a row on the same memory, and then replays."""
    sizes = bench.sizes()
    buffers, inputs = Buffers(bench.session.engines, sizes, bench.device), bench.inputs(sizes)
    buffers.run(FULL, inputs)
    for _ in range(2):
        buffers.run(variant, inputs)
    elsewhere = {name: tensor.clone() for name, tensor in buffers.tensors.items()}
    replayed = buffers.run(variant, bench.inputs(sizes, seed=1))
    plain = Buffers(bench.session.engines, sizes, bench.device)
    plain.fill(elsewhere)
    return plain.run(variant, bench.inputs(sizes, seed=1)), replayed


def workspace(bench: Bench) -> list[Row]:
    """Engines that share their scratch memory compute what they compute apart; and what each of them holds."""
    engines, sizes = bench.session.engines, bench.sizes()
    order = [(FULL, 0), (SHALLOW, 1), (FULL, 1), (SHALLOW, 0)]
    shared, apart = (
        [buffers.run(variant, bench.inputs(sizes, seed)) for variant, seed in order]
        for buffers in (Buffers(engines, sizes, bench.device, share=share) for share in (True, False))
    )
    same = all(torch.equal(*pair) for pair in zip(shared, apart, strict=True))
    needed = {variant: engine.workspace_bytes for variant, engine in engines.items()}
    held = bench.close_session()
    detail = f"run in turn the engines {'' if same else 'do not '}give what they give apart"
    if any(needed.values()):
        detail += "; one workspace for both, they need " + _megabytes(needed)
    else:
        detail += "; the backend manages its own workspace"
    if bench.on_gpu:
        detail += "; closed one after the other they gave back " + _megabytes(held)
    return [bench.row("workspace", same, detail, workspace_bytes=needed, held_bytes=held if bench.on_gpu else None)]


def refit(bench: Bench) -> list[Row]:
    """Other weights in the same engines give what engines built for them give, and the first ones come back exactly."""
    if not bench.target.backend.refits:
        return [bench.row("refit", "missing", "this backend builds other engines for other weights")]
    if bench.workload.other_pixels is None:
        return [bench.row("refit", "skipped", "not built twice for this model; see digits")]
    other = from_model(bench.pipe.unet, name=bench.model, part="unet", state=_other_weights(bench.pipe.unet))
    target = replace(bench.target, options=BuildOptions(refittable=True))
    session = open_session(bench.component, BRANCH, target, sizes=bench.sizes(), progress=logged)
    try:
        before = _both(bench, session)
        _refit(bench, session, other)
        refitted = _both(bench, session)
        _refit(bench, session, bench.component)
        again = _both(bench, session)
    finally:
        session.close()
    rebuilt_session = open_session(other, BRANCH, bench.target, sizes=bench.sizes(), progress=logged)
    try:
        rebuilt = _both(bench, rebuilt_session)
    finally:
        rebuilt_session.close()
    changed, error, limit = _distance(refitted, before), _distance(refitted, rebuilt), TOLERANCE[bench.dtype]
    returned = torch.equal(before, again)
    detail = (
        f"{error:.1e} of the norm from engines built for these weights, {changed:.1e} from those for the first ones"
    )
    detail += f", which {'came back bit for bit' if returned else 'did not come back'}"
    figures = {"relative_error": error, "change": changed, "limit": limit, "returned": returned}
    return [bench.row("refit", returned and error <= limit < changed, detail, **figures)]


def _other_weights(model: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: weight + (0.1 * weight.abs().mean() * torch.randn(weight.shape, generator=generator).to(weight))
        for name, weight in model.state_dict().items()
    }


def _refit(bench: Bench, session: Session, component: Component) -> None:
    for variant in variants_of(component, BRANCH):
        with bound_graph(component, variant, bench.target.store, logged) as graph:
            session.engines[variant.name].refit(graph)


def _both(bench: Bench, session: Session) -> torch.Tensor:
    sizes = bench.sizes()
    buffers = Buffers(session.engines, sizes, bench.device)
    return torch.stack([buffers.run(FULL, bench.inputs(sizes)), buffers.run(SHALLOW, bench.inputs(sizes, seed=1))])


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.float(), expected.float()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-20))


def _megabytes(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count / 1e6:,.1f} MB" for name, count in counts.items())


_RUN: dict[str, Callable[[Bench], list[Row]]] = {
    "build": build,
    "parity": parity,
    "cut": cut,
    "capture": capture,
    "loop": loop,
    "steps": gpu_timings.steps,
    "images": gpu_timings.images,
    "shapes": shapes,
    "workspace": workspace,
    "refit": refit,
}
assert list(_RUN) == list(CHECKS)


def run_checks(bench: Bench, names: Sequence[str], out: Path) -> None:
    """Run the checks in this order and write all rows to `out` after each of them."""
    rows: list[Row] = []
    obstacle = ""
    for name in names:
        if bench.seconds_left < _LEAST_SECONDS:
            rows.append(bench.row(name, "skipped", f"{max(bench.seconds_left, 0):.0f} s left"))
        elif obstacle:
            rows.append(bench.row(name, "skipped", obstacle))
        else:
            found = _guarded(bench, name)
            rows += found
            obstacle = _obstacle(bench, found)
        write_json(out, [asdict(row) for row in rows])


def _guarded(bench: Bench, name: str) -> list[Row]:
    try:
        return _RUN[name](bench)
    except Exception as error:  # whatever a backend raises is one row
        kind = "" if isinstance(error, DeepCacheError) or not str(error) else f"{type(error).__name__}: "
        return [bench.row(name, False, kind + first_line(error))]
    finally:
        gc.collect()
        if bench.on_gpu and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _obstacle(bench: Bench, rows: Sequence[Row]) -> str:
    """Why nothing can be checked after these rows; "" where it can."""
    failed = next((row for row in rows if row.status == "fail"), None)
    if failed is None:
        return ""
    if failed.check == "build":
        return "the engines could not be built"
    try:
        if bench.on_gpu:
            torch.cuda.synchronize()
    except RuntimeError:  # an error on the GPU stays with the process
        return f"the GPU was lost in {failed.check}"
    return ""


def main() -> None:
    """Check one model on one backend."""
    from deepcache_trt.progress import quiet_libraries

    parser = argparse.ArgumentParser(description="Check one model on one backend; `gpu_check` runs this.")
    parser.add_argument("--backend", required=True)
    parser.add_argument("--device", required=True, help="cuda, cpu, or a GPU elsewhere as sm86")
    parser.add_argument("--model", required=True, choices=WORKLOADS)
    parser.add_argument("--store", required=True, type=Path)
    parser.add_argument("--until", required=True, type=float, help="when this process will be ended, in Unix time")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("checks", nargs="+", choices=list(CHECKS))
    options = parser.parse_args()
    quiet_libraries()
    torch.backends.cudnn.allow_tf32 = False  # the reference is float32
    bench = Bench(
        backend=options.backend,
        device=options.device,
        model=options.model,
        store=Store(options.store),
        until=options.until,
    )
    run_checks(bench, options.checks, options.out)


if __name__ == "__main__":
    main()
