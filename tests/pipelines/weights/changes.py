"""Ways in which users change the weights of a model, each of which the next image has to follow."""

from typing import Any

import torch


def write(model: Any) -> None:
    """In place, which torch counts."""
    with torch.no_grad():
        model.conv_out.weight.mul_(1.5)


def write_past_the_counter(model: Any) -> None:
    """In place as `fuse_lora` does, which torch does not count."""
    model.conv_out.weight.data.add_(model.conv_out.weight.data, alpha=0.5)


def replace_values(model: Any) -> None:
    """By another tensor."""
    model.conv_out.weight.data = model.conv_out.weight.data * 1.5
