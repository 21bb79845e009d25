"""What one part of a pipeline is as a graph: a denoiser, a VAE decoder or a text encoder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepcache_trt.models.taps import Tap, Variant
from deepcache_trt.tensors import TensorSpec

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

# Runs a model's own `forward` on named tensors.
Call = Callable[[Any, Mapping[str, "torch.Tensor"]], dict[str, "torch.Tensor"]]


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
    """

    controlled: bool = False
    frames: int | None = None
    images: tuple[tuple[int, ...], ...] = ()

    @property
    def in_words(self) -> str:
        """As messages say it; "" where the config says it all."""
        said = {"ControlNet": self.controlled, "IP-Adapter": self.images, f"{self.frames} frames": self.frames}
        return " and ".join(words for words, there in said.items() if there)


# How every model of a config can be called.
AS_CONFIGURED = CallForm()


def _whole(branch: int) -> tuple[Variant, ...]:
    return (Variant(name="full"),)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One part of a pipeline as a graph.

    Attributes:
        inputs: what `call` and the graph take.
        outputs: what they give, beside the taps.
        call: runs the model's own `forward` on named tensors.
        max_batch: the largest batch that the graph is valid for.
        taps: the outputs of its sub-modules that can be cached.
        variants: the graphs that are cut from it for DeepCache's branch k.
        size_multiple: latent height and width must be multiples of this; 0: only `fixed_size` fits.
        fixed_size: the one latent height and width that the model has been made for.
        module: path of the sub-module whose `forward` the graph stands for; "" is the model itself.
        tokens: what the `input_ids` of a text encoder can be.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    call: Call
    max_batch: int
    taps: tuple[Tap, ...] = ()
    variants: Callable[[int], tuple[Variant, ...]] = _whole
    size_multiple: int = 1
    fixed_size: int | None = None
    module: str = ""
    tokens: Tokens | None = None

    def __post_init__(self) -> None:
        assert all(tap.name.startswith(TAP_PREFIX) for tap in self.taps)
        assert not any(output.name.startswith(TAP_PREFIX) for output in self.outputs)

    @property
    def is_denoiser(self) -> bool:
        """Whether it predicts noise, and has a tap for each branch."""
        return self.outputs[0].name == OUTPUT

    @property
    def controlled(self) -> bool:
        """Whether the graph takes the residuals of a ControlNet."""
        return any(spec.name == MID_RESIDUAL for spec in self.inputs)


def part_dtype(config: Mapping[str, Any], dtype: str) -> str:
    """The precision to build a part in where the pipeline is in `dtype`.

    The activations of SDXL's VAE overflow half precision; its config says so, and diffusers upcasts it too. A VAE whose
    checkpoint says nothing (SD1.5, SD2.1) has `force_upcast` by default, and runs in half precision in diffusers. So
    does a video VAE's decoder, whatever its config says: diffusers upcasts the encoder alone.
    """
    stated = config.get("force_upcast") and "force_upcast" not in config.get("_use_default_values", ())
    stated = stated and config.get("_class_name") != "AutoencoderKLTemporalDecoder"
    return "float32" if stated and dtype == "float16" else dtype
