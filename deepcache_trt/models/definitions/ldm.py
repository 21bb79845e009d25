"""Latent diffusion of classes (Rombach et al. 2022): a pipeline and the embedding of its classes.

diffusers has latent diffusion of text only. This pipeline is called as its `DiTPipeline` is. By `ModelMixin` in this
module diffusers finds out how the embedding is loaded.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ImagePipelineOutput, ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from deepcache_trt.models.definitions.guided import GuidedCall


class ClassEmbedder(ModelMixin, ConfigMixin):
    """Classes as what a U-Net attends to."""

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers has no types here
    def __init__(self, num_classes: int = 1001, embed_dim: int = 512) -> None:
        """Untrained; the last class stands for none."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.embedding = nn.Embedding(num_classes, embed_dim)

    def forward(self, class_labels: Tensor) -> Tensor:
        """[B, 1, embed_dim] from [B] int64."""
        embedded: Tensor = self.embedding(class_labels)[:, None]
        return embedded


class LDMClassToImagePipeline(GuidedCall, DiffusionPipeline):
    """Images of classes, by latents that are looked up in a codebook before they are decoded."""

    unet: Any
    vqvae: Any
    class_embedder: Any
    scheduler: Any
    model_cpu_offload_seq: Any = "class_embedder->unet->vqvae"

    def __init__(self, unet: Any, vqvae: Any, class_embedder: ClassEmbedder, scheduler: Any) -> None:
        """Of a UNet2DConditionModel that attends to one token, a VQModel, and any scheduler."""
        super().__init__()
        self.register_modules(unet=unet, vqvae=vqvae, class_embedder=class_embedder, scheduler=scheduler)  # type: ignore[no-untyped-call]
        self.image_processor = VaeImageProcessor(vae_scale_factor=2 ** (len(vqvae.config.block_out_channels) - 1))

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Sequence[int],
        guidance_scale: float = 1.5,
        num_inference_steps: int = 250,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Draw one image for each label.

        Args:
            class_labels: from 0 on; the embedding's last class is none, which guidance uses.
            guidance_scale: how far to go from the prediction without a class to that with it, and beyond; at 1 or less
                there is no guidance.
            num_inference_steps: of the scheduler.
            eta: how much of DDPM's noise DDIM adds, from 0 to 1; other schedulers have none.
            generator: of the first latents and of what the scheduler draws.
            output_type: "pil", "np", "pt", or "latent", which leaves decoding out.
            return_dict: an `ImagePipelineOutput`, or a tuple of its images.

        Raises:
            ValueError: a label that is no class.
        """
        self._guidance_scale, self._interrupt = guidance_scale, False
        classes, device = self._condition(class_labels), self._execution_device
        config = self.unet.config
        latents = randn_tensor(
            (len(class_labels), config.in_channels, config.sample_size, config.sample_size),
            generator=generator,
            device=device,
            dtype=self.unet.dtype,
        )
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        latents = latents * self.scheduler.init_noise_sigma
        extra = self._accepted_by_step(eta=eta, generator=generator)
        timesteps = self.scheduler.timesteps
        with self.progress_bar(total=len(timesteps)) as bar:
            for t in timesteps:
                if not self.interrupt:
                    predicted = self._predict(latents, t, classes)
                    latents = self.scheduler.step(predicted, t, latents, **extra, return_dict=False)[0]
                bar.update()
        images = latents
        if output_type != "latent":
            images = self.image_processor.postprocess(self.decode(latents), output_type=output_type)
        self.maybe_free_model_hooks()  # type: ignore[no-untyped-call]
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, f*H, f*W] in [-1, 1] from latents [B, C, H, W].

        What `vqvae.decode` does, but image by image, as there is a distance from each latent to each code, and in full
        precision, as torch has no distances in half.
        """
        codebook = self.vqvae.quantize.embedding.weight
        codes = []
        for latent in latents / self.vqvae.config.scaling_factor:
            pixels = latent.permute(1, 2, 0)  # [H, W, C]
            nearest = torch.cdist(pixels.flatten(0, 1).float(), codebook.float()).argmin(dim=1)
            codes.append(codebook[nearest].reshape(pixels.shape).permute(2, 0, 1))
        decoded: Tensor = self.vqvae.decode(torch.stack(codes), force_not_quantize=True).sample
        return decoded

    def _condition(self, class_labels: Sequence[int]) -> Tensor:
        """What the U-Net attends to: [B, 1, embed_dim], or [2 * B, 1, embed_dim], those of no class first."""
        none = self.class_embedder.config.num_classes - 1
        labels = torch.as_tensor(class_labels, dtype=torch.int64, device=self._execution_device).reshape(-1)
        for label in labels.tolist():
            if not 0 <= label < none:
                raise ValueError(f"{label} is no class; there are 0 to {none - 1}")
        if self.do_classifier_free_guidance:
            labels = torch.cat([torch.full_like(labels, none), labels])
        condition: Tensor = self.class_embedder(labels).to(self.unet.dtype)
        return condition

    def _predict(self, latents: Tensor, t: Tensor, classes: Tensor) -> Tensor:
        """The model's output, with guidance: [B, C, H, W] from latents of that shape."""
        given = torch.cat([latents] * 2) if self.do_classifier_free_guidance else latents
        given = self.scheduler.scale_model_input(given, t)
        predicted: Tensor = self.unet(given, t, encoder_hidden_states=classes, return_dict=False)[0]
        if not self.do_classifier_free_guidance:
            return predicted
        unconditional, conditional = predicted.chunk(2)
        return unconditional + self.guidance_scale * (conditional - unconditional)

    def _accepted_by_step(self, **given: Any) -> dict[str, Any]:
        """Those that the scheduler's `step` has arguments for."""
        accepted = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in given.items() if name in accepted}
