"""How well the pictures of a folder fit their prompts, as DeepCache takes it."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from deepcache_trt.benchmarks.experiments.experiment import Experiment, Findings, Job
from deepcache_trt.benchmarks.experiments.options import Prompts
from deepcache_trt.errors import DeepCacheError


@dataclass(frozen=True, kw_only=True)
class _Options(Prompts):
    images: Annotated[Path | None, "A folder of PNG or JPEG: by name, as many of each prompt in turn."] = None
    clip_model: Annotated[str, "An architecture of open_clip."] = "ViT-g-14"  # as DeepCache
    clip_weights: Annotated[str, "Of it: a name of open_clip, which downloads them once, or a file."] = (
        "laion2b_s34b_b88k"
    )


def _find(options: _Options, job: Job) -> Findings:
    import numpy as np
    from PIL import Image

    from deepcache_trt.benchmarks.fidelity.scores import ClipScore, images_in

    if options.images is None:
        raise DeepCacheError("clip-score needs --images, the folder with the pictures; give it")
    if not options.images.is_dir():
        raise DeepCacheError(f"--images {options.images} is no folder; give the one with the pictures")
    if not options.prompt:
        raise DeepCacheError("there are no prompts; give the ones of the pictures with --prompt-file")
    files = images_in(options.images)
    if not files or len(files) % len(options.prompt):
        raise DeepCacheError(
            f"{options.images} has {len(files)} pictures for {len(options.prompt)} prompts; give as many of each prompt"
        )
    each = len(files) // len(options.prompt)
    score = ClipScore.loaded(options.clip_model, options.clip_weights)
    job.folder.begin()
    lines, scores = list[dict[str, Any]](), list[float]()
    with job.progress(f"scoring {len(files):,} pictures") as report:
        for index, file in enumerate(files[: job.limit]):
            prompt = options.prompt[index // each]
            try:
                with Image.open(file) as image:
                    picture = np.asarray(image.convert("RGB"), dtype=np.float32).transpose(2, 0, 1) / 255
            except OSError as error:
                raise DeepCacheError(f"cannot read {file}: {error}; draw it again, or take it away") from error
            scores.append(score(picture[None], [prompt]))
            lines.append({"image": file.name, "prompt": prompt, "clip_score": scores[-1]})
            report(done=index + 1, total=len(files))
    job.folder.write_samples(lines)
    spread = f"{statistics.stdev(scores):.2f}" if len(scores) > 1 else ""
    return Findings(
        header=["", "pictures", "CLIP score", "deviation"],
        lines=[[options.images.name, f"{len(scores):,}", f"{statistics.mean(scores):.2f}", spread]],
        remarks=[f"open_clip {options.clip_model}, {options.clip_weights}: 100 · the cosine, but at least 0"],
    )


EXPERIMENT = Experiment(
    name="clip-score",
    says="How well the pictures of a folder fit their prompts, by open_clip.",
    options=_Options,
    find=_find,
)
