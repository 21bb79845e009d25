"""Engines of routers: what each mask computes on segments is what the model computes with hooks."""

import functools
from typing import Any

import numpy as np
import pytest
import torch

from deepcache_trt.builder.component import Component, from_architecture
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.builder.pieces import assemble
from deepcache_trt.engines.store import Store
from deepcache_trt.models.architecture import OUTPUT
from deepcache_trt.progress import logged
from deepcache_trt.runtime.policies import Router
from deepcache_trt.runtime.policies.router import all_reused, masks_at, random_masks
from tests import tiny
from tests.builder.hooked import BATCH, Hooked, called, dit, starting
from tests.builder.small_builds import on_cpu

PAIRS = 10


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("routers"))


def routers(taps: int) -> list[Router]:
    logits = np.random.default_rng(0).normal(size=(PAIRS, taps)).astype(np.float32)
    masks = masks_at(logits, 0.6)
    return [Router(masks=each) for each in (masks, random_masks(masks, 1), all_reused(masks), masks_at(logits, 0))]


def taps_of(component: Component) -> int:
    return len(component.architecture.taps)


@pytest.mark.parametrize("policy", routers(taps_of(dit())), ids=["learned", "random", "all", "none"])
def test_a_router_of_a_dit_is_the_model_with_hooks(policy: Router, store: Store) -> None:
    session = open_session(dit(), policy, on_cpu(store), sizes={"batch": BATCH})
    hooked, sample = Hooked(dit(), policy), starting()
    session.begin()
    for call, variant in enumerate(policy.plan(2 * PAIRS).variants):
        tensors = called(sample, torch.tensor(950 - 45 * call))
        expected = hooked(variant, tensors)
        found = session.run(variant, tensors, {"batch": BATCH})[OUTPUT]
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
        sample = sample - 0.05 * expected
    session.close()


@functools.cache
def unet() -> Component:
    """One block, whose four taps are each made of those with higher numbers."""
    model_class, config = tiny.ARCHITECTURES["ddpm"]
    block = {"layers_per_block": 3, "block_out_channels": (8,), "norm_num_groups": 4, "add_attention": False}
    kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    return from_architecture(model_class, {**config, **block, **kinds}, name="tiny", part="unet", dtype="float32")


UNET = Router(masks=("1000", "0010", "1011", "0011", "0001", "0000"))


@pytest.mark.parametrize("target", [on_cpu, lambda store: on_cpu(store, segments=False)])
def test_a_router_of_a_unet_may_reuse_several_taps_at_once(target: Any, store: Store) -> None:
    sizes = {"batch": 2, "height": 8, "width": 8}
    session = open_session(unet(), UNET, target(store), sizes=sizes)
    hooked, sample = Hooked(unet(), UNET), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    session.begin()
    for call, variant in enumerate(UNET.plan(2 * len(UNET.masks)).variants):
        tensors = {"sample": sample, "timestep": torch.tensor([900.0 - 50 * call])}
        expected = hooked(variant, tensors)
        found = session.run(variant, tensors, sizes)[OUTPUT]
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
        sample = sample - 0.05 * expected
    session.close()


def test_the_first_reused_tap_of_a_unet_decides_what_is_computed(store: Store) -> None:
    runs = assemble(unet(), UNET, on_cpu(store), logged).variants
    assert runs["mask_2"] == runs["mask_0"]
    assert runs["mask_3"] == runs["mask_1"]
    assert len(runs["mask_0"]) < len(runs["mask_1"]) < len(runs["mask_4"]) < len(runs["full"])
