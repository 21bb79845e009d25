"""What a calibration draws: the user's prompts, those that a model understands, a few for all others, or noise."""

from pathlib import Path

import pytest

from deepcache_trt.errors import DeepCacheError
from deepcache_trt.pipelines.calibrating.prompts import DEFAULT, NOISE, calibration_prompts


def test_a_model_of_the_catalogue_is_asked_for_what_it_draws_and_others_for_a_few_things() -> None:
    assert len(calibration_prompts("digits", None)) == 10
    assert calibration_prompts("digits", None)[7] == "a handwritten seven"
    assert calibration_prompts("sd15", None) == calibration_prompts("somebody/else", None) == DEFAULT


def test_lines_of_a_file_are_prompts_and_empty_ones_are_none(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("ein Männchen\n\n  two \n", encoding="utf-8")
    assert calibration_prompts("digits", file) == calibration_prompts("digits", str(file)) == ("ein Männchen", "two")
    assert calibration_prompts("digits", [" two", ""]) == ("two",)


def test_noise_stands_for_no_prompts() -> None:
    assert calibration_prompts("digits", NOISE) == calibration_prompts("digits", Path(NOISE)) == ()


def test_a_file_without_prompts_is_refused_with_the_cure(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary"
    empty.write_text(" \n", encoding="utf-8")
    binary.write_bytes(b"\xff\xfe\x00")
    for file, reason in ((empty, "there are no"), (binary, "line 1 is not UTF-8"), (tmp_path / "none", "No such file")):
        with pytest.raises(DeepCacheError, match=reason) as refused:
            calibration_prompts("digits", file)
        assert "--calibration-prompts FILE" in str(refused.value)
