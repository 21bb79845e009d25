"""Draw along the edges of a picture: a ControlNet goes with caching as it is.

    python examples/controlnet.py edges.png

The defaults are downloaded from the hub. The U-Net gets engines that take the ControlNet's residuals, and the
ControlNet engines of its own; at a cached step only those residuals are computed that the shallow layers read.
"""

import sys

import torch
from diffusers import ControlNetModel
from diffusers.utils import load_image

from deepcache_trt.pipelines import DeepCacheStableDiffusionControlNetPipeline


def main(
    edges: str,
    model: str = "sd15",
    controlnet: str = "lllyasviel/control_v11p_sd15_canny",
    prompt: str = "a bird on a branch, photograph",
    steps: int = 50,
    out: str = "controlnet.png",
) -> None:
    """Draw `prompt` along `edges`.

    Args:
        edges: a picture, file or address, of what the ControlNet was trained on: white edges on black, here.
        model: a hub id, a folder, or a name of the catalogue.
        controlnet: a hub id or a folder; trained for `model`.
        prompt: of the picture.
        steps: denoising steps.
        out: the PNG, as large as `edges`.
    """
    pipe = DeepCacheStableDiffusionControlNetPipeline.from_pretrained(
        model,
        controlnet=ControlNetModel.from_pretrained(controlnet, dtype=torch.float32),
        dtype=torch.float32,
        cache_interval=3,
    )
    image = pipe(
        prompt, image=load_image(edges), num_inference_steps=steps, generator=torch.Generator().manual_seed(0)
    ).images[0]
    image.save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
