"""Where a full and a cached step spend their operations, layer by layer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Findings, Job
from deepcache_trt.benchmarks.experiments.options import Options

# A part of a layer's path: a module, with its place in a list.
_PART = re.compile(r"[^.]+(?:\.\d+)*")

_DEPTH = 2  # of those, that a line of the table is of
_ROWS = 3  # of the plot
# % of a step: narrower parts of the plot have no room for a name, and none for a level one.
_LEAST_NAMED, _LEAST_LEVEL = 1, 7

# Operations by the path of the layer, of each step by its name.
_Steps = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class _Options(Options):
    model: Annotated[str, "A catalogue name, a folder or hub id on this machine; no weights are needed."] = "digits"
    size: Annotated[str | None, "Pixels: 512, or 768x1024 (height x width). [default: the model's]"] = None
    batch: Annotated[int, "Of one call of the denoiser; guidance makes two of each image."] = 1
    tokens: Annotated[int | None, "Of the text. [default: 77]"] = None
    branch: Annotated[int, "The skip connection at which the shallow layers begin."] = 0


def _find(options: _Options, job: Job) -> Findings:
    from deepcache_trt.benchmarks.counting.model_counts import count_model
    from deepcache_trt.benchmarks.experiments.published import published_gmacs
    from deepcache_trt.engines.store import Store, default_root

    counts = count_model(
        options.model,
        dtype="float32",
        size=options.size,
        batch=options.batch,
        tokens=options.tokens,
        branches=(options.branch,),
        store=Store(job.store or default_root()),
        progress=job.progress,
    )
    layers = {"full": counts.layers()}
    if not counts.refused:
        layers[f"cached, branch {options.branch}"] = counts.layers(options.branch)
    steps = {name: {layer.path: layer.macs.total for layer in found} for name, found in layers.items()}
    job.folder.begin()
    job.folder.write_samples(
        {"layer": path, **{name: own.get(path, 0) for name, own in steps.items()}} for path in steps["full"]
    )
    shapes = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in counts.inputs.items())
    remarks = [
        f"one call at {shapes}; convolutions, linear layers and the products of attention; samples.jsonl has a line "
        "for each layer",
        *([f"not cached: {counts.refused}"] if counts.refused else []),
    ]
    told, size_is_its_own = published_gmacs(options.model), options.size is None and options.batch == 1
    if told is not None and size_is_its_own:
        here = sum(layer.macs.weights for layer in layers["full"]) / 1e9
        remarks.append(f"published, without the products of attention: {told:g} GMACs; here {here:.2f}")
    header = [_scale(steps)[0], *(column for name in steps for column in (name, "of it"))]
    return Findings(header=header, lines=_lines(steps), remarks=remarks, plot=_plotted(steps))


def _scale(steps: _Steps) -> tuple[str, float]:
    """The unit that numbers are told in, and what it is."""
    return ("GMACs", 1e9) if sum(steps["full"].values()) >= 1e9 else ("MMACs", 1e6)


def _lines(steps: _Steps) -> list[list[str]]:
    """A line for each part of the model, and the sum."""
    _, unit = _scale(steps)
    parts = {name: _by_part(own, _DEPTH) for name, own in steps.items()}
    sums = {name: sum(own.values()) for name, own in steps.items()}
    lines = []
    for part in parts["full"]:
        line = [part]
        for name, own in parts.items():
            count = own.get(part, 0)
            line += [f"{count / unit:.4g}", f"{count / sums[name]:.1%}"] if count else ["", ""]
        lines.append(line)
    return [*lines, ["all", *(cell for each in sums.values() for cell in (f"{each / unit:.4g}", "100.0%"))]]


def _by_part(own: Mapping[str, int], depth: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for path, count in own.items():
        part = _start(path, depth)
        found[part] = found.get(part, 0) + count
    return found


def _start(path: str, depth: int) -> str:
    return ".".join(_PART.findall(path)[:depth])


def _plotted(steps: _Steps) -> Any:
    """Draws each step as a flame: its parts beside each other as wide as they are dear, and theirs above them."""
    unit, scale = _scale(steps)

    def plot(figure: Any) -> None:
        import matplotlib

        figure.set_size_inches(11, 3.9 * len(steps))
        hues = matplotlib.colormaps["tab20"]
        color = {group: hues(i % hues.N) for i, group in enumerate(_by_part(steps["full"], 1))}
        whole = sum(steps["full"].values())
        for axes, (name, own) in zip(figure.subplots(len(steps), 1, squeeze=False)[:, 0], steps.items(), strict=True):
            _flame(axes, own, whole, color)
            axes.set(xlim=(0, 100), ylim=(0, _ROWS), yticks=[], xlabel="% of a full step")
            axes.set_title(f"{name}: {sum(own.values()) / scale:.4g} {unit}", loc="left", fontsize="medium")

    return plot


def _flame(axes: Any, own: Mapping[str, int], whole: int, color: Mapping[str, Any]) -> None:
    for row in range(_ROWS):
        left = 0.0
        for part, count in _by_part(own, row + 1).items():
            width = 100 * count / whole
            axes.barh(row + 0.5, width, height=0.94, left=left, color=color[_start(part, 1)], edgecolor="white")
            if width > _LEAST_NAMED:
                words, turned = _PART.findall(part)[-1], 0 if width > _LEAST_LEVEL else 90
                axes.text(left + width / 2, row + 0.5, words, ha="center", va="center", fontsize=6, rotation=turned)
            left += width


EXPERIMENT = Experiment(
    name="macs",
    says="Where a full and a cached step spend their operations, layer by layer, of any model.",
    options=_Options,
    find=_find,
)
