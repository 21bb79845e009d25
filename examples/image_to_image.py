"""Draw a picture from words, then another one from that picture: two pipelines on one model share its open engines.

    python examples/image_to_image.py

The second pipeline builds no engine and loads none: it has those of the first.
"""

import torch
from diffusers.utils import make_image_grid

from deepcache_trt import DeepCachePipeline
from deepcache_trt.pipelines import DeepCacheStableDiffusionImg2ImgPipeline


def main(
    model: str = "digits",
    prompt: str = "a handwritten one",
    then: str = "a handwritten seven",
    strength: float = 0.7,
    steps: int = 50,
    out: str = "image-to-image.png",
) -> None:
    """Draw `prompt`, and turn the picture into `then`.

    Args:
        model: a hub id, a folder, or a name of the catalogue; of the family of Stable Diffusion 1 and 2.
        prompt: of the first picture.
        then: of the second one.
        strength: how much of the first picture may change, 0 to 1.
        steps: denoising steps; the second picture takes `strength` of them.
        out: the PNG with both pictures.
    """
    text_to_image = DeepCachePipeline.from_pretrained(model, dtype=torch.float32, cache_interval=3)
    first = text_to_image(prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(0)).images[0]

    # The same components, cached as the first pipeline is.
    image_to_image = DeepCacheStableDiffusionImg2ImgPipeline.from_pipe(text_to_image)
    second = image_to_image(
        then, image=first, strength=strength, num_inference_steps=steps, generator=torch.Generator().manual_seed(1)
    ).images[0]
    make_image_grid([first, second], rows=1, cols=2).save(out)


if __name__ == "__main__":
    main()
