"""Training a router: what a step changes, what λ does, and a stop that leaves no trace."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepcache_trt.errors import CheckpointError, DeepCacheError
from deepcache_trt.training.examples import Examples
from deepcache_trt.training.router_training import Recipe, RouterTraining
from tests.training.taught import STEPS, examples, training

ABOUT = {"model": "tiny"}


def advanced(trained: RouterTraining, steps: int) -> RouterTraining:
    for _ in range(steps):
        trained.step()
    return trained


def test_logits_start_normal_by_the_seed_and_a_step_changes_one_row() -> None:
    trained = training(lr=0.1)
    before = trained.logits
    assert before.shape == (STEPS // 2, 8)
    assert 0.5 < before.std() < 1.5
    assert np.array_equal(before, training().logits)
    assert not np.array_equal(before, training(seed=1).logits)
    for _ in range(5):  # AdamW would move the others by what it remembers of their gradients
        figures = trained.step()
        changed = (trained.logits != before).any(axis=1)
        assert changed.sum() == 1
        assert figures.loss > figures.error > 0
        before = trained.logits


def test_logits_stay_within_five() -> None:
    trained = advanced(training(lr=9.0, l1=1.0), 12)
    assert np.abs(trained.logits).max() == 5


def test_the_share_that_is_removed_grows_with_what_scores_cost() -> None:
    shares = [advanced(training(lr=0.3, l1=l1), 40).removed for l1 in (0.0, 1e-5, 10.0)]
    assert shares == sorted(shares)
    assert shares[0] < 0.5 < shares[-1] == 1


@pytest.mark.parametrize("stopped", [0, 3])
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(stopped: int, tmp_path: Path) -> None:
    whole = advanced(training(lr=0.1), 10)
    advanced(training(lr=0.1), stopped).save(tmp_path / "checkpoint", ABOUT)
    resumed = training(lr=0.1)
    resumed.resume(tmp_path / "checkpoint", ABOUT)
    assert resumed.done == stopped
    advanced(resumed, 10 - stopped)
    assert np.array_equal(resumed.logits, whole.logits)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize(
    ("changes", "about", "message"),
    [
        ({"lr": 0.2}, ABOUT, "is of a training with lr 0.01, not 0.2; train with the same options, or leave --resume"),
        ({"seed": 3}, ABOUT, "with seed 0, not 3"),
        ({}, {"model": "other"}, "with model tiny, not other"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    changes: dict[str, Any], about: dict[str, str], message: str, tmp_path: Path
) -> None:
    training().save(tmp_path / "checkpoint", ABOUT)
    with pytest.raises(CheckpointError, match=message):
        training(**changes).resume(tmp_path / "checkpoint", about)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_text("nothing")
    with pytest.raises(CheckpointError, match=r"checkpoint is no checkpoint of a training of a router; train with"):
        training().resume(tmp_path / "checkpoint", ABOUT)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 7}, "steps=7 do not make pairs of a full and a cached step; take an even number, as 8"),
        ({"steps": 0}, "steps=0 do not make pairs .* as 2"),
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"lr": float("nan")}, "lr must be within 0…10, not nan"),
        ({"l1": -1.0}, r"l1 must be within 0…1e\+06, not -1"),
        ({"drop": 1.5}, "drop must be within 0…1, not 1.5"),
    ],
)
def test_a_recipe_that_makes_no_router_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DeepCacheError, match=message):
        Recipe(**given)


def test_a_share_of_the_labels_is_dropped() -> None:
    generator = torch.Generator().manual_seed(0)
    dropped = [
        float((examples().batch(2000, drop, generator)[2]["class_labels"] == 3).float().mean()) for drop in (0, 0.1, 1)
    ]
    assert dropped == pytest.approx([0, 0.1, 1], abs=0.03)


def test_latents_that_are_not_finite_are_refused() -> None:
    latents = torch.full([2, 4, 8, 8], torch.nan)
    with pytest.raises(DeepCacheError, match="the latents of the data are not all finite"):
        Examples(latents=latents, rows=torch.zeros(2, dtype=torch.int64))
