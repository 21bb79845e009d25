"""What a model costs, for people, as Markdown, and for programs, as JSON; a prediction is called one in both."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from deepcache_trt.benchmarks.counting.cost import Cost
from deepcache_trt.benchmarks.counting.model_counts import ModelCounts, per_step
from deepcache_trt.benchmarks.counting.roofline import Gpu, predict
from deepcache_trt.runtime.plan import FULL, SKIP, Plan
from deepcache_trt.runtime.policies.deepcache import SHALLOW

COUNTED = (
    "GMACs are 10⁹ multiply-accumulates of convolutions and linear layers, which is what published figures count; "
    "the products of two activations inside attention are counted apart. Normalisations, activations and other "
    "element-wise operations are in neither."
)
MOVED = (
    "MB (10⁶ bytes) moved in a run: at least, if everything were one kernel (weights, inputs, outputs and the tap that "
    "is read, once each); by layers, if each convolution and matrix product were one; unfused, if each node were."
)
PREDICTED = (
    "Nothing was run: a prediction from the published peak and bandwidth. Compute: all operations at the peak. Memory: "
    "the bytes by layers at full bandwidth. Predicted: the longer of the two for each layer, summed. Real engines take "
    "longer."
)


def report(
    counts: ModelCounts, plan: Plan, *, gpu: Gpu | None = None, measured: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """What was counted, as JSON.

    Args:
        counts: what was counted.
        plan: of the generation that averages are taken over.
        gpu: whose roofline is asked for; None: no prediction.
        measured: seconds of one run on that GPU, by the variant's name.
    """
    component, variants = counts.component, _variants(counts)
    record = {
        "model": component.name,
        "component": component.part,
        "class": component.model_class.__name__,
        "dtype": component.dtype,
        "in_8_bits": _share_in_8_bits(counts.full),
        "inputs": {name: list(shape) for name, shape in counts.inputs.items()},
        "not_cached": counts.refused,
        "counted": COUNTED,
        "moved": MOVED,
        "variants": [_variant(name, branch, cost, counts) for name, branch, cost in variants],
        "generation": _generation(counts, plan),
    }
    if gpu is not None:
        rows = [_predicted(name, branch, cost, gpu, measured or {}) for name, branch, cost in variants]
        record["prediction"] = {"is": PREDICTED, "gpu": asdict(gpu), "variants": rows, **_per_step(rows, plan)}
    return record


def _share_in_8_bits(cost: Cost) -> float:
    """Of the operations of a run, those of attention's products among them."""
    return sum(kernel.macs.total for kernel in cost.kernels if kernel.in_8_bits) / cost.macs.total


def _variants(counts: ModelCounts) -> list[tuple[str, int | None, Cost]]:
    return [
        (FULL, None, counts.full),
        *((SHALLOW, branch, shallow.cost) for branch, shallow in counts.shallow.items()),
    ]


def _variant(name: str, branch: int | None, cost: Cost, counts: ModelCounts) -> dict[str, Any]:
    return {
        "name": name,
        "branch": branch,
        "parameters": cost.parameters,
        "macs": asdict(cost.macs),
        "bytes": {
            "weights": cost.weights,
            "tap": None if branch is None else counts.shallow[branch].tap,
            "least": cost.least,
            "layers": cost.layers,
            "unfused": cost.unfused,
        },
    }


def _generation(counts: ModelCounts, plan: Plan) -> dict[str, Any]:
    full = counts.full.macs
    rows = []
    for branch, shallow in counts.shallow.items():
        cached = shallow.cost.macs
        weights = per_step(plan, full.weights, cached.weights)
        total = per_step(plan, full.total, cached.total)
        rows.append(
            {
                "branch": branch,
                "macs_per_step": {"weights": weights, "attention": total - weights},
                "speedup": {"weights": full.weights / weights, "all": full.total / total},
            }
        )
    kinds = {kind: plan.variants.count(kind) for kind in (FULL, SHALLOW, SKIP)}
    return {"steps": len(plan), "calls": kinds, "branches": rows}


def _predicted(name: str, branch: int | None, cost: Cost, gpu: Gpu, measured: Mapping[str, float]) -> dict[str, Any]:
    prediction, seconds = predict(cost, gpu), measured.get(name)
    return {
        "name": name,
        "branch": branch,
        "compute_seconds": prediction.compute,
        "memory_seconds": prediction.memory,
        "predicted_seconds": prediction.seconds,
        "least_seconds": prediction.least,
        "measured_seconds": seconds,
        "share": None if seconds is None else prediction.seconds / seconds,
    }


