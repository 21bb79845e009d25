"""Pictures that others begin with: img2img and inpainting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from deepcache_trt.benchmarks.experiments.comparison.samples import Samples
from deepcache_trt.benchmarks.fidelity.scores import images_in
from deepcache_trt.errors import DeepCacheError, UnknownNameError, UnsupportedError, did_you_mean
from deepcache_trt.models.definitions.pipelines import IMAGE, INPAINT, TASKS, TEXT, class_for_task


@dataclass(frozen=True, kw_only=True)
class Start:
    """What pictures are made of, beside prompts.

    Attributes:
        task: img2img or inpaint.
        images: a picture for all prompts, or a folder with one for each, by name.
        masks: likewise, white where is painted; None for img2img.
        strength: how much is drawn anew, up to 1: all.
    """

    task: str
    images: Path
    masks: Path | None = None
    strength: float

    @cached_property
    def _pictures(self) -> tuple[Sequence[Any], Sequence[Any]]:
        return _read(self.images, "RGB"), ([] if self.masks is None else _read(self.masks, "L"))

    def check(self, prompts: int) -> None:
        """Raise DeepCacheError where there are not as many pictures as prompts, or they are not of one size."""
        images, masks = self._pictures
        for option, path, own in (("--images", self.images, images), ("--masks", self.masks, masks)):
            if path is not None and len(own) not in (1, prompts):
                raise DeepCacheError(f"{option} {path} has {len(own)} pictures for {prompts} prompts; give one of each")
        sizes = sorted({picture.size for picture in (*images, *masks)})
        if len(sizes) > 1:
            (width, height), (wide, high) = sizes[:2]
            raise DeepCacheError(
                f"--images {self.images}: pictures and masks are of {width}×{height} and of {wide}×{high} pixels, and "
                "are drawn in batches; give them in one size"
            )

    def pipeline_class(self, plain: Any) -> Any:
        """That of diffusers for the task, by the one that draws from prompts alone.

        Raises:
            UnsupportedError: there is none.
        """
        found = class_for_task(self.task, plain)
        if found is None:
            raise UnsupportedError(
                f"diffusers has no {self.task} for a {plain.__name__}; choose another --task or model"
            )
        return found

    def arguments(self, samples: Samples, indices: range) -> Mapping[str, Any]:
        """Of the pipeline's call, for a batch of samples."""
        images, masks = self._pictures
        numbers = [index // samples.seeds for index in indices]
        found: dict[str, Any] = {"image": [images[number % len(images)] for number in numbers]}
        if masks:
            found["mask_image"] = [masks[number % len(masks)] for number in numbers]
        return {**found, "strength": self.strength}


def start_from(task: str, images: Path | None, masks: Path | None, strength: float) -> Start | None:
    """What is asked for; None: prompts alone.

    Raises:
        UnknownNameError: no such task.
        DeepCacheError: one that lacks its pictures, or has some that it does not use.
    """
    if task not in TASKS:
        raise UnknownNameError(f"unknown task {task!r}{did_you_mean(task, list(TASKS))}; there are {', '.join(TASKS)}")
    needed = {TEXT: (), IMAGE: ("--images",), INPAINT: ("--images", "--masks")}[task]
    for option, value in {"--images": images, "--masks": masks}.items():
        if value is None and option in needed:
            raise DeepCacheError(f"--task {task} needs {option}; give a picture or a folder")
        if value is not None and option not in needed:
            raise DeepCacheError(f"--task {task} takes no {option}; leave it out, or choose another task")
    if not 0 < strength <= 1:
        raise DeepCacheError(f"strength {strength:g} is outside 0…1; 1 draws all anew")
    return None if images is None else Start(task=task, images=images, masks=masks, strength=strength)


def _read(path: Path, mode: str) -> list[Any]:
    from PIL import Image

    files = images_in(path) if path.is_dir() else [path]
    found = []
    for file in files:
        try:
            with Image.open(file) as image:
                found.append(image.convert(mode))
        except OSError as error:
            raise DeepCacheError(f"cannot read {file}: {error}; give PNG or JPEG") from error
    return found
