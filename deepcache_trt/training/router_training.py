"""Training a router: the logits, their optimizer, and what a training needs to go on after it was stopped."""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray

from deepcache_trt.engines.store import write_whole
from deepcache_trt.errors import CheckpointError, DeepCacheError
from deepcache_trt.runtime.policies.router import masks_at, removed_share
from deepcache_trt.training.examples import Examples
from deepcache_trt.training.pair_loss import Teacher, loss_of_pair

_LIMIT = 5.0  # logits are kept within ± this, where a sigmoid still has a slope

HALF = 0.5  # the threshold that the share of what is removed is told at while a router is trained


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a router is trained; the defaults are the paper's.

    Attributes:
        steps: of sampling, in pairs.
        lr: of AdamW, without weight decay.
        l1: λ, what a score costs.
        batch: images of one step of training, of all processes together.
        drop: the share of images whose condition is left out, as guidance calls the model without it.
        seed: of the first logits and of all that is drawn.
    """

    steps: int = 20
    lr: float = 0.01
    l1: float = 5e-6
    batch: int = 64
    drop: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 2 or self.steps % 2:
            raise DeepCacheError(
                f"steps={self.steps} do not make pairs of a full and a cached step; take an even number, as "
                f"{max(2, self.steps + 1)}"
            )
        if self.batch < 1:
            raise DeepCacheError(f"batch must be at least 1, not {self.batch}")
        for name, least, most in (("lr", 0.0, 10.0), ("l1", 0.0, 1e6), ("drop", 0.0, 1.0)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise DeepCacheError(f"{name} must be within {least:g}…{most:g}, not {value:g}")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one step of training.

    Attributes:
        error: the mean square of what reusing changes.
        loss: with what the scores cost.
    """

    error: float
    loss: float


class RouterTraining:
    """The state of a training; each `step` goes on by one batch."""

    def __init__(self, teacher: Teacher, examples: Examples, recipe: Recipe, accelerator: Accelerator) -> None:
        """Begin.

        Args:
            teacher: on the accelerator's device.
            examples: on the CPU.
            recipe: of which `steps` are those of the teacher.
            accelerator: whose processes share each batch.

        Raises:
            DeepCacheError: a batch that the processes cannot share.
        """
        if recipe.batch % accelerator.num_processes:
            raise DeepCacheError(
                f"a batch of {recipe.batch} cannot be shared by {accelerator.num_processes} processes; take a multiple"
            )
        self._teacher, self._examples, self._recipe, self._accelerator = teacher, examples, recipe, accelerator
        self._generator = torch.Generator().manual_seed(recipe.seed)
        taps = len(teacher.architecture.taps)
        drawn = torch.randn(teacher.pairs, taps, generator=self._generator).to(accelerator.device)
        # A row is a parameter of its own: AdamW leaves alone what has no gradient, and would move rows of one tensor.
        self._rows = [torch.nn.Parameter(row.clone()) for row in drawn]
        self._optimizer = torch.optim.AdamW(self._rows, lr=recipe.lr, weight_decay=0)
        self.done = 0

    @property
    def logits(self) -> NDArray[np.float32]:
        """[pairs, taps], as they are now."""
        return torch.stack(list(self._rows)).detach().float().cpu().numpy()

    @property
    def removed(self) -> float:
        """The share of the taps of cached calls that a threshold of one half reuses."""
        return removed_share(masks_at(self.logits, HALF))

    def step(self) -> Figures:
        """Take one batch at one pair of steps.

        Every process draws the whole batch and computes its share, so that there may be any number of them.

        Raises:
            DeepCacheError: the loss is not finite.
        """
        pair = int(torch.randint(self._teacher.pairs, (1,), generator=self._generator))
        latents, noise, condition = self._examples.batch(self._recipe.batch, self._recipe.drop, self._generator)
        error, scores = loss_of_pair(
            self._teacher,
            self._rows[pair],
            pair,
            latents=self._share(latents),
            noise=self._share(noise),
            condition={name: self._share(tensor) for name, tensor in condition.items()},
        )
        loss = error + self._recipe.l1 * scores
        figures = self._mean(torch.stack([error, loss]).detach()).tolist()
        if not np.isfinite(figures).all():
            raise DeepCacheError(
                f"the loss of step {self.done + 1} is {figures[1]}; check the data, or take a smaller --lr than "
                f"{self._recipe.lr:g}"
            )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradient = self._rows[pair].grad
        assert gradient is not None, "the loss depends on the logits of its pair"
        gradient.copy_(self._mean(gradient))
        self._optimizer.step()
        with torch.no_grad():
            self._rows[pair].clamp_(-_LIMIT, _LIMIT)
        self.done += 1
        return Figures(error=figures[0], loss=figures[1])

    def _share(self, batch: torch.Tensor) -> torch.Tensor:
        """What this process takes of a batch."""
        return batch[self._accelerator.process_index :: self._accelerator.num_processes].to(self._accelerator.device)

    def _mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """Over all processes."""
        mean: torch.Tensor = self._accelerator.reduce(tensor, reduction="mean")
        return mean

    def save(self, path: Path, about: Mapping[str, Any]) -> None:
        """Write all that going on needs, whole or not at all.

        Args:
            path: of the checkpoint.
            about: what has to be the same for that, beside the recipe.

        Raises:
            DeepCacheError: it cannot be written.
        """
        buffer = io.BytesIO()
        state = {
            "must be": {**about, **asdict(self._recipe)},
            "done": self.done,
            "rows": [row.detach().cpu() for row in self._rows],
            "optimizer": self._optimizer.state_dict(),
            "generator": self._generator.get_state(),
        }
        torch.save(state, buffer)
        try:
            write_whole(path, buffer.getvalue())
        except OSError as error:
            raise DeepCacheError(f"cannot write {path}: {error.strerror}; choose another --out") from error

    def resume(self, path: Path, about: Mapping[str, Any]) -> None:
        """Go on from what `save` wrote, as if there had been no stop.

        Raises:
            CheckpointError: no such file, or a training of something else.
        """
        cure = "train with the same options, or leave --resume out to begin anew"
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            written = state["must be"]
        except Exception as error:  # whatever the unpickler meets in a file that it is not made for
            raise CheckpointError(f"{path} is no checkpoint of a training of a router; {cure}") from error
        for name, value in {**about, **asdict(self._recipe)}.items():
            if written.get(name) != value:
                raise CheckpointError(f"{path} is of a training with {name} {written.get(name)}, not {value}; {cure}")
        with torch.no_grad():
            for row, trained in zip(self._rows, state["rows"], strict=True):
                row.copy_(trained)
        self._optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self.done = state["done"]
