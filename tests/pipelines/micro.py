"""Every kind of pipeline with a U-Net, around one of a single block: what is tested with them is what happens between
two calls of the denoiser, and to export a larger one takes a hundred times as long as to run it.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import diffusers
import torch
from diffusers import (
    DDIMScheduler,
    LCMScheduler,
)

from deepcache_trt import DeepCachePipeline
from tests.pipelines.micro_parts import components_of, controlnet, unet


@dataclass(frozen=True, kw_only=True)
class Micro:
    """A kind of pipeline.

    Attributes:
        pipeline: the name of its class.
        unet: the key of its U-Net.
        shares: whose components it has beside.
        options: for the constructor.
        call: arguments of every call of it.
        scheduler: its class, if not that of the others.
        controlnets: how many steer it.
    """

    pipeline: str
    unet: str
    shares: str
    options: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Any = None
    controlnets: int = 0

    def new(self, **others: Any) -> Any:
        """A pipeline of its own, with the models of all others and a scheduler of its own, and the components given."""
        parts = components_of(self.shares)
        scheduler = (self.scheduler or type(parts["scheduler"])).from_config(parts["scheduler"].config)
        parts = {**parts, "scheduler": scheduler, **self.options, "unet": unet(self.unet)}
        nets = [controlnet(self.unet, seed) for seed in range(self.controlnets)]
        if nets:
            parts["controlnet"] = nets if len(nets) > 1 else nets[0]
        pipe = getattr(diffusers, self.pipeline)(**{**parts, **others})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def arguments(self, *, height: int, width: int, batch: int, guided: bool) -> dict[str, Any]:
        """The call's for a batch of images of some size, as far as the pipeline takes any; each image is another."""
        call: dict[str, Any] = {}
        if "prompt" in self.call:
            call |= {"prompt": ["a handwritten seven", "one", "three"][:batch]}
            call |= {} if guided else {"guidance_scale": 1.0}
        if "height" in self.call:
            call |= {"height": height, "width": width}
        for name in {"image", "control_image"} & self.call.keys():
            if self.shares == "svd":  # whose image is first resized by nobody else
                height = width = 64
            scale = 64 // (self.call[name][0] if self.controlnets > 1 else self.call[name]).shape[-1]
            of_all = picture(batch, height // scale, width // scale)
            call[name] = [of_all, 1 - of_all][: self.controlnets] if self.controlnets > 1 else of_all
        if "mask_image" in self.call:
            call["mask_image"] = torch.linspace(0, 1, width).expand(batch, 1, height, width)
        if self.shares == "svd" and not guided:
            call |= {"min_guidance_scale": 1.0, "max_guidance_scale": 1.0}
        if self.shares == "ddpm":
            call["batch_size"] = batch
        return call


def picture(batch: int, height: int, width: int) -> torch.Tensor:
    """Gradients, [B, 3, H, W] in 0…1."""
    return torch.linspace(0, 1, batch * 3 * height * width).reshape(batch, 3, height, width)


_UNCHECKED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
_UNMARKED = {"add_watermarker": False}
_IMAGE = {"image": picture(1, 64, 64)}
_MASK = {"mask_image": torch.linspace(0, 1, 64).expand(1, 1, 64, 64)}
_SMALL = {"image": picture(1, 8, 8)}
_CONTROL = {"control_image": picture(1, 64, 64).flip(-1)}
_PROMPT = {"prompt": "a handwritten seven", "output_type": "latent"}
_SIZE = {"height": 64, "width": 64}
_EDIT = {**_PROMPT, **_IMAGE, "strength": 0.8}
_PAINT = {**_EDIT, **_MASK, **_SIZE, "strength": 1.0}
_VIDEO = {**_IMAGE, **_SIZE, "output_type": "latent"}


def _sd(pipeline: str, unet: str, scheduler: Any = None, **call: Any) -> Micro:
    return Micro(pipeline=pipeline, unet=unet, shares="sd", options=_UNCHECKED, call=call, scheduler=scheduler)


def _xl(pipeline: str, unet: str, **call: Any) -> Micro:
    return Micro(pipeline=pipeline, unet=unet, shares="sdxl", options=_UNMARKED, call=call)


def _controlled(micro: Micro, nets: int = 1) -> Micro:
    return replace(micro, controlnets=nets)


STRAIGHT = {
    "sd": _sd("StableDiffusionPipeline", "sd", **_PROMPT, **_SIZE),
    "sd21": Micro(
        pipeline="StableDiffusionPipeline", unet="sd21", shares="sd21", options=_UNCHECKED, call={**_PROMPT, **_SIZE}
    ),
    "sd distilled": _sd("StableDiffusionPipeline", "lcm", **_PROMPT, **_SIZE),
    "sd img2img": _sd("StableDiffusionImg2ImgPipeline", "sd", **_EDIT),
    "sd inpaint": _sd("StableDiffusionInpaintPipeline", "sd with a mask", **_PAINT),
    "sd unmasked inpaint": _sd("StableDiffusionInpaintPipeline", "sd", **_PAINT),
    "instruct pix2pix": _sd("StableDiffusionInstructPix2PixPipeline", "pix2pix", **_PROMPT, **_IMAGE),
    "sd upscale": Micro(
        pipeline="StableDiffusionUpscalePipeline",
        unet="upscale",
        shares="sd upscale",
        call={**_PROMPT, **_SMALL},
    ),
    "lcm": _sd("LatentConsistencyModelPipeline", "lcm", LCMScheduler, **_PROMPT, **_SIZE),
    "lcm img2img": _sd("LatentConsistencyModelImg2ImgPipeline", "lcm", LCMScheduler, **_EDIT),
    "sdxl": _xl("StableDiffusionXLPipeline", "sdxl", **_PROMPT, **_SIZE),
    "sdxl img2img": _xl("StableDiffusionXLImg2ImgPipeline", "sdxl", **_EDIT),
    "sdxl refiner": Micro(
        pipeline="StableDiffusionXLImg2ImgPipeline",
        unet="refiner",
        shares="sdxl refiner",
        options={**_UNMARKED, "requires_aesthetics_score": True},
        call=_EDIT,
    ),
    "sdxl inpaint": _xl("StableDiffusionXLInpaintPipeline", "sdxl with a mask", **_PAINT),
    "sdxl unmasked inpaint": _xl("StableDiffusionXLInpaintPipeline", "sdxl", **_PAINT),
    "svd": Micro(pipeline="StableVideoDiffusionPipeline", unet="svd", shares="svd", call=_VIDEO),
    "ddpm": Micro(pipeline="DDPMPipeline", unet="ddpm", shares="ddpm", call={"output_type": "pt"}),
    "ddim": Micro(
        pipeline="DDIMPipeline", unet="ddpm", shares="ddpm", call={"output_type": "pt"}, scheduler=DDIMScheduler
    ),
}
# They do more between two steps than guidance and `step`.
OTHERS = {
    "sd controlnet": _controlled(_sd("StableDiffusionControlNetPipeline", "sd", **_PROMPT, **_IMAGE)),
    "sd controlnets": _controlled(
        _sd("StableDiffusionControlNetPipeline", "sd", **_PROMPT, image=[picture(1, 64, 64)] * 2), nets=2
    ),
    "sd controlnet img2img": _controlled(_sd("StableDiffusionControlNetImg2ImgPipeline", "sd", **_EDIT, **_CONTROL)),
    "sd controlnet inpaint": _controlled(_sd("StableDiffusionControlNetInpaintPipeline", "sd", **_PAINT, **_CONTROL)),
    "sdxl controlnet": _controlled(_xl("StableDiffusionXLControlNetPipeline", "sdxl", **_PROMPT, **_IMAGE)),
    "sdxl controlnet img2img": _controlled(
        _xl("StableDiffusionXLControlNetImg2ImgPipeline", "sdxl", **_EDIT, **_CONTROL)
    ),
    "sdxl controlnet inpaint": _controlled(
        _xl("StableDiffusionXLControlNetInpaintPipeline", "sdxl", **_PAINT, **_CONTROL)
    ),
}

MICROS = {**STRAIGHT, **OTHERS}


def with_own(micro: Micro, *parts: str) -> Any:
    """A plain pipeline of which these components, as far as it has them, are its own, to be changed."""
    pipe = micro.new()
    for part in {*parts} & pipe.components.keys():
        setattr(pipe, part, copy.deepcopy(getattr(pipe, part)))
    return pipe


def like_the_own(micro: Micro, scheduler: str | None) -> Any:
    """The pipeline's own scheduler as one of another class; None: as it is."""
    own = micro.new().scheduler
    if scheduler is None:
        return own
    # Of Karras' noise levels up to those of SVD, other classes make timesteps that repeat, which they do not stand.
    return getattr(diffusers, scheduler).from_config(own.config, clip_sample=False, use_karras_sigmas=False)


def cached(micro: Micro, **params: Any) -> Any:
    """A cached pipeline whose denoiser and ControlNets alone have engines, of the backend that is quickest here."""
    return DeepCachePipeline.from_pipe(micro.new(), **{**engines(micro), **params})


def engines(micro: Micro) -> dict[str, Any]:
    """The options of `cached`."""
    return {"backend": "onnxruntime", "components": ("controlnet",) if micro.controlnets else ()}


def draw(pipe: Any, micro: Micro, *, seed: int | list[int] = 0, **call: Any) -> torch.Tensor:
    """What one call makes: latents where the pipeline can hand them out, float32; a list of seeds is one for each."""
    torch.manual_seed(7)  # pipelines that give `step` no generator draw from torch's own
    generators = [torch.Generator().manual_seed(one) for one in (seed if isinstance(seed, list) else [seed])]
    generator = generators if isinstance(seed, list) else generators[0]
    output = pipe(**{**micro.call, "generator": generator, **call})
    drawn: torch.Tensor = output.frames if hasattr(output, "frames") else output.images
    return drawn
