"""Search how to cache within a budget, keep what was found as a plan file, and draw with it.

    python examples/plan_file.py

A plan file is small JSON, such as {"cache_interval": 3, "skip_mode": "quad", "forecast": "taylor1"}: one that you
write yourself is read as well.
"""

import subprocess
import sys
from pathlib import Path

import torch
from diffusers.utils import make_image_grid

from deepcache_trt import DeepCachePipeline


def main(
    model: str = "digits",
    prompt: str = "a handwritten eight",
    budget: float = 0.3,
    steps: int = 20,
    seeds: int = 2,
    backend: str = "auto",
    folder: str = "tuned",
    out: str = "plan-file.png",
) -> None:
    """Tune a plan for `steps` steps, and draw with it.

    Args:
        model: a hub id, a folder, or a name of the catalogue; "digits" is bundled.
        prompt: of the pictures.
        budget: the share of the uncached operations that a picture may take.
        steps: denoising steps; a plan is found for their number.
        seeds: batches that plans are chosen by, and as many that the chosen one is checked on.
        backend: "auto", or a name that `deepcache-trt doctor` lists.
        folder: for plan.json, and for the report with the plot.
        out: the PNG: uncached on the left, with the plan on the right.
    """
    # In a shell: deepcache-trt tune --model digits --macs 0.3 --steps 20 --seeds 2 --unseen 2 --out tuned
    command = ["tune", "--model", model, "--macs", budget, "--steps", steps, "--seeds", seeds, "--unseen", seeds]
    command += ["--backend", backend, "--out", folder]
    subprocess.run([sys.executable, "-m", "deepcache_trt.cli", *map(str, command)], check=True)

    plan = Path(folder) / "plan.json"
    pipe = DeepCachePipeline.from_pretrained(model, dtype=torch.float32, backend=backend, plan=plan)
    print(pipe.cache_params)
    with_plan = pipe(prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(0)).images[0]
    pipe.set_cache_params(cache_interval=1)  # nothing is cached
    uncached = pipe(prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(0)).images[0]
    make_image_grid([uncached, with_plan], rows=1, cols=2).save(out)


if __name__ == "__main__":
    main()
