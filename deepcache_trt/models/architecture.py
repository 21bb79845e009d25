"""What one model of a pipeline is as a graph: a denoiser, a VAE decoder, a text encoder or a ControlNet."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepcache_trt.models.taps import Tap, Variant
from deepcache_trt.tensors import Dim, TensorSpec

if TYPE_CHECKING:
    import torch

# What a denoiser gives; every other output of its graph is a tap.
OUTPUT = "noise_pred"
TAP_PREFIX = "tap_"

# What ControlNets add to a U-Net's residuals, numbered as these are, and to the output of its mid block.
DOWN_RESIDUAL = "down_residual_"
MID_RESIDUAL = "mid_residual"

# diffusers' Upsample2D takes another path from 64 images on, so a traced U-Net or VAE is valid below that.
MAX_IMAGES = 63

# Latents, height and width, of a model that names no size of its own.
UNNAMED_SIZE = 8

# Runs a model's own `forward` on named tensors.
Call = Callable[[Any, Mapping[str, "torch.Tensor"]], dict[str, "torch.Tensor"]]

# Names what one call of the model's `forward` is given, by the names of the graph's inputs; what it does not know it
# leaves under its own name. Takes the graph, the model, and the arguments by name.
Read = Callable[["Architecture", Any, dict[str, Any]], dict[str, Any]]

# Gives the graph's outputs the form in which `forward` returns them. Takes the model, the outputs by name, and the
# arguments of the call, which may ask for a form.
Answer = Callable[[Any, Mapping[str, "torch.Tensor"], Mapping[str, Any]], Any]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The ids that a text encoder takes: 0 … vocabulary-1, of which `end` closes the text and is where it is pooled."""

    vocabulary: int
    end: int


@dataclass(frozen=True, kw_only=True)
class CallForm:
    """What of its calls makes another graph of a model than its config alone.

    Attributes:
        controlled: whether a U-Net is given the residuals of ControlNets.
        frames: of a video; None: as many as the config says.
        images: the shapes of the embeddings that a U-Net's IP-Adapters are given, each without the batch.
        pooled: the width of the pooled text beside the prompt; None: as the config suggests.
    """

    controlled: bool = False
    frames: int | None = None
    images: tuple[tuple[int, ...], ...] = ()
    pooled: int | None = None

    @property
    def in_words(self) -> str:
        """As messages say it; "" where the config says it all."""
        said = {"ControlNet": self.controlled, "IP-Adapter": self.images, f"{self.frames} frames": self.frames}
        said[f"pooled text of {self.pooled}"] = self.pooled
        return " and ".join(words for words, is_so in said.items() if is_so)


# How every model of a config can be called.
AS_CONFIGURED = CallForm()


def _as_named(architecture: "Architecture", model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    return arguments


@dataclass(frozen=True, kw_only=True)
class Steering:
    """What a model computes for a denoiser that a policy caches.

    Attributes:
        taps: those of the denoiser, by name.
        variant: of the model, for a variant of the denoiser.
    """

    taps: tuple[str, ...]
    variant: Callable[[Variant], Variant]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One model of a pipeline as a graph.

    Attributes:
        inputs: what `call` and the graph take.
        outputs: what they give, beside the taps.
        call: runs the model's own `forward` on named tensors.
        answer: its inverse at the other end, see `Answer`.
        max_batch: the largest batch that the graph is valid for.
        read: the inverse of `call`, see `Read`.
        taps: the outputs of its sub-modules that can be cached.
        steering: how it follows the variants of the denoiser that it steers; None: it steers none.
        size_multiple: latent height and width must be multiples of this; 0: only `fixed_size` fits.
        downsampling: how many times smaller the innermost of its feature maps are than the latents.
        fixed_size: the one latent height and width that the model has been made for.
        module: path of the sub-module whose `forward` the graph stands for; "" is the model itself.
        tokens: what the `input_ids` of a text encoder can be.
        pixels: of an image for each element of height and width.
        own_size: height and width in pixels that the model has been made for.
        tile: height and width of the tiles that a decoder may be asked for instead of whole latents; None: it is not.
        frames: how many frames of one video are a batch, where it is made of frames; None: of images.
        rows: how many the table has in which an input of whole numbers is looked up, by the input's name.
        cures: what to do about an argument that the graph does not have, by its name.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    call: Call
    answer: Answer
    max_batch: int
    read: Read = _as_named
    taps: tuple[Tap, ...] = ()
    steering: Steering | None = None
    size_multiple: int = 1
    downsampling: int = 1
    fixed_size: int | None = None
    module: str = ""
    tokens: Tokens | None = None
    pixels: int = 1
    own_size: tuple[int, int] = (1, 1)
    tile: int | None = None
    frames: int | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    cures: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert all(tap.name.startswith(TAP_PREFIX) for tap in self.taps)
        assert not any(output.name.startswith(TAP_PREFIX) for output in self.outputs)

    @property
    def is_denoiser(self) -> bool:
        """Whether it predicts noise."""
        return self.outputs[0].name == OUTPUT

    @property
    def is_guided(self) -> bool:
        """Whether guidance calls it with each image twice: with its condition and without."""
        return any(spec.name in ("encoder_hidden_states", "class_labels") for spec in self.inputs)

    @property
    def controlled(self) -> bool:
        """Whether the graph takes the residuals of a ControlNet."""
        return any(spec.name == MID_RESIDUAL for spec in self.inputs)

    @property
    def axes(self) -> set[str]:
        """Its dynamic axes."""
        return {dim for spec in self.inputs for dim in spec.shape if isinstance(dim, str) and dim.isidentifier()}


def prediction(dtype: str, *shape: Dim) -> tuple[TensorSpec]:
    """The output of a denoiser, [batch, *shape]."""
    return (TensorSpec(name=OUTPUT, dtype=dtype, shape=("batch", *shape)),)


def sides(size: Any, unit: int) -> tuple[int, int]:
    """A config's `sample_size`, which is one number or height and width, in pixels, of which each element is `unit`."""
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return height * unit, width * unit


def answer_as(output_class: str) -> Answer:
    """The answer of a denoiser: its prediction, as the `sample` of a class that the module of its own class has."""

    def answer(model: Any, outputs: Mapping[str, "torch.Tensor"], arguments: Mapping[str, Any]) -> Any:
        return in_form(output_of(model, output_class)(sample=outputs[OUTPUT]), arguments)

    return answer


def output_of(model: Any, output_class: str) -> Any:
    """A class of outputs that the module of the model's class has."""
    return getattr(sys.modules[type(model).__module__], output_class)


def in_form(output: Any, arguments: Mapping[str, Any], *, default: bool = True) -> Any:
    """An output as it is, or as a tuple where the call, or else `default`, says so."""
    return output if arguments.get("return_dict", default) else output.to_tuple()
