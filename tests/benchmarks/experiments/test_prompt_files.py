"""Prompt files in the forms that people have them in, and what is none."""

import json
import re
from pathlib import Path

import pytest

from deepcache_trt.benchmarks.experiments.prompts import read_prompts
from deepcache_trt.errors import DeepCacheError

COCO = {"annotations": [{"id": 31, "caption": "two "}, {"id": 4, "caption": "one"}], "images": []}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lines.txt", "one\n\n  two\n"),
        ("lines", "\ufeffone\r\ntwo"),
        ("parti.tsv", "Prompt\tCategory\none\tAbstract\ntwo\tAnimals\n"),
        ("coco.json", json.dumps(COCO)),
        ("texts.json", '["one", "two"]'),
        ("objects.json", '[{"prompt": "one"}, {"caption": "two"}]'),
    ],
)
def test_every_form_gives_its_prompts_in_order(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_prompts(tmp_path / name) == ("one", "two")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n \n", "empty.txt has no prompts; write one a line"),
        ("latin.txt", b"one\nzw\xf6lf\n", "cannot read .*latin.txt: line 2 is not UTF-8; give a file of prompts"),
        ("other.tsv", b"Text\tKind\none\tx\n", "has no column 'Prompt', but Text, Kind; rename"),
        ("wide.tsv", b"Prompt\n" + b"x" * 200_000 + b"\n", "wide.tsv is no table: field larger than field limit"),
        ("deep.json", b"[" * 100_000, "deep.json is no JSON: it is nested too deeply"),
        ("torn.json", b'{"annotations": [', "torn.json is no JSON: "),
        ("number.json", b"[1, 2]", "number.json is neither a list of texts or of objects with a prompt, nor COCO"),
        ("none.json", b"{}", "none.json is neither a list"),
    ],
)
def test_what_has_no_prompts_is_named_with_the_cure(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DeepCacheError, match=message):
        read_prompts(tmp_path / name)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeepCacheError, match=f"cannot read {re.escape(str(tmp_path))}/none.txt: No such file"):
        read_prompts(tmp_path / "none.txt")
