"""Plan files: what is written is read again, and a bad one names the file, the field, the value and the cure."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from deepcache_trt.errors import DeepCacheError, UnknownNameError
from deepcache_trt.runtime.policies.deepcache import DeepCache
from deepcache_trt.runtime.policies.plan_file import PlanFile, read_plan, write_plan


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "plan.json"


@pytest.mark.parametrize(
    "params",
    [
        DeepCache(),
        DeepCache(cache_interval=5, cache_branch_id=2, forecast="taylor1", skip_interval=2),
        DeepCache(skip_mode="quad_center", pow=1.3, center=12, disable_cache_before_step=2),
        DeepCache(full_steps=(9, 0, 4), disable_cache_after_step=40),
    ],
    ids=["defaults", "forecast", "quad_center", "full_steps"],
)
def test_what_is_written_is_read_again(params: DeepCache, file: Path) -> None:
    plan = PlanFile(policy=params, about={"model": "digits", "steps": 50})
    write_plan(file, plan)
    assert read_plan(file) == plan
    assert read_plan(str(file)) == plan


def test_a_file_names_its_fields_as_the_options_and_leaves_out_what_is_not_set(file: Path) -> None:
    write_plan(file, PlanFile(policy=DeepCache(forecast="taylor1"), about={"steps": 20}))
    said = json.loads(file.read_text())
    assert re.fullmatch("[0-9a-f]{64}", said.pop("sha256"))
    assert said == {
        "policy": "deepcache",
        "cache_interval": 3,
        "cache_branch_id": 0,
        "skip_mode": "uniform",
        "forecast": "taylor1",
        "about": {"steps": 20},
    }


def test_a_file_that_was_changed_since_it_was_written_says_so_until_its_hash_is_deleted(
    file: Path, record_property: Callable[[str, object], None]
) -> None:
    write_plan(file, PlanFile(policy=DeepCache(cache_interval=4)))
    whole = file.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 7
        file.write_bytes(damaged)
        try:
            found = read_plan(file)
        except DeepCacheError as error:
            assert str(file) in str(error)  # noqa: PT017 - some flips are of a name, which is refused as such
        else:
            assert found.policy == DeepCache(cache_interval=4), place  # space between words, or the hash's own name
    record_property("bytes flipped, each noticed", len(whole))
    said = json.loads(whole) | {"cache_interval": 5}
    file.write_text(json.dumps(said))
    with pytest.raises(DeepCacheError, match=r"plan\.json was changed since it was written; .* delete its \"sha256\""):
        read_plan(file)
    del said["sha256"]
    file.write_text(json.dumps(said))
    assert read_plan(file).policy == DeepCache(cache_interval=5)


def test_a_field_that_is_left_out_has_its_default(file: Path) -> None:
    file.write_text('{"full_steps": [0, 3, 9]}')
    assert read_plan(file) == PlanFile(policy=DeepCache(full_steps=(0, 3, 9)))
    file.write_text("{}")
    assert asdict(read_plan(file).policy) == asdict(DeepCache())


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("interval: 3", DeepCacheError, r"is no JSON \(.*\); give a JSON file such as"),
        ("\udcff", DeepCacheError, r"is no JSON \(line 1 is not UTF-8\); give a JSON file such as"),
        ("[3, 0]", DeepCacheError, r"holds \[3, 0\], no object; give a JSON file"),
        ('{"cache_intervall": 3}', UnknownNameError, r"'cache_intervall' .*\(did you mean 'cache_interval'\?\); there"),
        ('{"abuot": {}}', UnknownNameError, r"'abuot' of policy 'deepcache' \(did you mean 'about'\?\); there"),
        ('{"policy": "deepcash"}', UnknownNameError, r"policy 'deepcash' \(did you mean 'deepcache'\?\); there are"),
        ('{"policy": 3}', UnknownNameError, "unknown policy 3; there are .*deepcache, "),
        ('{"policy": ["uncached"]}', UnknownNameError, r"unknown policy \['uncached'\] \(did"),
        ('{"policy": "uncached", "pow": 2}', UnknownNameError, "'pow' of policy 'uncached'; there are"),
        ('{"about": "digits"}', DeepCacheError, r"about must be an object such as .*, not 'digits'"),
        ('{"full_steps": 7}', DeepCacheError, r"full_steps must be a list such as \[0, 4, 9\], not 7"),
        ('{"full_steps": "049"}', DeepCacheError, r"full_steps must be a list .* not '049'"),
        ('{"full_steps": [0, -1]}', DeepCacheError, "a step of full_steps .* at least 0, not -1"),
        ('{"cache_interval": 0}', DeepCacheError, "cache_interval must be a whole number of at least 1, not 0"),
        ('{"cache_interval": "3"}', DeepCacheError, "cache_interval .* not '3'"),
        ('{"cache_branch_id": null}', DeepCacheError, "cache_branch_id .* not None"),
        ('{"skip_mode": "quat"}', UnknownNameError, r"skip_mode 'quat' \(did you mean 'quad'\?\); known: uniform"),
        ('{"skip_mode": "quad", "pow": NaN}', DeepCacheError, "pow must be above 1 .* not nan"),
        ('{"forecast": "taylor2"}', UnknownNameError, r"'taylor2' \(did you mean 'taylor1'\?\)"),
    ],
)
def test_a_bad_file_is_named_with_the_field_the_value_and_the_cure(
    text: str, error: type[DeepCacheError], message: str, file: Path
) -> None:
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(error, match=message) as raised:
        read_plan(file)
    assert str(raised.value).startswith(f"plan file {file}")


@pytest.mark.parametrize(("name", "reason"), [("none.json", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named(name: str, reason: str, tmp_path: Path) -> None:
    path: Any = tmp_path / name
    with pytest.raises(DeepCacheError, match=rf"cannot read the plan file {path}: {reason}.*give a JSON file"):
        read_plan(path)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DeepCacheError, match=r"cannot write .*plan\.json: .*; choose another file"):
        write_plan(tmp_path / "file" / "plan.json", PlanFile(policy=DeepCache()))
