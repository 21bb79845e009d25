"""Draw one picture with caching and without: the class that loads the pipeline is the one line that changes.

    python examples/drop_in.py

The first picture waits until the engines are built; they are kept, and the next run finds them.
"""

import torch
from diffusers.utils import make_image_grid

from deepcache_trt import DeepCachePipeline


def main(model: str = "digits", prompt: str = "a handwritten seven", steps: int = 50, out: str = "drop-in.png") -> None:
    """Draw `prompt` with plain diffusers, on the left, and with caching.

    Args:
        model: a hub id, a folder, or a name of the catalogue; "digits" is bundled.
        prompt: of both pictures.
        steps: denoising steps.
        out: the PNG.
    """
    pipe = DeepCachePipeline.from_pretrained(model, dtype=torch.float32, cache_interval=3, cache_branch_id=0)
    if torch.cuda.is_available():
        pipe.to("cuda")

    cached = pipe(prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(0)).images[0]
    print(f"{pipe.last_run.way}: {pipe.last_run.seconds['total']:.2f} s, building included")

    pipe.disable_cache()  # plain diffusers from here on
    plain = pipe(prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(0)).images[0]
    make_image_grid([plain, cached], rows=1, cols=2).save(out)


if __name__ == "__main__":
    main()
