"""What editors and type checkers show of the pipelines is what there is."""

import ast
import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import diffusers
import pytest

import deepcache_trt.pipelines
from deepcache_trt import DeepCachePipeline
from deepcache_trt.models.definitions.pipelines import pipeline_class
from deepcache_trt.models.registry import FAMILIES
from deepcache_trt.pipelines.engine_options import CacheKeywords, EngineOptions, PipelineKeywords
from deepcache_trt.runtime.policies.deepcache import DeepCache

STUB = Path(deepcache_trt.pipelines.__file__).with_suffix(".pyi")
CLASSES = [node.name for node in ast.parse(STUB.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]


WHOLE = {"policy", "plan"}  # those that say all about caching


def test_the_keywords_of_caching_are_the_fields_of_deepcache_and_any_policy_or_a_plan_file() -> None:
    assert set(get_type_hints(CacheKeywords)) == {*WHOLE, *(field.name for field in fields(DeepCache))}


@pytest.mark.parametrize(
    ("keywords", "values"),
    [(CacheKeywords, DeepCache), (PipelineKeywords, EngineOptions)],
    ids=["caching", "engines"],
)
def test_a_keyword_has_the_type_of_the_field_that_it_sets(keywords: type, values: Any) -> None:
    shown, meant = get_type_hints(keywords), get_type_hints(values)
    names = [field.name for field in fields(values)]
    assert {name: shown[name] for name in names} == {name: meant[name] for name in names}


def test_what_is_shown_beside_ours_is_what_diffusers_takes() -> None:
    ours = {field.name for field in (*fields(DeepCache), *fields(EngineOptions))} | WHOLE
    theirs = set(get_type_hints(PipelineKeywords)) - ours
    components = {
        name
        for pipeline in (diffusers.StableDiffusionXLControlNetPipeline, diffusers.StableDiffusionPipeline)
        for name in inspect.signature(pipeline.__init__).parameters
    }
    ways_in = (diffusers.DiffusionPipeline.from_pretrained, diffusers.StableDiffusionPipeline.from_single_file)
    documented = "".join(map(inspect.getsource, ways_in))
    assert {name for name in theirs if name not in components and f'"{name}"' not in documented} == set()


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_of_the_stub_is_the_cached_one_of_its_pipeline(name: str) -> None:
    made = getattr(deepcache_trt.pipelines, name)
    assert issubclass(made, DeepCachePipeline)
    assert issubclass(made, pipeline_class(name.removeprefix("DeepCache")))


def test_the_stub_has_every_pipeline_that_runs_the_whole_loop() -> None:
    straight = {f"DeepCache{name}" for family in FAMILIES for name in family.straight}
    assert straight <= set(CLASSES)
