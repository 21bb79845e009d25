"""Inpainting with a U-Net that has no channels for a mask: the pipeline pastes what is to be kept after every step.

What it pastes it has from methods of its own, which are listened to for the length of a call.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from deepcache_trt.foreign import Pipeline
from deepcache_trt.pipelines.cached_denoiser import denoiser_of
from deepcache_trt.runtime.loop_state import Known
from deepcache_trt.runtime.sampler.probe import probe_add_noise
from deepcache_trt.runtime.sampler.table import NoTable

_PREPARE = ("prepare_latents", "prepare_mask_latents")

# Channels of a U-Net that takes the latents alone.
_UNMASKED = 4


class Inpainting:
    """What a pipeline keeps of its image in one call; nothing, in a pipeline that does not paste."""

    def __init__(self, pipe: Pipeline) -> None:
        self._pipe = pipe
        self._prepared: dict[str, tuple[Any, ...]] = {}  # what the methods returned
        self.pastes = (
            all(hasattr(pipe, method) for method in _PREPARE) and denoiser_of(pipe).config.in_channels == _UNMASKED
        )

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen for the length of a block."""
        if not self.pastes:
            yield
            return
        self._pipe.__dict__ |= {method: self._heard(method) for method in _PREPARE}
        try:
            yield
        finally:
            self._pipe.scheduler.__dict__.pop("add_noise", None)
            for method in _PREPARE:
                self._pipe.__dict__.pop(method, None)

    def known(self, timesteps: Sequence[torch.Tensor], step_arguments: Mapping[str, Any]) -> Known | NoTable:
        """What is kept, with the scheduler at the first of `timesteps`, the calls of a generation; or why it is not."""
        scales = probe_add_noise(self._pipe.scheduler, timesteps, step_arguments)
        if isinstance(scales, NoTable):
            return scales
        (_, noise, image), (mask, _) = (self._prepared[method] for method in _PREPARE)
        return Known(mask=mask[: len(image)], latents=image, noise=noise, scales=scales)  # a guided mask is there twice

    def finish(self, final: torch.Tensor) -> None:
        """The loop has made the `final` latents, into which the pipeline is about to paste as if after its first step.

        What it pastes it asks `add_noise` for: let that be the result itself.
        """
        if self.pastes:
            vars(self._pipe.scheduler)["add_noise"] = lambda *_: final

    def _heard(self, method: str) -> Any:
        real = getattr(self._pipe, method)

        def prepare(*args: Any, **kwargs: Any) -> Any:
            self._prepared[method] = real(*args, **kwargs)
            return self._prepared[method]

        return prepare
