"""What pipelines around the models of `tests.tiny` draw, how two pictures differ, and which variants ran for them."""

from typing import Any

import pytest
import torch


def draw(pipe: Any, *, steps: int = 6, seed: int = 0, **call: Any) -> torch.Tensor:
    """Final latents for two images, [2, 4, H/8, W/8] float32."""
    generator = torch.Generator().manual_seed(seed)
    prompts = ["a handwritten seven", "three"]
    output = pipe(prompts, num_inference_steps=steps, generator=generator, output_type="latent", **call)
    latents: torch.Tensor = output.images
    return latents


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest, of two pictures of one shape."""
    assert a.shape == b.shape
    assert a.isfinite().all()
    return (a - b).abs().max().item()


def python_between_steps(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """A callback that changes nothing: it keeps the whole loop from running."""
    return tensors


def record_runs(engines: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the engines given, in the order in which they run from now on.

    Args:
        engines: open engines by the names that they are recorded under.
        monkeypatch: of the test, which ends the record.
    """
    ran: list[str] = []

    def recorded(name: str, run: Any) -> Any:
        def record_and_run() -> None:
            ran.append(name)
            run()

        return record_and_run

    for name, engine in engines.items():
        monkeypatch.setattr(engine, "run", recorded(name, engine.run))
    return ran
