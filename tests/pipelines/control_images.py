"""Images that steer ControlNets."""

import torch


def control(seed: int = 0, *, height: int = 64, width: int = 64) -> torch.Tensor:
    """A control image of black and coloured squares, [1, 3, H, W] float32."""
    squares = torch.rand(1, 3, height // 16, width // 16, generator=torch.Generator().manual_seed(seed)).round()
    return squares.repeat_interleave(16, 2).repeat_interleave(16, 3)
