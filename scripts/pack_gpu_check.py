"""Pack what `deepcache-trt check gpu` needs on a machine without a network, wheels and graphs, in parts.

    python scripts/pack_gpu_check.py --out packed --part-mb 60 --python 3.12 --torch 2.11.0
    … carry the folder there, and on that machine:
    sh packed/run.sh --out results --minutes 15

`run.sh` checks each part, joins and unpacks them beside itself, installs the wheels into a folder of its own, so that
nothing of that machine changes, and runs the check with the options that it is given. Graphs belong to a version of
torch: run this with the one that the machine has. Wheels are what `pip download` gets, without what they depend on.
"""

import argparse
import hashlib
import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What a machine with torch, onnx and transformers commonly lacks; what it has can be left out with --wheels.
WHEELS = (
    "diffusers",
    "importlib-metadata",
    "lazy-importer",
    "zipp",
    "platformdirs",
    "onnx-ir",
    "onnxscript",
    "typer",
    "polygraphy",
    "DeepCache==0.1.1",
    "cuda-bindings",
    "cuda-pathfinder",
    "xxhash",
)
MODELS = ("digits", "sd15", "sd21", "sdxl")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
# Of this repository, what a wheel is built from.
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "deepcache_trt")

RUN = """\
#!/bin/sh
# Check, join and unpack the parts beside this script, install them into a folder, and run `deepcache-trt check gpu`
# with this script's arguments. PYTHON names the interpreter that has torch, WORK the folder; both have defaults.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${{PYTHON:-python3}}
work=${{WORK:-$here/work}}

fail() {{
    echo "error: $1; carry it here again" >&2
    exit 2
}}

while read -r hash name; do
    [ -f "$here/$name" ] || fail "$name is missing"
    [ "$(sha256sum "$here/$name" | cut -d ' ' -f 1)" = "$hash" ] || fail "$name is damaged"
done <<END
{hashes}
END

if [ ! -f "$work/unpacked" ]; then
    rm -rf "$work"
    mkdir -p "$work"
    (cd "$here" && cat {names}) | tar -x -C "$work"
    "$python" -m pip install --quiet --no-index --no-deps --target "$work/packages" "$work"/wheels/*.whl
    touch "$work/unpacked"
fi
export PYTHONPATH="$work/packages${{PYTHONPATH:+:$PYTHONPATH}}"
exec "$python" -P -m deepcache_trt.cli check gpu --store "$work/store" "$@"
"""


class PackError(Exception):
    """What whoever packs can mend."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Pack, and say what."""
    options = _parser().parse_args(arguments)
    try:
        if options.part_mb <= 0:
            raise PackError(f"--part-mb must be above 0, not {options.part_mb:g}")
        check_models(options.graphs)
        if options.graphs:
            check_torch(options.torch)
        with tempfile.TemporaryDirectory(prefix="pack-") as temporary:
            content = Path(temporary) / "content"
            (content / "wheels").mkdir(parents=True)
            build_wheel(content / "wheels")
            if options.wheels:
                download(options.wheels, content / "wheels", python=options.python)
            if options.graphs:
                store = options.store or Path(temporary) / "store"
                copy_graphs(options.graphs, options.dtype, store, content / "store")
            names = pack(content, options.out, part_bytes=round(options.part_mb * 1e6))
    except PackError as error:
        sys.exit(f"error: {error}")
    print(f"{len(names)} parts and run.sh in {options.out}; there: sh run.sh --out results --minutes 15")


def _parser() -> argparse.ArgumentParser:
    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",") if name.strip() not in ("", "none")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="the folder for the parts and run.sh")
    parser.add_argument("--part-mb", type=float, default=60, help="the most that a part may have, in 10⁶ bytes")
    parser.add_argument("--python", default="3.12", help="of the machine")
    parser.add_argument("--torch", help="of the machine; the graphs are exported with it [default: this one's]")
    parser.add_argument("--wheels", type=names, default=list(WHEELS), help="with commas, as pip names them, or none")
    parser.add_argument("--graphs", type=names, default=list(MODELS), help=f"of {','.join(MODELS)}, or none")
    parser.add_argument("--dtype", default="float16", help="of the graphs; that of pipelines on a GPU is float16")
    parser.add_argument("--store", type=Path, help="where exported graphs are kept [default: a temporary folder]")
    return parser


def check_models(models: Iterable[str]) -> None:
    """Refuse what the check does not draw with.

    Raises:
        PackError: another model.
    """
    for model in models:
        if model not in MODELS:
            raise PackError(f"unknown model {model!r}; there are {', '.join(MODELS)}")


def check_torch(wanted: str | None) -> None:
    """Refuse to export with another torch than that of the machine.

    Raises:
        PackError: it is another.
    """
    here = importlib.metadata.version("torch").split("+")[0]
    if wanted not in (None, here):
        raise PackError(
            f"graphs belong to a version of torch, and this environment has {here}, not {wanted}; "
            f"run this with torch {wanted}, or leave the graphs out with --graphs none"
        )


def build_wheel(folder: Path) -> None:
    """This package's own wheel, of a copy of its sources: a build leaves files among them."""
    with tempfile.TemporaryDirectory() as temporary:
        for name in SOURCES:
            source, target = ROOT / name, Path(temporary) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copyfile(source, target)
        _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), temporary)


def download(wheels: Iterable[str], folder: Path, *, python: str) -> None:
    """Get wheels for the machine's Python, from the index that pip is configured for."""
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    _pip("download", "--no-deps", "--only-binary=:all:", f"--python-version={python}", *platforms,
         "--dest", str(folder), *wheels)  # fmt: skip


def _pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise PackError(f"pip {arguments[0]} failed: {lines[-1] if lines else 'it says nothing'}")


def copy_graphs(models: Iterable[str], dtype: str, store: Path, target: Path) -> None:
    """Export the graphs of models that `store` lacks, and copy those of them all to `target`."""
    from deepcache_trt.builder.graphs import graph_artefact
    from deepcache_trt.builder.model_source import random_components
    from deepcache_trt.engines.store import Store
    from deepcache_trt.progress import logged

    for model in models:
        # The check gives models of real size embeddings, and has no text encoders of theirs.
        parts = () if model == "digits" else ("unet", "vae")
        for component in random_components(model, dtype=dtype, parts=parts):
            artefact = graph_artefact(component, Store(store), logged)
            shutil.copytree(artefact.folder, target / "graphs" / artefact.key, dirs_exist_ok=True)


def pack(content: Path, out: Path, *, part_bytes: int) -> list[str]:
    """Write the content in parts, and the script that joins and runs them; returns the names of the parts."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("part-*"):
        old.unlink()
    hashes: dict[str, str] = {}
    with tempfile.TemporaryFile() as whole:
        with tarfile.open(fileobj=whole, mode="w") as archive:
            archive.add(content, arcname=".")
        whole.seek(0)
        for number, part in enumerate(iter(lambda: whole.read(part_bytes), b"")):
            name = f"part-{number:03d}"
            (out / name).write_bytes(part)
            hashes[name] = hashlib.sha256(part).hexdigest()
    lines = "\n".join(f"{digest} {name}" for name, digest in hashes.items())
    (out / "run.sh").write_text(RUN.format(hashes=lines, names=" ".join(hashes)), encoding="utf-8")
    return list(hashes)


if __name__ == "__main__":
    main()