def _per_step(rows: Sequence[Mapping[str, Any]], plan: Plan) -> dict[str, Any]:
    full, *shallow = rows
    steps = []
    for row in shallow:
        predicted = per_step(plan, full["predicted_seconds"], row["predicted_seconds"])
        step = {"branch": row["branch"], "predicted_seconds": predicted}
        step["speedup"] = full["predicted_seconds"] / predicted
        if full["measured_seconds"] and row["measured_seconds"]:
            took = per_step(plan, full["measured_seconds"], row["measured_seconds"])
            step |= {"measured_seconds": took, "measured_speedup": full["measured_seconds"] / took}
            step["share"] = predicted / took
        steps.append(step)
    return {"steps": steps}


def markdown(record: Mapping[str, Any]) -> str:
    """A record of `report`, for a person."""
    shapes = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in record["inputs"].items())
    parts = [f"{record['model']} {record['component']} ({record['class']}, {record['dtype']}) at {shapes}"]
    if record["in_8_bits"]:
        parts.append(f"In 8 bits: {record['in_8_bits']:.1%} of a full step's operations.")
    if record["not_cached"]:
        parts.append(f"Not cached: {record['not_cached']}.")
    parts += [_variants_table(record["variants"]), COUNTED, MOVED]
    if record["generation"]["branches"]:
        parts += [_in_words(record["generation"]), _generation_table(record)]
    if "prediction" in record:
        gpu = record["prediction"]["gpu"]
        in_8_bits = f"{gpu['tops']:g} TOPS in 8 bits, " if record["in_8_bits"] else ""
        peak = f"{gpu['tflops']:g} TFLOPS, {in_8_bits}{gpu['bandwidth']:g} GB/s; {gpu['source']}"
        parts += [f"**Prediction** for {gpu['name']} ({peak})", _prediction_table(record["prediction"]), PREDICTED]
    return "\n\n".join(parts)


def _variants_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ("variant", "parameters, M", "GMACs", "attention", "MB at least", "by layers", "unfused", "tap, MB")
    return _table(
        header,
        [
            (
                _title(row),
                f"{row['parameters'] / 1e6:.2f}",
                *(_giga(row["macs"][kind]) for kind in ("weights", "attention")),
                *(f"{row['bytes'][kind] / 1e6:.1f}" for kind in ("least", "layers", "unfused")),
                "" if row["bytes"]["tap"] is None else f"{row['bytes']['tap'] / 1e6:.2f}",
            )
            for row in rows
        ],
    )


def _in_words(generation: Mapping[str, Any]) -> str:
    counts = [f"{count} {'left out' if kind == SKIP else kind}" for kind, count in generation["calls"].items() if count]
    return f"A generation of {generation['steps']} steps, {', '.join(counts)}; on average a step costs:"


def _generation_table(record: Mapping[str, Any]) -> str:
    whole = record["variants"][0]["macs"]
    rows: list[tuple[str, ...]] = []
    rows.append(("uncached", _giga(whole["weights"]), _giga(whole["attention"]), "1.00×", "1.00×"))
    for row in record["generation"]["branches"]:
        macs, speedup = row["macs_per_step"], row["speedup"]
        averages = (_giga(macs[kind]) for kind in ("weights", "attention"))
        rows.append((f"k={row['branch']}", *averages, *(f"{speedup[kind]:.2f}×" for kind in ("weights", "all"))))
    return _table(("branch", "GMACs", "attention", "speed-up by GMACs", "with attention"), rows)


def _prediction_table(prediction: Mapping[str, Any]) -> str:
    has_measured = any(row["measured_seconds"] for row in prediction["variants"])
    header = ["", "compute, ms", "memory, ms", "predicted, ms", *(["measured, ms", "share"] if has_measured else [])]
    rows = []
    for row in prediction["variants"]:
        figures = [_milliseconds(row[f"{kind}_seconds"]) for kind in ("compute", "memory", "predicted")]
        rows.append([_title(row), *figures, *(_measured(row) if has_measured else ())])
    for step in prediction["steps"]:
        title = f"a step of the generation, k={step['branch']}: {step['speedup']:.2f}× predicted"
        if "measured_speedup" in step:
            title += f", {step['measured_speedup']:.2f}× measured"
        figures = ["", "", _milliseconds(step["predicted_seconds"])]
        rows.append([title, *figures, *(_measured(step) if has_measured else ())])
    return _table(header, rows)


def _measured(row: Mapping[str, Any]) -> tuple[str, str]:
    seconds = row.get("measured_seconds")
    return ("", "") if seconds is None else (_milliseconds(seconds), f"{row['share']:.0%}")


def _giga(count: float) -> str:
    giga = count / 1e9
    return f"{giga:.2f}" if giga >= 1 or not giga else f"{giga:.3g}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def _title(row: Mapping[str, Any]) -> str:
    return row["name"] if row["branch"] is None else f"{row['name']}, k={row['branch']}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown in aligned columns: the first one of words, the others of numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = [f":{'-' * (widths[0] - 1)}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    lines = [
        " | ".join(
            (row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)))
        )
        for row in (header, rule, *rows)
    ]
    return "\n".join(f"| {line} |" for line in lines)
