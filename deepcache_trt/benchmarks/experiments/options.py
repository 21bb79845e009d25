"""What experiments can be asked for: each declares a dataclass, whose fields are its options and its config file.

A field says in its annotation what it is, for a person; one that is a tuple can be given several times. Nothing large
is imported here: the command's help is made of these.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from deepcache_trt.errors import DeepCacheError

Intervals = Annotated[tuple[int, ...], "Of caching; repeatable."]
Branches = Annotated[tuple[int, ...], "The skip connection at which the shallow layers begin; repeatable."]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of every experiment.

    Attributes:
        LEAST: what is the least value of a number, by its name.
    """

    LEAST: ClassVar[Mapping[str, int]] = {}

    def __post_init__(self) -> None:
        for name, least in self.LEAST.items():
            value = getattr(self, name)
            if any(each < least for each in (value if isinstance(value, tuple) else (value,))):
                raise DeepCacheError(f"{name} {value} is below {least}; give at least that many")

    def resolved(self) -> Self:
        """With all that depends on the machine or on files that will not be there later.

        Raises:
            DeepCacheError: what is asked for cannot be had.
        """
        return self

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {name: _as_json(value) for name, value in asdict(self).items()}


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(each) for each in value]
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True, kw_only=True)
class OfModel(Options):
    """Of those that run a model."""

    model: Annotated[str, "A catalogue name, a folder or hub id."] = "digits"
    revision: Annotated[str | None, "As in diffusers: a branch, tag or commit on the hub."] = None
    variant: Annotated[str | None, "As in diffusers: fp16 for *.fp16.safetensors."] = None
    backend: Annotated[str, "auto, or a name that `deepcache-trt doctor` lists."] = "auto"
    dtype: Annotated[str | None, "float32, float16 or bfloat16. [default: float32 without a GPU]"] = None

    def resolved(self) -> Self:
        """With the backend and the dtype that are taken here."""
        from deepcache_trt.engines import backends

        device = backends.best_device(self.backend)
        return replace(
            super().resolved(),
            backend=str(backends.resolve(self.backend, device)),
            dtype=backends.dtype_or_default(self.dtype, device),
        )


@dataclass(frozen=True, kw_only=True)
class Prompts(Options):
    """Of those that read prompts."""

    prompt: Annotated[tuple[str, ...], "Repeatable. [default: the ten digits, or an astronaut]"] = ()
    prompt_file: Annotated[Path | None, "One a line, or PartiPrompts' .tsv, or COCO's .json."] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt and self.prompt_file is not None:
            raise DeepCacheError("--prompt and --prompt-file both say what is drawn; give one of them")
        if any(not prompt.strip() for prompt in self.prompt):
            raise DeepCacheError("a prompt is empty; leave it out, or write one")

    def resolved(self) -> Self:
        """With the prompts of the file."""
        from deepcache_trt.benchmarks.experiments.prompts import read_prompts

        found = super().resolved()
        if self.prompt_file is None:
            return found
        return replace(found, prompt=read_prompts(self.prompt_file), prompt_file=None)


@dataclass(frozen=True, kw_only=True)
class Prompted(OfModel, Prompts):
    """Of those that draw from prompts."""

    LEAST: ClassVar[Mapping[str, int]] = {"seeds": 1, "steps": 1, "batch": 1, "seed": 0}

    seeds: Annotated[int, "Pictures of each prompt."] = 1
    seed: Annotated[int, "Of picture 0; that of picture i is this + i."] = 0
    steps: Annotated[int, "Denoising steps."] = 50
    guidance: Annotated[float | None, "Guidance scale. [default: the pipeline's]"] = None
    batch: Annotated[int, "Pictures of a call."] = 10
    clip: Annotated[bool, "The CLIP score too: ViT-g-14 is 5 GB to download once."] = False

    def resolved(self) -> Self:
        """With the prompts for the model where none is given."""
        from deepcache_trt.benchmarks.timing.drawing import prompts_for

        found = super().resolved()
        return replace(found, prompt=prompts_for(found.model, found.prompt))


@dataclass(frozen=True, kw_only=True)
class Unprompted(OfModel):
    """Of those that draw classes, or from noise alone."""

    LEAST: ClassVar[Mapping[str, int]] = {"images": 5, "steps": 1, "batch": 1, "seed": 0}

    random_weights: Annotated[bool, "The real architecture with seeded weights: needs no download."] = False
    images: Annotated[int, "Of each way to draw; the papers' figures are of 50,000."] = 200
    seed: Annotated[int, "Of image 0; that of image i is this + i."] = 0
    classes: Annotated[tuple[int, ...], "That take turns; repeatable. [default: all, or the ten digits]"] = ()
    steps: Annotated[int, "Denoising steps, of DDIM."] = 100
    eta: Annotated[float, "0 is DDIM, 1 draws as much noise as DDPM."] = 0.0
    skip_type: Annotated[str, "How timesteps are spaced, as beside the paper of DDIM: uniform or quad."] = "uniform"
    guidance: Annotated[float | None, "Guidance scale, of a model of classes. [default: the pipeline's]"] = None
    batch: Annotated[int, "Images of a call."] = 25
    reference: Annotated[
        Path | None, "Real images: a folder, a .npz, or saved statistics. [default: the digits' own]"
    ] = None
    extractor: Annotated[str, "inception, by torch-fidelity, or digits, the reader of the bundled models' images."] = (
        "digits"
    )
