"""Options that several commands have."""

import stat
from pathlib import Path
from typing import Annotated

import typer

from deepcache_trt.documents import read_lines
from deepcache_trt.errors import DeepCacheError, reason_of
from deepcache_trt.models.catalogue import check_name


def _known(model: str) -> str:
    """The same name, once it is known that it can be one: torch is imported after that, which takes seconds."""
    check_name(model)
    return model


def _folder(path: Path | None) -> Path | None:
    """The same path, once it is known that a folder can be there: what is kept in it is made first, for minutes."""
    if path is not None:
        try:
            there = next(each for each in (path, *path.absolute().parents) if each.exists() or each.is_symlink())
            is_folder = stat.S_ISDIR(there.stat().st_mode)
        except OSError as error:
            raise DeepCacheError(f"--store {path} can be no folder: {error.strerror}; choose another") from error
        if not is_folder:
            raise DeepCacheError(f"--store {path} can be no folder: {there} is none; choose another")
    return path


def _patterns(given: list[str] | None) -> list[str] | None:
    """The same patterns, in the place of each @FILE those of its lines."""
    if not given:
        return given
    found: list[str] = []
    for each in given:
        found.extend(_lines(Path(each[1:])) if each.startswith("@") else [each])
    return found


def _lines(path: Path) -> list[str]:
    try:
        lines = read_lines(path)
    except (OSError, ValueError) as error:
        raise DeepCacheError(
            f"--quantize @{path} cannot be read: {reason_of(error)}; give a file of patterns"
        ) from error
    if not lines:
        raise DeepCacheError(f"--quantize @{path} has no pattern; give a file of one a line, as 'mid_block.*'")
    return lines


Model = Annotated[
    str,
    typer.Option(
        help="A catalogue name (digits, sd15, sd21, sdxl, svd, …), a folder, hub id or .safetensors.", callback=_known
    ),
]
Backend = Annotated[str, typer.Option(help="auto, or a name that `deepcache-trt doctor` lists.")]
Branch = Annotated[int, typer.Option(help="The skip connection at which the shallow layers begin; 0 is the cheapest.")]
Plan = Annotated[
    Path | None, typer.Option(help="A plan file, as `deepcache-trt tune` writes it, instead of the next options.")
]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16. [default: float32 without a GPU]")]
Precision = Annotated[
    str | None,
    typer.Option(help="int8, or fp8 on GPUs from sm89 on: layers of the denoiser in 8 bits. [default: all as --dtype]"),
]
Quantize = Annotated[
    list[str] | None,
    typer.Option(
        help="Layers for it: 'mid_block.*', vae:all, or @FILE of such; repeatable. [default: deep ones that bear it]",
        callback=_patterns,
    ),
]
CalibrationPrompts = Annotated[
    Path | None,
    typer.Option(help="A file of one prompt a line, drawn to find the ranges; noise: for timing. [default: a few]"),
]
StoreFolder = Annotated[
    Path | None, typer.Option("--store", help="Where built engines are kept. [default: user cache]", callback=_folder)
]
Prompts = Annotated[
    list[str] | None, typer.Option("--prompt", help="Repeatable: a batch. [default: the ten digits, or an astronaut]")
]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale. [default: the pipeline's]")]
Interval = Annotated[int | None, typer.Option(help="One step in this many is full; 1 caches nothing. [default: 3]")]
SkipMode = Annotated[str | None, typer.Option(help="uniform, quad or quad_center. [default: uniform]")]
SkipInterval = Annotated[
    int | None, typer.Option(help="Of the cached steps, leave each of this many out. [default: none]")
]
Schedulers = Annotated[
    list[str] | None,
    typer.Option(
        "--scheduler",
        help="Of diffusers, as unipc or ddim,timestep_spacing=trailing; repeatable: samplers compared.",
    ),
]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="The real architecture with seeded weights: needs no download.")
]
Revision = Annotated[str | None, typer.Option(help="As in diffusers: a branch, tag or commit on the hub.")]
WeightsVariant = Annotated[str | None, typer.Option("--variant", help="As in diffusers: fp16 for *.fp16.safetensors.")]
Config = Annotated[
    str | None,
    typer.Option("--config", help="Of one .safetensors file: a folder, hub id or name of the same kind of pipeline."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Use only what was downloaded before.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Load a checkpoint that has no safetensors files.")]
ExtractorName = Annotated[
    str,
    typer.Option(
        "--extractor", help="inception, by torch-fidelity, or digits, the reader of the bundled model's pictures."
    ),
]
ImageCount = Annotated[
    int | None, typer.Option("--images", min=2, help="Of each, take the first so many by name. [default: all]")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
