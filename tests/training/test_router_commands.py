"""`train-router` and `router plan`: from a model to a plan file that others draw with, and what they refuse."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepcache_trt.runtime.policies.plan_file import read_plan
from deepcache_trt.runtime.policies.router import Router
from deepcache_trt.runtime.policies.router_file import RouterFile, read_router, write_router
from tests.commands.command_line import Result, Run, assert_one_line
from tests.training.taught import dit_pipeline

FEW = ("--steps", 4, "--batch", 4, "--log-every", 2, "--checkpoint-every", 2)


def assert_refused(result: Result, message: str) -> None:
    assert_one_line(result)
    assert re.match(f"error: {message}", result.err)


@pytest.fixture
def dit(tmp_path: Path) -> tuple[Any, ...]:
    """A folder of a tiny DiT, and latents for it."""
    dit_pipeline().save_pretrained(tmp_path / "dit")
    latents = np.random.default_rng(0).normal(size=(6, 4, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", latents=latents, labels=np.arange(6) % 2)
    return "--model", tmp_path / "dit", "--data", tmp_path / "data.npz"


def test_a_router_of_a_dit_is_trained_stopped_and_resumed(run: Run, dit: tuple[Any, ...], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    result = run("train-router", *dit, *FEW, "--max-steps", 6, "--out", whole)
    assert (result.code, result.out) == (0, f"{whole}\n")
    assert "% of the taps are removed in cached steps at a threshold of 0.5" in result.err
    assert run("train-router", *dit, *FEW, "--max-steps", 4, "--out", parts).code == 0
    result = run("train-router", *dit, *FEW, "--max-steps", 6, "--out", parts, "--resume")
    assert result.code == 0
    assert "going on after 4 steps" in result.err
    found, expected = read_router(parts), read_router(whole)
    assert np.array_equal(found.logits, expected.logits)
    assert found.taps == ("tap_mhsa_0", "tap_mlp_0", "tap_mhsa_1", "tap_mlp_1")
    assert found.about["trained_steps"] == 6
    result = run("train-router", *dit, *FEW, "--max-steps", 6, "--lr", 0.5, "--out", parts, "--resume")
    assert_refused(result, r".*parts\.checkpoint is of a training with lr 0\.01, not 0\.5; train with the same")


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_it_had_not_been(run: Run, dit: tuple[Any, ...], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    until = ("--max-steps", 400)
    command = [sys.executable, "-m", "deepcache_trt.cli", "train-router", *dit, *FEW, *until, "--out", killed]
    with subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "killed.checkpoint").is_file():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert not killed.exists()
    result = run("train-router", *dit, *FEW, *until, "--out", killed, "--resume")
    assert "going on after" in result.err
    assert run("train-router", *dit, *FEW, *until, "--out", whole).code == 0
    assert np.array_equal(read_router(killed).logits, read_router(whole).logits)


@pytest.mark.slow
def test_the_digits_bring_their_own_data_and_generate_draws_with_the_plan(run: Run, tmp_path: Path) -> None:
    router, plan, image = tmp_path / "router.safetensors", tmp_path / "plan.json", tmp_path / "two.png"
    assert run("train-router", *FEW, "--max-steps", 2, "--out", router).code == 0
    assert run("router", "plan", router, "--threshold", 0.5, "--out", plan).code == 0
    drawn = run("generate", "two", "--steps", 4, "--plan", plan, "--backend", "torch", "--out", image)
    assert (drawn.code, image.is_file()) == (0, True)
    drawn = run("generate", "two", "--steps", 5, "--plan", plan, "--backend", "torch", "--out", image)
    assert_refused(drawn, "this router is for 4 calls of the model, and there are 5; calls come in pairs")


def test_a_router_of_the_digits_unet_makes_a_plan_and_says_what_it_removes(run: Run, tmp_path: Path) -> None:
    router, plan = tmp_path / "router.safetensors", tmp_path / "plan.json"
    latents = np.random.default_rng(0).normal(size=(4, 4, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", latents=latents, prompts=["one", "two", "three", "one"])
    trained = run("train-router", "--data", tmp_path / "data.npz", *FEW, "--max-steps", 2, "--out", router)
    assert trained.code == 0
    result = run("router", "plan", router, "--threshold", 0.5, "--out", plan)
    assert result.code == 0
    policy, about = read_plan(plan).policy, read_plan(plan).about
    assert isinstance(policy, Router)
    assert [len(mask) for mask in policy.masks] == [12, 12]
    assert result.out == f"{policy.in_words}\n{plan}\n"
    assert (about["model"], about["router"], about["threshold"]) == ("digits", "router.safetensors", 0.5)


@pytest.fixture
def router(tmp_path: Path) -> Path:
    logits = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    write_router(tmp_path / "router.safetensors", RouterFile(logits=logits, about={"model": "tiny"}))
    return tmp_path / "router.safetensors"


def test_the_bundled_dit_brings_a_router_and_a_folder_with_none_is_named(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    assert run("router", "plan", "digits-dit", "--threshold", 0.5, "--out", out).code == 0
    policy = read_plan(out).policy
    assert isinstance(policy, Router)
    assert (len(policy.masks), len(policy.masks[0])) == (10, 24)
    assert policy.removed == pytest.approx(0.646, abs=1e-3)
    assert_refused(run("router", "plan", tmp_path), f"there is no router {tmp_path}/router.safetensors")


def test_what_a_router_is_compared_with_comes_from_it(run: Run, router: Path, tmp_path: Path) -> None:
    plans = {}
    for name, options in {"own": (), "random": ("--random", 3), "all": ("--all", "--forecast", "taylor1")}.items():
        plans[name] = tmp_path / f"{name}.json"
        assert run("router", "plan", router, "--threshold", 0.4, *options, "--out", plans[name]).code == 0
    own, random, everything = (read_plan(plan).policy for plan in plans.values())
    assert own != random
    assert [plan.forecast for plan in (own, random, everything)] == [None, None, "taylor1"]  # type: ignore[attr-defined]
    assert own.removed == random.removed < everything.removed == 1  # type: ignore[attr-defined]
    assert json.loads(plans["random"].read_text())["about"]["random"] == 3


def test_a_router_of_the_original_makes_a_plan(run: Run, tmp_path: Path) -> None:
    torch.save({f"{i}.prob": torch.full([4], 5.0 - i) for i in range(10)}, tmp_path / "DDIM10_router.pt")
    result = run("router", "plan", tmp_path / "DDIM10_router.pt", "--threshold", 0.5, "--out", tmp_path / "plan.json")
    assert result.code == 0
    # The scores of entries 8 and 6 are below one half; entry 4, with 1, and those of later calls are above.
    assert read_plan(tmp_path / "plan.json").policy == Router(masks=("1111", "1111", "0000", "0000", "0000"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("router", "plan", "none.safetensors"),
            r"there is no router none\.safetensors; give a file that ",
        ),
        (("train-router", "--steps", 7), "steps=7 do not make pairs of a full and a cached step; take an even"),
        (("train-router", "--out", "router.pt"), r"--out router\.pt is no \.safetensors file, .* router\.safetensors"),
        (("train-router", "--model", "dgits"), r"unknown model 'dgits' \(did you mean 'digits'\?\)"),
    ],
)
def test_bad_input_is_one_line(run: Run, arguments: tuple[Any, ...], message: str) -> None:
    assert_refused(run(*arguments), message)


def test_bad_input_to_a_router_or_a_model_is_one_line(
    run: Run, router: Path, dit: tuple[Any, ...], tmp_path: Path
) -> None:
    assert_refused(run("router", "plan", router, "--threshold", 2), "a threshold of 2 is outside 0…1")
    assert_refused(run("router", "plan", router, "--all", "--random", 1), "--all leaves nothing to draw")
    result = run("train-router", "--model", tmp_path / "dit", *FEW, "--out", router)
    assert_refused(result, ".*dit has to be shown images of the kind that it draws; give them with --data")


def test_tensorboard_is_given_the_loss_and_the_removed_share(run: Run, dit: tuple[Any, ...], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "router.safetensors"
    assert run("train-router", *dit, *FEW, "--max-steps", 4, "--out", out, "--tensorboard", tmp_path / "log").code == 0
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert {"router/loss", "router/error", "router/removed"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("router/loss")] == [2, 4]


def test_without_tensorboard_the_option_is_refused(
    run: Run, dit: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = run("train-router", *dit, *FEW, "--out", tmp_path / "router.safetensors", "--tensorboard", tmp_path)
    assert_refused(result, "--tensorboard writes with the package tensorboard; pip install 'deepcache-trt")
    assert not list(tmp_path.glob("router*"))
