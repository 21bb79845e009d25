"""A pipeline for each request, as servers of diffusers copy it."""

import copy
from typing import Any

import torch

from tests.pipelines import micro


def copied(pipe: Any) -> Any:
    """With the models of `pipe`, and nothing that a call changes."""
    other = copy.copy(pipe)
    other.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    other.tokenizer = copy.deepcopy(pipe.tokenizer)
    return other


def draw(pipe: Any, *, steps: int = 5, seed: int = 0) -> torch.Tensor:
    """An image of the smallest Stable Diffusion."""
    return micro.draw(pipe, micro.STRAIGHT["sd"], num_inference_steps=steps, seed=seed)


def unused(text_encoder: Any) -> Any:
    """A new one that has never run in PyTorch: transformers hangs hooks into it then that nobody can pickle."""
    return type(text_encoder)(text_encoder.config).eval()
