"""What a user chooses about engines, and the keywords by which pipelines are told of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict

from deepcache_trt.builder.component import DENOISERS
from deepcache_trt.builder.quantized.quantizing import check_owners, patterns_of
from deepcache_trt.builder.shapes import Shapes, shapes_from_text
from deepcache_trt.engines import backends
from deepcache_trt.engines.backend import BuildOptions
from deepcache_trt.errors import DeepCacheError, UnknownNameError, UnsupportedError, did_you_mean
from deepcache_trt.export.precision import precision_of
from deepcache_trt.foreign import Pipeline
from deepcache_trt.models.families.family import Family
from deepcache_trt.models.registry import covered_models
from deepcache_trt.pipelines.calibrating.prompts import calibration_prompts
from deepcache_trt.runtime.policies import DeepCache, Policy
from deepcache_trt.runtime.policies.plan_file import read_policy

BUILD_MODES = ("auto", "never")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Which engines a pipeline uses and where they are kept.

    Attributes:
        backend: "auto", or a name that `deepcache-trt doctor` lists.
        store: the folder of built engines; None: `$DEEPCACHE_TRT_STORE` or the user's cache folder.
        build: "auto" builds what is missing at first use, "never" refuses instead and names the command.
        components: the pipeline's components that run on engines beside the denoiser, as ("vae", "text_encoder");
            None: all that are covered.
        size: pixels that compiled engines (TensorRT, OpenVINO) are built for, as 1024, "768x1024", "512-1024", or
            several of them; None: whatever is called for, each at first use.
        batch: images of one call that they are built for, as 1, "1-4", or several of them.
        segments: run a variant as a list of segments, which hold each weight once, not as one engine of its own; None:
            as the policy prefers.
        refit: build engines whose weights can be replaced, for pipelines that switch LoRAs (TensorRT on this GPU only).
        optimization_level: how long a build looks for fast kernels, 0 to 5, where the backend can; None: its default.
        keep_torch_weights: False frees the torch weights of each model on engines before its engines are loaded. They
            are meta tensors from then on, and loaded from the store again when anyone uses them: to save, to add a
            LoRA, to run plain diffusers; the next image frees them again. They stay where the engine is the torch
            model itself (backends "torch", "torch-compile") and as long as there are adapters on it.
        precision: "int8" quantizes layers of the denoiser: int8 weights and activations, multiplied as whole numbers;
            "fp8" is the same in E4M3; everything else stays in the pipeline's dtype. None: so do these.
        quantize: names of the layers of the denoiser that are quantized, or patterns such as "mid_block.*"; "all" means
            every layer. None of these: those that cached steps leave out and that bear it, see
            `builder.quantized.choice`. Of another component, which is named before them, as "vae:all", they are
            quantized too.
        calibration_prompts: what is drawn to find the ranges of activations: prompts, or a text file of one a line;
            "noise": seeded noise in their place, for what is only timed; None: a small set of this package.
    """

    backend: str = "auto"
    store: Path | str | None = None
    build: str = "auto"
    components: tuple[str, ...] | None = None
    size: int | str | Sequence[int | str] | None = None
    batch: int | str | Sequence[int | str] | None = None
    segments: bool | None = None
    refit: bool = False
    optimization_level: int | None = None
    keep_torch_weights: bool = True
    precision: str | None = None
    quantize: Sequence[str] | None = None
    calibration_prompts: Path | str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.build not in BUILD_MODES:
            raise UnknownNameError(f"unknown build={self.build!r}; there are {', '.join(map(repr, BUILD_MODES))}")
        backends.check_name(self.backend)
        _ = self.shapes, self.build_options  # refuse what they refuse now, not at the first image
        for name in ("quantize", "calibration_prompts"):
            given = getattr(self, name)
            if given is not None and precision_of(self.precision) is None:
                raise DeepCacheError(f"{name}={given!r} has no meaning without a precision; give precision='int8' too")
            if isinstance(given, list):
                object.__setattr__(self, name, tuple(given))
        if isinstance(self.quantize, str):
            object.__setattr__(self, "quantize", (self.quantize,))
        if precision_of(self.precision) is not None:
            calibration_prompts("", self.calibration_prompts)

    @property
    def shapes(self) -> Shapes | None:
        """What `size` and `batch` mean; None where neither is given."""
        if self.size is None and self.batch is None:
            return None
        return shapes_from_text(_texts(self.size), _texts(self.batch))

    @property
    def build_options(self) -> BuildOptions:
        """How TensorRT builds."""
        return BuildOptions(optimization_level=self.optimization_level, refittable=self.refit)

    def patterns(self, part: str) -> tuple[str, ...] | None:
        """Which layers of a component of the pipeline are quantized; see `patterns_of`."""
        if self.precision is None:
            return None
        return patterns_of(part, self.quantize or (), is_denoiser=part in DENOISERS)


def _texts(given: int | str | Sequence[int | str] | None) -> list[str]:
    if given is None:
        return []
    return [str(given)] if isinstance(given, int | str) else [str(each) for each in given]


