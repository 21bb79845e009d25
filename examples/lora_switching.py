"""Switch between LoRAs: engines follow `set_adapters`, and the way back gives the first picture again, bit for bit.

    python examples/lora_switching.py FOLDER-OR-HUB-ID FOLDER-OR-HUB-ID

The model that they were trained for is downloaded from the hub: Stable Diffusion 1.5, unless `main` is given another.
"""

import sys

import numpy as np
import torch
from diffusers.utils import make_image_grid

from deepcache_trt import DeepCachePipeline


def main(
    *loras: str,
    model: str = "sd15",
    prompt: str = "an astronaut riding a horse",
    steps: int = 50,
    scale: float = 0.8,
    out: str = "loras.png",
) -> None:
    """Draw `prompt` with each LoRA in turn, and with the first one again.

    Args:
        loras: at least two of them, trained for `model`; what `load_lora_weights` of diffusers takes.
        model: a hub id, a folder, or a name of the catalogue.
        prompt: of every picture.
        steps: denoising steps.
        scale: how strongly each LoRA counts.
        out: the PNG with the pictures side by side.
    """
    pipe = DeepCachePipeline.from_pretrained(model, dtype=torch.float32, cache_interval=3)
    names = [f"lora_{i}" for i in range(len(loras))]
    for name, lora in zip(names, loras, strict=True):
        pipe.load_lora_weights(lora, adapter_name=name)

    images = []
    for name in [*names, names[0]]:
        pipe.set_adapters(name, scale)
        # On TensorRT, `refit=True` for from_pretrained gives the engines new weights instead of building others.
        generator = torch.Generator().manual_seed(0)
        images.append(pipe(prompt, num_inference_steps=steps, generator=generator).images[0])
    print("the first picture again, bit for bit:", np.array_equal(images[0], images[-1]))
    make_image_grid(images, rows=1, cols=len(images)).save(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
