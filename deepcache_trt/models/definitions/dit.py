"""DiT as its authors sample it (Peebles and Xie 2023): guidance goes to the first three of the four channels.

Their code says that the fourth is left as it is predicted with the label so that pictures can be reproduced; what was
published of DiT, and of routers for it, is of such pictures. diffusers' `DiTPipeline` guides all channels.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiTPipeline, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from deepcache_trt.models.definitions.guided import GuidedCall


class OriginalDiTPipeline(GuidedCall, DiTPipeline):
    """Images of classes, from the components of a `DiTPipeline`, guided as the originals are."""

    transformer: Any
    vae: Any
    scheduler: Any
    _execution_device: Any
    progress_bar: Any
    maybe_free_model_hooks: Any

    guided_channels: int = 3

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int],
        guidance_scale: float = 4.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Draw one image for each label.

        Args:
            class_labels: from 0 on.
            guidance_scale: how far to go from the prediction without a class to that with it, and beyond, in the first
                `guided_channels` of the latents; at 1 or less there is no guidance.
            generator: of the first latents and of what the scheduler draws.
            num_inference_steps: of the scheduler.
            eta: how much of DDPM's noise DDIM adds, from 0 to 1; other schedulers have none.
            output_type: "pil", "np", "pt", or "latent", which leaves decoding out.
            return_dict: an `ImagePipelineOutput`, or a tuple of its images.
        """
        self._guidance_scale, self._interrupt = guidance_scale, False
        config, device = self.transformer.config, self._execution_device
        labels = torch.as_tensor(class_labels, device=device).reshape(-1)
        if self.do_classifier_free_guidance:
            labels = torch.cat([torch.full_like(labels, config.num_embeds_ada_norm), labels])
        latents = randn_tensor(
            (len(class_labels), config.in_channels, config.sample_size, config.sample_size),
            generator=generator,
            device=device,
            dtype=self.transformer.dtype,
        )
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = latents * self.scheduler.init_noise_sigma
        accepted = inspect.signature(self.scheduler.step).parameters
        extra = {name: each for name, each in (("eta", eta), ("generator", generator)) if name in accepted}
        timesteps = self.scheduler.timesteps
        with self.progress_bar(total=len(timesteps)) as bar:
            for t in timesteps:
                if not self.interrupt:
                    predicted = self._predict(latents, t, labels)
                    latents = self.scheduler.step(predicted, t, latents, **extra, return_dict=False)[0]
                bar.update()
        images = latents
        if output_type != "latent":
            decoded = self.vae.decode(latents / self.vae.config.scaling_factor).sample
            images = VaeImageProcessor().postprocess(decoded, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _predict(self, latents: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """The noise, with guidance: [B, C, H, W] from latents of that shape; a learned variance is left out."""
        given = self.scheduler.scale_model_input(torch.cat([latents] * (len(labels) // len(latents))), t)
        output = self.transformer(given, timestep=t.expand(len(given)), class_labels=labels, return_dict=False)[0]
        predicted: Tensor = output[:, : latents.shape[1]]
        if not self.do_classifier_free_guidance:
            return predicted
        without, with_label = predicted.chunk(2)
        guided = without + self.guidance_scale * (with_label - without)
        return torch.cat([guided[:, : self.guided_channels], with_label[:, self.guided_channels :]], dim=1)
