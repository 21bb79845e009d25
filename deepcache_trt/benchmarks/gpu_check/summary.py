"""The table that a check ends with: what each model's image takes, beside what it could take; measured cells only."""

from collections.abc import Mapping, Sequence
from typing import Any

from deepcache_trt.benchmarks.counting.macs import ideal_speedup
from deepcache_trt.benchmarks.gpu_check.phases import PHASES
from deepcache_trt.benchmarks.gpu_check.rows import PASS, WHOLE, Row
from deepcache_trt.benchmarks.gpu_check.workloads import (
    ENGINES,
    PLAIN,
    UNCACHED,
    WORKLOADS,
    Setting,
    Workload,
    settings_of,
)
from deepcache_trt.benchmarks.report import markdown_table
from deepcache_trt.benchmarks.timing.published_table import HARDWARE
from deepcache_trt.runtime.plan import FULL
from deepcache_trt.runtime.policies.deepcache import SHALLOW

_NOTE = (
    "Medians, one image with guidance, all systems of one backend in turn in one process. *Speed-up* is over plain "
    "diffusers of that process. *Of operations* is the speed-up of the denoising loop over the same system without a "
    "cache, beside what the counts of operations allow. *Of roofline* is what the loop's layers would take at the "
    "published peak and bandwidth of the GPU, over what the loop took. *PSNR* is against plain diffusers of the same "
    "seed{seeded}. *Launched* is what starts the steps: the pipeline's own loop, ours step by step, or one CUDA graph."
)
_SEEDED = "; real sizes have drawn weights here, so theirs says nothing of a trained model"


def summary(environment: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """A table for each model, or why there is none."""
    sections = []
    for model, workload in WORKLOADS.items():
        drawn = [row for row in rows if (row.model, row.check) == (model, "images")]
        if any(row.status == PASS for row in drawn):
            sections.append(f"### {_heading(workload, environment)}\n\n{_table(model, workload, drawn, rows)}")
        elif why := _why_none(model, rows):
            sections.append(f"### {workload.title}\n\nNot measured: {why}.")
    if not any(row.check == "images" and row.status == PASS for row in rows):
        return "\n\n".join(sections)
    seeded = any(WORKLOADS[row.model].is_seeded for row in rows if (row.check, row.status) == ("images", PASS))
    return "\n\n".join([_NOTE.format(seeded=_SEEDED if seeded else ""), *sections])


def _heading(workload: Workload, environment: Mapping[str, Any]) -> str:
    gpu = environment.get("GPU", "unknown machine")
    on = gpu if gpu != "no GPU" else environment.get("CPU", gpu)
    return f"{workload.title}, {workload.pixels}×{workload.pixels}, on {on}"


def _why_none(model: str, rows: Sequence[Row]) -> str:
    """Why no image of it was drawn, or why the first phase that would have did not run; "" where nobody asked."""
    why = [row.detail for row in rows if (row.model, row.check) == (model, "images")]
    for phase in PHASES:
        if not why and any(task.model == model for task in phase.on_gpu):
            why = [row.detail for row in rows if (row.phase, row.check) == (phase.name, WHOLE)]
    return "; ".join(dict.fromkeys(filter(None, why))).rstrip(".")


def _table(model: str, workload: Workload, drawn: Sequence[Row], rows: Sequence[Row]) -> str:
    counted = next((row for row in rows if (row.model, row.check) == (model, "operations")), None)
    header = [
        "backend",
        "system",
        "steps",
        "launched",
        "s/image",
        "loop, s",
        "speed-up",
        "of operations",
        "of roofline",
        "PSNR, dB",
    ]
    lines = []
    for place in dict.fromkeys(row.place for row in drawn):
        of_place = {row.setting: row for row in drawn if row.place == place}
        with_package = any(name in of_place for name in _package_names(workload))
        for setting in settings_of(workload, with_package=with_package):
            cells = _cells(setting, of_place, counted)
            ratio = workload.published.get(setting.params)
            cells += ["" if ratio is None else f"{ratio:.2f}×"] if workload.published else []
            lines.append([place, setting.way, setting.steps, *cells])
    return markdown_table([*header, *([f"published, {HARDWARE}"] if workload.published else [])], lines)


def _package_names(workload: Workload) -> list[str]:
    both = settings_of(workload, with_package=True)
    return [setting.name for setting in both if setting.system not in (PLAIN, ENGINES)]


def _cells(setting: Setting, of_place: Mapping[str, Row], counted: Row | None) -> list[str]:
    """From "launched" on."""
    row = of_place.get(setting.name)
    if row is None or row.status != PASS:
        why = row or of_place.get("")
        return ["", f"– ({why.detail if why else 'not drawn'})", "", "", "", "", ""]
    figures = row.figures
    baseline = of_place.get(setting.baseline.name)
    return [
        figures["launched"],
        f"{figures['seconds']:.4g}",
        f"{figures['loop_seconds']:.4g}",
        "1" if setting == setting.plain else f"{figures['speedup']:.2f}×",
        _of_operations(setting, figures, baseline, counted),
        _of_roofline(setting, figures, counted),
        _fidelity(setting, figures),
    ]


def _of_operations(setting: Setting, figures: Mapping[str, Any], baseline: Row | None, counted: Row | None) -> str:
    if setting.params == UNCACHED:
        return ""
    costs = _costs(setting, counted, "macs")
    if costs is None:
        return _not_counted(counted)
    if baseline is None or baseline.status != PASS:
        return "– (nothing uncached beside it)"
    allowed = ideal_speedup(costs, setting.calls)
    measured = baseline.figures["loop_seconds"] / figures["loop_seconds"]
    return f"{measured:.2f}× of {allowed:.2f}× ({100 * measured / allowed:.0f} %)"


def _of_roofline(setting: Setting, figures: Mapping[str, Any], counted: Row | None) -> str:
    seconds = _costs(setting, counted, "roofline_seconds")
    if seconds is None:
        passed = counted is not None and counted.status == PASS
        return f"– ({counted.figures['no_roofline']})" if passed and counted else _not_counted(counted)
    at_best = sum(seconds[variant] * count for variant, count in setting.calls.items())
    return f"{100 * at_best / figures['loop_seconds']:.0f} %"


def _costs(setting: Setting, counted: Row | None, figure: str) -> dict[str, float] | None:
    """One run of each variant that the setting has; None where that is not known."""
    by_variant = counted.figures.get(figure) if counted is not None and counted.status == PASS else None
    if not by_variant:
        return None
    return {FULL: by_variant[FULL], SHALLOW: by_variant[f"{SHALLOW} {setting.params.cache_branch_id}"]}


def _not_counted(counted: Row | None) -> str:
    return f"– ({counted.detail if counted else 'operations not counted'})"


def _fidelity(setting: Setting, figures: Mapping[str, Any]) -> str:
    if setting == setting.plain:
        return ""
    if figures["identical"]:
        return "identical"
    return "no picture" if figures["psnr_db"] is None else f"{figures['psnr_db']:.1f}"
