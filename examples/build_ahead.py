"""Build a model's engines ahead of time, and draw where nothing may be built.

    python examples/build_ahead.py

Building takes time and memory that a server does not have when a request comes in. So build once, in the image of a
container or on a shared disk, and load with `build="never"`: what is missing is then refused, with the command.
"""

import subprocess
import sys

import torch

from deepcache_trt import DeepCachePipeline


def main(
    model: str = "digits",
    prompt: str = "a handwritten four",
    steps: int = 50,
    backend: str = "auto",
    store: str = "engines",
    out: str = "build-ahead.png",
) -> None:
    """Build into a folder and draw from there.

    Args:
        model: a hub id, a folder, or a name of the catalogue; "digits" is bundled.
        prompt: of the picture.
        steps: denoising steps.
        backend: "auto", or a name that `deepcache-trt doctor` lists.
        store: the folder of the engines; build and draw on machines with the same GPU or kind of CPU.
        out: the PNG.
    """
    # In a shell: deepcache-trt build --model digits --dtype float32 --store engines
    # TensorRT also wants the sizes: --size 1024 --batch 1-4. For a GPU elsewhere: --backend tensorrt-rtx --target sm86.
    command = ["build", "--model", model, "--dtype", "float32", "--backend", backend, "--store", store]
    subprocess.run([sys.executable, "-m", "deepcache_trt.cli", *command], check=True)

    pipe = DeepCachePipeline.from_pretrained(
        model, dtype=torch.float32, cache_interval=3, backend=backend, store=store, build="never"
    )
    if torch.cuda.is_available():
        pipe.to("cuda")
    image = pipe(prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(0)).images[0]
    image.save(out)


if __name__ == "__main__":
    main()
