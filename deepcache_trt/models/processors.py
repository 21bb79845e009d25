"""Attention processors, and the image projections that go with them: what a live model is beside what its config says.

diffusers changes a U-Net in place, for an IP-Adapter or for the length of a call. What it puts there is part of the
model's structure: a graph is traced from a model that has it too, and serves no model that has something else.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deepcache_trt.errors import UnsupportedError

if TYPE_CHECKING:
    import torch

# Classes that compute what the graph of a new model computes.
_PLAIN = {
    *("AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor"),
    *("XFormersAttnProcessor", "XLAFlashAttnProcessor2_0"),
}

IP_ADAPTER = "IPAdapterAttnProcessor2_0"
_CROSS_FRAME = "CrossFrameAttnProcessor2_0"

# How an IP-Adapter gets its tokens from the embeddings of an image.
_PROJECTIONS = {
    *("ImageProjection", "IPAdapterPlusImageProjection"),
    *("IPAdapterFullImageProjection", "IPAdapterFaceIDImageProjection"),
}

# `scale` of an IP-Adapter is an input of the graph, that of others follows from their heads.
_NO_STRUCTURE = {"training", "scale"}


def check_processors(model: Any) -> None:
    """Raise UnsupportedError for attention processors that are not covered."""
    unknown = {type(processor).__name__ for processor in _foreign(model).values()} - {IP_ADAPTER, _CROSS_FRAME}
    if unknown:
        raise UnsupportedError(
            f"the attention processors {', '.join(sorted(unknown))} of {type(model).__name__} are not in its graph; "
            f"call its set_attn_processor(AttnProcessor2_0()) from diffusers.models.attention_processor"
        )


@contextmanager
def kept_processors(model: Any, pipeline: str) -> Iterator[None]:
    """Give `model` its processors back where a call of a pipeline is refused that has put others there.

    Args:
        model: a denoiser.
        pipeline: the name of the pipeline's class.

    Raises:
        UnsupportedError: in the place of the refusal of what the pipeline has put there, which is no one else's affair.
    """
    before = dict(getattr(model, "attn_processors", {}))
    try:
        yield
    except UnsupportedError as error:
        now = getattr(model, "attn_processors", {})
        if all(now[path] is processor for path, processor in before.items()):
            raise
        model.set_attn_processor(before)
        raise UnsupportedError(
            f"{pipeline} puts attention processors of its own into the {type(model).__name__} while it is called, "
            f"which no engine has; call pipe.disable_cache(), or run this pipeline with diffusers alone"
        ) from error


def image_projections(model: Any) -> tuple[Any, ...]:
    """What makes tokens of images, one for each IP-Adapter of the model, in their order.

    Raises:
        UnsupportedError: one that is not covered.
    """
    # diffusers marks a live model by an attribute of its config and leaves the config's entry of that name alone.
    if getattr(model.config, "encoder_hid_dim_type", None) != "ip_image_proj":
        return ()
    layers = tuple(model.encoder_hid_proj.image_projection_layers)
    unknown = {type(layer).__name__ for layer in layers} - _PROJECTIONS
    if getattr(model, "text_encoder_hid_proj", None) is not None:
        unknown.add("text_encoder_hid_proj")
    if unknown:
        raise UnsupportedError(
            f"an IP-Adapter with {', '.join(sorted(unknown))} is not covered; covered are those with "
            f"{', '.join(sorted(_PROJECTIONS))}; call pipe.unload_ip_adapter(), or pipe.disable_cache() for this image"
        )
    return layers


def processors_of(model: Any) -> dict[str, Any]:
    """The processors and projections that a new model of the same config has not, as JSON; {}: none."""
    processors = {path: _describe(processor) for path, processor in _foreign(model).items()}
    projections = [_describe(layer) for layer in image_projections(model)]
    return {"processors": processors, "projections": projections} if processors or projections else {}


def free_of_batch(model: Any) -> None:
    """Replace, in a model that nobody else uses, the processors that a trace would bind to one size of the batch."""
    processors: Mapping[str, Any] = getattr(model, "attn_processors", {})
    if any(type(processor).__name__ == _CROSS_FRAME for processor in processors.values()):
        model.set_attn_processor({path: _traceable(processor) for path, processor in processors.items()})


def telling_batch(model: Any) -> int:
    """The smallest batch in which every processor does all that it ever does: three frames where they are compared."""
    processors = _foreign(model).values()
    return max((3 * each.batch_size for each in processors if type(each).__name__ == _CROSS_FRAME), default=1)


def _traceable(processor: Any) -> Any:
    return CrossFrame(processor.batch_size) if type(processor).__name__ == _CROSS_FRAME else processor


class CrossFrame:
    """The CrossFrameAttnProcessor2_0 of diffusers' text-to-video pipelines for any number of frames."""

    def __init__(self, batch_size: int) -> None:
        """Take the number of videos in a batch, guidance included; each frame attends to the first of its video."""
        self.batch_size = batch_size

    def __call__(
        self,
        attn: Any,
        hidden_states: "torch.Tensor",  # [videos · frames, sequence, channels]
        encoder_hidden_states: "torch.Tensor | None" = None,
        attention_mask: "torch.Tensor | None" = None,
    ) -> "torch.Tensor":
        """As the original, which repeats keys and values where this repeats what they are computed from."""
        import torch
        from diffusers.models.attention_processor import AttnProcessor2_0

        if encoder_hidden_states is None:
            batch = hidden_states.shape[0]
            frames = torch.sym_max(1, batch // self.batch_size)
            first = torch.arange(batch, device=hidden_states.device) // frames * frames
            encoder_hidden_states = hidden_states[first]
        return AttnProcessor2_0()(attn, hidden_states, encoder_hidden_states, attention_mask)


def _foreign(model: Any) -> dict[str, Any]:
    """The processors, by their paths, that a new model of the same config does not have."""
    processors: Mapping[str, Any] = getattr(model, "attn_processors", {})
    return {path: processor for path, processor in processors.items() if type(processor).__name__ not in _PLAIN}


def _describe(part: Any) -> dict[str, Any]:
    """A processor or module: its class, its settings and the shapes of its tensors, and so for all inside."""
    about: dict[str, Any] = {
        name: value
        for name, value in vars(part).items()
        if not name.startswith("_")
        and name not in _NO_STRUCTURE
        and isinstance(value, int | float | str | list | tuple)
    }
    about["class"] = type(part).__name__
    if hasattr(part, "named_parameters"):
        about["shapes"] = {name: list(tensor.shape) for name, tensor in part.named_parameters(recurse=False)}
        about["modules"] = {name: _describe(child) for name, child in part.named_children()}
    return about
