"""Whatever a list calls covered is taken to a picture, or to a refusal that says why: a list alone shows nothing."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from deepcache_trt import DeepCachePipeline
from deepcache_trt.builder.model_source import ModelSource, find_components, random_components
from deepcache_trt.builder.pieces import variants_of
from deepcache_trt.engines import backends
from deepcache_trt.errors import BackendError, UnsupportedError
from deepcache_trt.models.architecture import TAP_PREFIX
from deepcache_trt.models.catalogue import CATALOGUE
from deepcache_trt.models.registry import COVERED, FAMILIES, covered_models
from deepcache_trt.pipelines.cached_denoiser import denoiser_of
from deepcache_trt.runtime.policies import Policy, Uncached
from deepcache_trt.runtime.policies.deepcache import SHALLOW, DeepCache
from tests import tiny
from tests.pipelines import dits, ldms, micro_parts
from tests.pipelines.coverage.rows import OF_CLASSES
from tests.pipelines.micro import OTHERS, STRAIGHT, cached, draw
from tests.runtime.schedulers import FALLBACKS, TABLES, WARNINGS, Case

pytestmark = WARNINGS

MICROS = {**STRAIGHT, **OTHERS}

# A pipeline for each class that is covered, beside the denoiser the attribute that holds it.
PIPELINES: dict[str, tuple[str, str]] = {
    "UNet2DConditionModel": ("text", "unet"),
    "UNet2DModel": ("ddpm", "unet"),
    "UNetSpatioTemporalConditionModel": ("svd", "unet"),
    "DiTTransformer2DModel": ("dit", "transformer"),
    "UViT": ("uvit", "transformer"),
    "ControlNetModel": ("sd controlnet", "controlnet"),
    "AutoencoderKL": ("text", "vae"),
    "AutoencoderKLTemporalDecoder": ("svd", "vae"),
    "AutoencoderTiny": ("tiny vae", "vae"),
    "VQModel": ("ldm", "vqvae"),
    "CLIPTextModel": ("text", "text_encoder"),
    "CLIPTextModelWithProjection": ("xl", "text_encoder_2"),
}


def new(name: str) -> Any:
    if name == "text":
        return DeepCachePipeline.from_pipe(tiny.stable_diffusion(), cache_interval=2)
    if name == "xl":
        return DeepCachePipeline.from_pipe(tiny.stable_diffusion_xl(), cache_interval=2)
    if name == "original dit":
        return DeepCachePipeline.from_pipe(dits.original(), policy=Uncached())
    if name in ("dit", "uvit"):
        return DeepCachePipeline.from_pipe(dits.plain(kind=name), policy=Uncached())
    if name == "ldm":
        return DeepCachePipeline.from_pipe(ldms.plain(), cache_interval=2)
    if name == "tiny vae":
        return DeepCachePipeline.from_pipe(MICROS["sd"].new(vae=micro_parts.tiny_vae()), cache_interval=2)
    return cached(MICROS[name], cache_interval=2, components=None)


def drawn(name: str, pipe: Any) -> torch.Tensor:
    if name in ("text", "xl"):
        return torch.from_numpy(pipe("seven", num_inference_steps=3, height=64, width=64, output_type="np").images)
    if name in ("dit", "original dit", "uvit", "ldm"):
        image: torch.Tensor = pipe([3], num_inference_steps=3, output_type="pt").images
        return image
    decoded: dict[str, Any] = {"output_type": "pt"} if name in ("svd", "tiny vae") else {}
    return draw(pipe, MICROS["sd" if name == "tiny vae" else name], num_inference_steps=3, **decoded)


@pytest.mark.parametrize("kind", COVERED)
def test_every_covered_class_draws(kind: str) -> None:
    name, part = PIPELINES[kind]
    pipe = new(name)
    models = covered_models(part, getattr(pipe, part))
    assert kind in {family.class_name for family in models.values()}
    assert drawn(name, pipe).isfinite().all()
    assert pipe.last_run.seconds[part] > 0, "its calls went to engines"
    assert SHALLOW in pipe.last_run.plan.variants or pipe.policy == Uncached()


def prior() -> Any:
    """A denoiser of a class that has no family."""
    return diffusers.PriorTransformer(num_attention_heads=2, attention_head_dim=4, num_layers=1, embedding_dim=8)


def test_a_class_that_is_not_covered_is_refused_by_name_wherever_it_is_given_over() -> None:
    pipe = dits.plain()
    pipe.register_modules(transformer=prior())
    with pytest.raises(UnsupportedError, match="PriorTransformer, the transformer of DiTPipeline, is not covered"):
        DeepCachePipeline.from_pipe(pipe)
    with pytest.raises(UnsupportedError, match="is not covered"):
        denoiser_of(pipe)


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_a_saved_class_that_is_not_covered_is_refused_by_name_whatever_its_files(
    tmp_path: Path, allow_pickle: bool
) -> None:
    prior().save_pretrained(tmp_path / "transformer", safe_serialization=not allow_pickle)
    (tmp_path / "model_index.json").write_text('{"transformer": ["diffusers", "PriorTransformer"]}')
    with pytest.raises(UnsupportedError, match="PriorTransformer is not covered"):
        find_components(ModelSource(model=str(tmp_path), allow_pickle=allow_pickle), dtype="float32")


@pytest.mark.parametrize("name", sorted({name for family in FAMILIES for name in family.straight}))
def test_every_pipeline_that_is_called_straight_runs_the_whole_loop(name: str) -> None:
    if (of_classes := OF_CLASSES.get(name)) is not None:
        assert drawn(of_classes.kind, pipe := new(of_classes.kind)).isfinite().all()
        assert (pipe.last_run.way, pipe.last_run.reason) == ("whole loop", "")
        return
    [micro, *_] = [key for key, micro in MICROS.items() if micro.pipeline == name]
    pipe = cached(MICROS[micro], cache_interval=2)
    assert draw(pipe, MICROS[micro], num_inference_steps=4).isfinite().all()
    assert (pipe.last_run.way, pipe.last_run.reason) == ("whole loop", "")


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # of modules that torch's compiler imports
@pytest.mark.parametrize("name", sorted({backend.name for backend in backends.OWN}))
def test_every_backend_draws_or_says_why_not(name: str) -> None:
    """On a CPU; what is for a GPU is drawn with by `deepcache-trt check gpu`."""
    pipe = cached(MICROS["sd"], cache_interval=2, backend=name)
    if any(backends.probe(each).works for each in backends.every() if (each.name, each.device) == (name, "cpu")):
        assert draw(pipe, MICROS["sd"], num_inference_steps=3).isfinite().all()
        assert set(pipe.last_run.runs) == {"full", "shallow"}
    else:
        with pytest.raises(BackendError, match=f"backend '{name}'"):
            draw(pipe, MICROS["sd"], num_inference_steps=3)


def _first_case(name: str) -> Case:
    return TABLES[name][0] if name in TABLES else FALLBACKS[name].case


def outcome(pipe: Any) -> torch.Tensor | type[Exception]:
    try:
        return draw(pipe, MICROS["sd"], num_inference_steps=3)
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("name", sorted({*TABLES, *FALLBACKS}))
def test_every_scheduler_draws_or_is_refused_as_plain_diffusers_does(name: str) -> None:
    kind, options = getattr(diffusers.schedulers, name), _first_case(name).options
    plain, ours = MICROS["sd"].new(), cached(MICROS["sd"], cache_interval=1)
    for pipe in (plain, ours):
        try:
            pipe.scheduler = kind(**options)
        except ImportError as error:
            pytest.skip(str(error))
    theirs, found = outcome(plain), outcome(ours)
    if isinstance(theirs, torch.Tensor):
        assert isinstance(found, torch.Tensor), found
        torch.testing.assert_close(found, theirs, rtol=1e-3, atol=1e-3, equal_nan=True)
    else:
        assert found is theirs


# Without a mid block there is no tensor that the first up layer could be given.
UNCOVERED = ("bk-sdm-small", "bk-sdm-tiny")


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_name_of_the_catalogue_has_graphs_with_the_taps_that_its_variants_name_or_is_refused(name: str) -> None:
    if name in UNCOVERED:
        with pytest.raises(UnsupportedError, match="is not covered"):
            random_components(name, dtype="float32")
        return
    components = random_components(name, dtype="float32")
    for component in components:
        architecture = component.architecture
        taps = {tap.name for tap in architecture.taps}
        outputs = {spec.name for spec in architecture.outputs}
        if not any(tap.removeprefix(TAP_PREFIX).isdigit() for tap in taps):
            policies: list[Policy] = [Uncached()]
        else:
            policies = [DeepCache(cache_branch_id=branch) for branch in range(len(taps))]
        for policy in policies:
            for variant in variants_of(component.architecture, policy, component.name):
                assert {*variant.consumes, *variant.emits} <= taps, component.title
                assert set(variant.outputs or ()) <= outputs, component.title


def test_no_list_here_is_shorter_than_the_package_s() -> None:
    assert set(PIPELINES) == set(COVERED)
    assert all(isinstance(value, Mapping) for value in (TABLES, FALLBACKS))
    assert all(dataclasses.is_dataclass(family) for family in FAMILIES)
