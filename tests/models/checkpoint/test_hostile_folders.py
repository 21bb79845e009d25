"""Folders of models that others wrote: nothing of them is run, and what is wrong is said with the file's name."""

import os
import pickle
import shutil
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from deepcache_trt.builder.model_source import ModelSource, find_components
from deepcache_trt.builder.plain_pipeline import load_pipeline
from deepcache_trt.errors import CheckpointError, DeepCacheError
from tests.models.checkpoint.folder_changes import (
    DIGITS,
    MARK,
    UNET,
    VAE,
    Change,
    Evil,
    both,
    content,
    first,
    header,
    instead,
    link_to,
    pickles,
    said,
    sharded,
    sparse,
    with_code,
    write,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The bundled model, to be changed: its files are links until they are written anew."""
    return shutil.copytree(DIGITS, tmp_path / "model", copy_function=os.link)


INDEX, CONFIG, TEXT = "model_index.json", "unet/config.json", "text_encoder/config.json"
DEEP = "[" * 100_000 + "]" * 100_000

# What is changed, and what is said of it by either way to read a folder.
HOSTILE: dict[str, tuple[Change, str]] = {
    "an index that is a list": (content(INDEX, "[1, 2]"), r"model_index\.json is no config of a model, but a list"),
    "an index that is null": (content(INDEX, "null"), r"model_index\.json is no config of a model, but a NoneType"),
    "a deep index": (content(INDEX, DEEP), r"model_index\.json .*nested too deeply"),
    "an index of other letters": (content(INDEX, b"\xff\xfe{"), r"model_index\.json .*line 1 is not UTF-8"),
    "half an index": (content(INDEX, '{"_class_name": "Sta'), r"model_index\.json is no config"),
    "an index of a gigabyte": (instead(INDEX, sparse), r"model_index\.json is no config of a model: .*64 MB"),
    "a pipeline of its own": (with_code(said(INDEX, _class_name=["evil", "Evil"])), "code of its own is not run"),
    "a pipeline that is a number": (said(INDEX, _class_name=7), "_class_name is 7, no pipeline of diffusers"),
    "a component of its own": (with_code(said(INDEX, **{"unet/../..": ["evil", "Evil"]})), "no component with its"),
    "a component of three": (said(INDEX, unet=["a", "b", "c"]), r"unet is \['a', 'b', 'c'\], no component"),
    "a component of numbers": (said(INDEX, unet=[3, 4]), r"unet is \[3, 4\], no component"),
    "a hidden class": (said(INDEX, unet=["builtins", "__import__"]), "unet is .*no component"),
    "code in auto_map": (
        with_code(said(INDEX, text_encoder=["transformers", "AutoModel"]), said(TEXT, auto_map={"AutoModel": "m.E"})),
        "names code of its own in auto_map, which is not run",
    ),
    "a billion channels": (said(CONFIG, in_channels=10**9), "in_channels is 1000000000, and no model has more"),
    "a billion layers": (said(CONFIG, layers_per_block=10**9), "layers_per_block is 1000000000, and no model"),
    "layers of layers": (
        said(CONFIG, layers_per_block=200, transformer_layers_per_block=200),
        "blocks have 40,000 layers each",
    ),
    "a thousand blocks": (said(CONFIG, down_block_types=["DownBlock2D"] * 1000), "has 1,000 entries, more than"),
    "a word of thirty digits": (said(TEXT, vocab_size=10**30), "vocab_size is 1000000000000000000000000000000, and"),
    "a config that is a list": (content(CONFIG, "[]"), r"unet/config\.json is no config of a model, but a list"),
    "a deep config": (content(CONFIG, '{"a":' * 10**5 + "1" + "}" * 10**5), r"config\.json .*nested too deeply"),
    "a config that is a pipe": (instead(CONFIG, os.mkfifo), r"unet/config\.json is a pipe or a device"),
    "a config without an end": (instead(CONFIG, link_to("/dev/zero")), r"config\.json is a link out of the model"),
    "a config elsewhere": (instead(CONFIG, link_to("/etc/hostname")), r"is a link out of the model's folder, to /etc"),
    "a config that is nowhere": (instead(CONFIG, link_to("nowhere")), r"unet/config\.json: No such file"),
    "a config that is itself": (instead(CONFIG, link_to("config.json")), r"unet/config\.json: "),
    "a tokenizer of a gigabyte": (instead("tokenizer/tokenizer.json", sparse), r"tokenizer\.json has 1,024 MB, more"),
    "a folder elsewhere": (
        both(lambda folder: shutil.rmtree(folder / "unet"), lambda folder: (folder / "unet").symlink_to("/etc")),
        "is a link out of the model's folder, to /etc/",
    ),
    "weights elsewhere": (instead(UNET, link_to(str(DIGITS / UNET))), "is a link out of the model's folder"),
    "weights that are a pipe": (instead(UNET, os.mkfifo), "is a pipe or a device"),
    "a shard elsewhere": (sharded(UNET, "../../x.safetensors"), r"lists '\.\./\.\./x\.safetensors', which is no file"),
    "a shard of the system": (sharded(UNET, "/etc/passwd"), "lists '/etc/passwd', which is no file beside it"),
    "a shard that is a pickle": (sharded(UNET, "x.bin"), r"lists 'x\.bin', which is no \.safetensors file"),
    "a shard that is a number": (sharded(UNET, 3), "lists 3, which is no file beside it"),
    "an index of shards that is a list": (
        both(sharded(UNET, 3), content(f"{UNET}.index.json", "[]")),
        "is no index of shards",
    ),
    "pickles alone": (pickles, "--allow-pickle"),
    "a config of no model": (said(CONFIG, block_out_channels=0), "unet|diffusers cannot load"),
    "a size of three sides": (said(CONFIG, sample_size=[8, 8, 8]), r"sample_size is \[8, 8, 8\], neither a side nor"),
    "a config of letters": (said(CONFIG, norm_num_groups="x"), "unet|diffusers cannot load"),
    "half the weights": (
        lambda folder: write(folder / UNET, (folder / UNET).read_bytes()[:10_000]),
        r"diffusion_pytorch_model\.safetensors",
    ),
    "weights that are a pickle": (content(UNET, pickle.dumps(Evil())), r"diffusion_pytorch_model\.safetensors"),
    "weights beyond the file": (
        header(UNET, lambda entries: first(entries, data_offsets=[0, 10**12])),
        r"diffusion_pytorch_model\.safetensors",
    ),
    "weights before the file": (
        header(UNET, lambda entries: first(entries, data_offsets=[-4, 0])),
        r"diffusion_pytorch_model\.safetensors",
    ),
    "weights of a huge shape": (
        header(UNET, lambda entries: first(entries, shape=[10**9, 10**9])),
        r"diffusion_pytorch_model\.safetensors",
    ),
    "weights over one another": (
        header(VAE, lambda entries: first(entries, **[*entries.values()][1])),
        r"vae/diffusion_pytorch_model\.safetensors",
    ),
    "a header that is longer than the file": (
        lambda folder: write(folder / UNET, b"\xff" * 7 + b"\x7f" + (folder / UNET).read_bytes()[8:]),
        r"diffusion_pytorch_model\.safetensors",
    ),
    "a deep header": (
        content(UNET, struct.pack("<Q", 200_000) + b"[" * 100_000 + b"]" * 100_000),
        r"diffusion_pytorch_model\.safetensors",
    ),
}


def build(folder: Path) -> None:
    find_components(ModelSource(model=str(folder), offline=True), dtype="float32")


def draw(folder: Path) -> None:
    load_pipeline(DiffusionPipeline, str(folder), {"local_files_only": True})


def assert_refused(read: Callable[[Path], None], folder: Path, message: str) -> None:
    began = time.monotonic()
    with pytest.raises(DeepCacheError, match=message) as raised:
        read(folder)
    assert time.monotonic() - began < 5  # it says so before it has tried for long; an import is in it
    assert "\n" not in str(raised.value)
    assert ";" in str(raised.value), "it has no cure"
    assert MARK not in os.environ
    assert "evil" not in sys.modules


@pytest.mark.parametrize("name", sorted(HOSTILE))
@pytest.mark.parametrize("read", [build, draw])
def test_a_folder_that_others_wrote_is_refused(
    read: Callable[[Path], None], folder: Path, name: str, record_property: Callable[[str, object], None]
) -> None:
    change, message = HOSTILE[name]
    change(folder)
    assert_refused(read, folder, message)
    record_property("hostile inputs refused", 1)


# What only a pipeline reads.


@pytest.mark.parametrize(
    ("library", "class_name"),
    [
        ("os", "system"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("evil", "Evil"),
        ("antigravity", "geohash"),
        ("diffusers", "utils"),
        ("transformers", "pipeline"),
    ],
)
@pytest.mark.parametrize("part", ["unet", "tokenizer", "scheduler"])
def test_a_class_that_is_no_model_is_neither_imported_nor_called(
    folder: Path, monkeypatch: pytest.MonkeyPatch, part: str, library: str, class_name: str
) -> None:
    with_code(said(INDEX, **{part: [library, class_name]}))(folder)
    monkeypatch.chdir(folder)  # a package beside the folder that one is in
    monkeypatch.syspath_prepend(str(folder))
    assert_refused(draw, folder, f"{part} is {library}.{class_name}, no class to be loaded from a folder")
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("change", "file"),
    [
        (content("tokenizer/tokenizer.json", "null"), "tokenizer/tokenizer.json"),
        (content("tokenizer/tokenizer.json", DEEP), "tokenizer/tokenizer.json"),
        (content("tokenizer/tokenizer_config.json", "[]"), "tokenizer/tokenizer_config.json"),
        (content("scheduler/scheduler_config.json", DEEP), "scheduler/scheduler_config.json"),
        (content("scheduler/scheduler_config.json", b"\xff\x00"), "scheduler/scheduler_config.json"),
    ],
)
def test_the_file_that_a_library_could_not_read_is_named(folder: Path, change: Change, file: str) -> None:
    change(folder)
    assert_refused(draw, folder, f"{file}: ")


def test_a_pickled_scheduler_is_not_read(folder: Path) -> None:
    (folder / "scheduler/scheduler_config.json").unlink()
    write(folder / "scheduler/scheduler.bin", pickle.dumps(Evil()))
    assert_refused(draw, folder, "scheduler_config.json")


# What goes on working.


def test_links_of_a_cache_of_the_hub_are_followed(tmp_path: Path) -> None:
    """Every file of a snapshot is a link to a blob, by a hash."""
    model = tmp_path / "models--owner--digits"
    (model / "blobs").mkdir(parents=True)
    snapshot = model / "snapshots" / ("0" * 40)
    for number, file in enumerate(sorted(file for file in DIGITS.rglob("*") if file.is_file())):
        os.link(file, model / "blobs" / str(number))
        place = snapshot / file.relative_to(DIGITS)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(model / "blobs" / str(number), place.parent))
    build(snapshot)
    draw(snapshot)
    (tmp_path / "mine").symlink_to(snapshot)
    build(tmp_path / "mine")


def test_a_link_out_of_a_cache_of_the_hub_is_not(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--digits" / "snapshots" / ("0" * 40)
    shutil.copytree(DIGITS, snapshot, copy_function=os.link)
    instead(CONFIG, link_to("/etc/hostname"))(snapshot)
    with pytest.raises(CheckpointError, match="link out of the model's folder"):
        build(snapshot)


def test_code_that_nothing_names_lies_there_unread(folder: Path) -> None:
    with_code(said(TEXT, auto_map={"AutoModel": "modeling.Evil"}))(folder)
    build(folder)
    draw(folder)
    assert MARK not in os.environ