class CacheKeywords(TypedDict, total=False):
    """The fields of `DeepCache`, which says what they mean; or `policy`, or `plan`, a plan file with a policy in it."""

    policy: Policy | None
    plan: Path | str | None
    cache_interval: int
    cache_branch_id: int
    skip_mode: str
    pow: float | None
    center: int | None
    full_steps: tuple[int, ...] | None
    disable_cache_before_step: int | None
    disable_cache_after_step: int | None
    skip_interval: int | None
    forecast: str | None


class PipelineKeywords(CacheKeywords, total=False):
    """What `from_pretrained` and `from_pipe` take: those of caching, the fields of `EngineOptions`, and diffusers' own.

    diffusers takes more, as every component by its name; what is here are those that are given most.
    """

    backend: str
    store: Path | str | None
    build: str
    components: tuple[str, ...] | None
    size: int | str | Sequence[int | str] | None
    batch: int | str | Sequence[int | str] | None
    segments: bool | None
    refit: bool
    optimization_level: int | None
    keep_torch_weights: bool
    precision: str | None
    quantize: Sequence[str] | None
    calibration_prompts: Path | str | Sequence[str] | None

    dtype: Any
    torch_dtype: Any
    revision: str | None
    variant: str | None
    use_safetensors: bool
    local_files_only: bool
    config: Any
    cache_dir: Any
    token: Any
    device_map: Any
    quantization_config: Any
    scheduler: Any
    unet: Any
    vae: Any
    text_encoder: Any
    text_encoder_2: Any
    tokenizer: Any
    tokenizer_2: Any
    controlnet: Any
    image_encoder: Any
    feature_extractor: Any
    safety_checker: Any
    requires_safety_checker: bool


_POLICY, _PLAN = "policy", "plan"
_CACHING = [*DeepCache.names(), _POLICY, _PLAN]
_OPTIONS = [field.name for field in fields(EngineOptions)]


def split_keywords(
    kwargs: Mapping[str, Any], policy: Policy, options: EngineOptions
) -> tuple[Policy, EngineOptions, dict[str, Any]]:
    """Part our own options from those of diffusers, which would drop a misspelt one with no more than a warning.

    What is not given of ours is as in `policy` and `options`.

    Raises:
        UnknownNameError: a misspelt one.
    """
    known = [*_CACHING, *_OPTIONS]
    rest = {name: value for name, value in kwargs.items() if name not in known}
    for name in rest.keys() - PipelineKeywords.__optional_keys__:  # diffusers' `token` is no misspelt `store`
        if name.startswith(("cache_", "disable_cache")) or did_you_mean(name, known):
            raise UnknownNameError(f"unknown option {name!r}{did_you_mean(name, known)}; ours are {', '.join(known)}")
    policy = policy_from({name: kwargs[name] for name in _CACHING if name in kwargs}, policy)
    options = replace(options, **{name: kwargs[name] for name in _OPTIONS if name in kwargs})
    return policy, options, rest


def policy_from(given: Mapping[str, Any], base: Policy) -> Policy:
    """A policy that is given, or `DeepCache` with the fields that are given, the others as in the base if it is one.

    Raises:
        UnknownNameError: what is no field of `DeepCache`.
        DeepCacheError: a policy is given in two ways, or none of ours.
    """
    for name in given.keys() - set(_CACHING):
        raise UnknownNameError(
            f"unknown cache parameter {name!r}{did_you_mean(name, _CACHING)}; there are {', '.join(_CACHING)}"
        )
    said = {name: value for name, value in given.items() if name not in (_POLICY, _PLAN) or value is not None}
    if _PLAN in said:
        return read_policy(said.pop(_PLAN), said)
    if _POLICY in said:
        policy = said.pop(_POLICY)
        if not isinstance(policy, Policy):
            raise DeepCacheError(f"policy={policy!r} is no policy; give one, as DeepCache(cache_interval=3)")
        if said:
            raise DeepCacheError(f"policy= says how to cache already; leave out {', '.join(said)}, or put it in there")
        return policy
    if not said:
        return base
    return replace(base if isinstance(base, DeepCache) else DeepCache(), **said)


def live_paths(pipe: Pipeline, options: EngineOptions) -> dict[str, Family]:
    """Where the models beside the denoiser are that run on engines, with their families.

    Raises:
        UnsupportedError: one that was asked for by name and is not covered, or not there.
        UnknownNameError: layers are to be quantized of one that is not among them.
    """
    others = [part for part in pipe.components if part not in DENOISERS]
    covered = {part: models for part in others if (models := covered_models(part, getattr(pipe, part)))}
    wanted = list(covered)
    if options.components is not None:
        wanted = [part for part in options.components if part not in DENOISERS]
    for part in wanted:
        if part not in covered:
            raise UnsupportedError(
                f"{type(pipe).__name__} has no component {part!r} that can run on engines; "
                f"it has {', '.join(covered) or 'none'}"
            )
    found = {path: family for part in wanted for path, family in covered[part].items()}
    denoisers = [part for part in DENOISERS if getattr(pipe, part, None) is not None]
    beside = [path for path, family in found.items() if not family.follows_denoiser]
    check_owners(options.quantize or (), (*denoisers, *beside))
    return found
