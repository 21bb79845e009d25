"""Cache a pipeline that you have already, with the interface of the DeepCache package: one import changes.

    python examples/deepcache_sd_helper.py

What `disable` leaves is the pipeline as it came.
"""

import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import make_image_grid

from deepcache_trt import DeepCacheSDHelper  # instead of: from DeepCache import DeepCacheSDHelper
from deepcache_trt.models.catalogue import resolve


def main(model: str = "digits", prompt: str = "a handwritten three", steps: int = 50, out: str = "helper.png") -> None:
    """Draw `prompt` cached and, after `disable`, plain.

    Args:
        model: a hub id, a folder, or a name of the catalogue, for which `resolve` gives its folder or hub id.
        prompt: of both pictures.
        steps: denoising steps.
        out: the PNG: plain on the left, cached on the right.
    """
    pipe = StableDiffusionPipeline.from_pretrained(resolve(model), dtype=torch.float32, use_safetensors=True)

    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=3, cache_branch_id=0)
    helper.enable()
    cached = pipe(prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(0)).images[0]

    helper.disable()
    plain = pipe(prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(0)).images[0]
    make_image_grid([plain, cached], rows=1, cols=2).save(out)


if __name__ == "__main__":
    main()
