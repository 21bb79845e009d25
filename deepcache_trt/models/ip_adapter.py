"""IP-Adapters: the embeddings of their images, and how strongly each counts where, as inputs of a U-Net's graph."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.processors import IP_ADAPTER, image_projections
from deepcache_trt.tensors import TensorSpec

if TYPE_CHECKING:
    import torch

# Followed by the number of the adapter.
IMAGE_EMBEDS = "image_embeds_"
SCALES = "ip_adapter_scales"


def image_shapes(arguments: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """The shapes of the embeddings that a U-Net is called with, for each adapter without the batch; else none.

    (images, width), or (images, tokens, width).
    """
    embeds = (arguments.get("added_cond_kwargs") or {}).get("image_embeds")
    return () if embeds is None else tuple(tuple(embed.shape[1:]) for embed in _as_list(embeds))


def ip_adapter_inputs(model: Any, dtype: str, images: Sequence[tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    """The inputs that the adapters of `model` add to its graph; none where it has no adapter.

    Args:
        model: may be on fake tensors.
        dtype: of its weights.
        images: from `image_shapes`. They are no dynamic axes: neither the model nor its config says what they can be.
    """
    adapters = len(image_projections(model))
    if not images or not adapters:
        return ()
    embeds = (
        TensorSpec(name=f"{IMAGE_EMBEDS}{i}", dtype=dtype, shape=("batch", *shape)) for i, shape in enumerate(images)
    )
    return *embeds, TensorSpec(name=SCALES, dtype="float32", shape=(len(_processors(model)), adapters))


def ip_adapter_tensors(model: Any, image_embeds: Any) -> dict[str, Any]:
    """The inputs of `ip_adapter_inputs` for one call, the scales as they are set now.

    Raises:
        UnsupportedError: another number of embeddings than of adapters, a scale for each mask, or adapters that
            have been switched off by half.
    """
    import torch

    adapters = len(image_projections(model))
    if image_embeds is None or len(_as_list(image_embeds)) != adapters:
        given = "no image_embeds" if image_embeds is None else f"{len(_as_list(image_embeds))} image_embeds"
        raise UnsupportedError(
            f"{type(model).__name__} is called with {given}, and has {adapters} IP-Adapters; give one image or one "
            f"tensor for each (ip_adapter_image, ip_adapter_image_embeds), or call pipe.unload_ip_adapter()"
        )
    scales = [list(processor.scale) for processor in _processors(model)]
    if not scales:
        raise UnsupportedError(
            f"{type(model).__name__} has an IP-Adapter and none of its attention processors, as after "
            f"set_attn_processor; load the IP-Adapter again, or call pipe.unload_ip_adapter()"
        )
    if any(isinstance(scale, list) for row in scales for scale in row):
        raise UnsupportedError(
            "an IP-Adapter has a scale for each of its masks, which the graph does not have; "
            "call pipe.set_ip_adapter_scale with one number for each adapter"
        )
    embeds = {f"{IMAGE_EMBEDS}{i}": embed for i, embed in enumerate(_as_list(image_embeds))}
    return {**embeds, SCALES: torch.tensor(scales, dtype=torch.float32)}


@contextmanager
def ip_adapter_call(model: Any, tensors: Mapping[str, "torch.Tensor"]) -> Iterator[dict[str, Any]]:
    """Within the block the model's adapters count as `tensors` says, if it does; yields what its call takes beside."""
    undo = scale_adapters(model, tensors) if SCALES in tensors else None
    count = sum(name.startswith(IMAGE_EMBEDS) for name in tensors)
    try:
        yield {"image_embeds": [tensors[f"{IMAGE_EMBEDS}{i}"] for i in range(count)]} if count else {}
    finally:
        if undo is not None:
            undo()


def scale_adapters(model: Any, tensors: Mapping[str, "torch.Tensor"]) -> Callable[[], None]:
    """From now on, until what is returned is called, the model's adapters count as `tensors` says at each call.

    A processor asks its scale whether it is zero, which a trace cannot follow. So its scale is one, and instead the
    values are scaled, in which its attention is linear.
    """
    processors = _processors(model)
    before = [processor.scale for processor in processors]
    handles = []
    for i, processor in enumerate(processors):
        handles += [
            values.register_forward_hook(_scale_output(tensors, i, j)) for j, values in enumerate(processor.to_v_ip)
        ]
        processor.scale = [1.0] * len(processor.to_v_ip)

    def undo() -> None:
        for handle in handles:
            handle.remove()
        for processor, scale in zip(processors, before, strict=True):
            processor.scale = scale

    return undo


def _scale_output(tensors: Mapping[str, "torch.Tensor"], i: int, j: int) -> Callable[..., "torch.Tensor"]:
    def on_forward(module: Any, args: Any, output: "torch.Tensor") -> "torch.Tensor":
        return output * tensors[SCALES][i, j].to(output.dtype)

    return on_forward


def _processors(model: Any) -> list[Any]:
    return [module for module in model.modules() if type(module).__name__ == IP_ADAPTER]


def _as_list(image_embeds: Any) -> Sequence[Any]:
    """One for each adapter; of a bare tensor diffusers makes the one image of a single adapter."""
    return image_embeds if isinstance(image_embeds, list | tuple) else [image_embeds.unsqueeze(1)]
