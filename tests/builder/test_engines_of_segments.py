"""Engines of segments: any variant of a model is a list of them, and computes what the model computes with hooks."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers import DDIMScheduler

from deepcache_trt.builder.engines import build_pieces
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.builder.pieces import assemble, piece_from_json
from deepcache_trt.engines.store import Store
from deepcache_trt.errors import NotBuiltError, UnsupportedError
from deepcache_trt.models.architecture import OUTPUT
from deepcache_trt.models.taps import Variant
from deepcache_trt.progress import logged
from deepcache_trt.runtime.guidance import Guidance
from deepcache_trt.runtime.loop import denoise
from deepcache_trt.runtime.plan import FULL, Plan
from deepcache_trt.runtime.policies import DeepCache, Policy
from deepcache_trt.runtime.sampler.probe import probe
from deepcache_trt.runtime.sampler.table import SamplerTable
from tests.builder.hooked import BATCH, Hooked, called, dit, starting
from tests.builder.small_builds import compiled_torch, denoiser, on_cpu, openvino, text_encoder

MASKS = 32


@dataclass(frozen=True, kw_only=True)
class Masks(Policy):
    """A router: each call but the first leaves out sublayers of its own, drawn at random, and computes the others."""

    kind: ClassVar[str] = "masks"
    segments: ClassVar[bool] = True
    count: int

    def variants(self, taps: Sequence[str]) -> tuple[Variant, ...]:
        dice = random.Random(0)
        masks = [[tap for tap in taps if dice.random() < 0.5] for _ in range(self.count)]
        cached = (
            Variant(name=f"mask_{i}", consumes=tuple(mask), emits=tuple(tap for tap in taps if tap not in mask))
            for i, mask in enumerate(masks)
        )
        return Variant(name=FULL, emits=tuple(taps)), *cached

    def plan(self, calls: int) -> Plan:
        return Plan(variants=(FULL, *(f"mask_{i}" for i in range(calls - 1))))


POLICY = Masks(count=MASKS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("segments"))


@pytest.mark.parametrize("backend", [on_cpu, openvino])
def test_any_mask_of_a_dit_is_the_model_with_hooks_call_by_call(store: Store, backend: Any) -> None:
    sizes = {"batch": BATCH}
    session = open_session(dit(), POLICY, backend(store), sizes=sizes)
    hooked, sample = Hooked(dit(), POLICY), starting()
    session.begin()
    for call, variant in enumerate(POLICY.plan(1 + MASKS).variants):
        tensors = called(sample, torch.tensor(900 - 25 * call))
        found = session.run(variant, tensors, sizes)[OUTPUT]
        expected = hooked(variant, tensors)
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
        sample = sample - 0.05 * expected
    session.close()


@pytest.mark.parametrize("backend", [on_cpu, openvino])
def test_any_mask_of_a_dit_is_the_model_with_hooks_in_the_whole_loop(store: Store, backend: Any) -> None:
    scheduler: Any = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(1 + MASKS)
    table = probe(scheduler, scheduler.timesteps)
    assert isinstance(table, SamplerTable)
    sizes, plan, latents = {"batch": BATCH}, POLICY.plan(1 + MASKS), starting()
    session = open_session(dit(), POLICY, backend(store), sizes=sizes)
    session.begin()
    session.run(FULL, called(latents, scheduler.timesteps[0]), sizes)
    found = denoise(
        session,
        plan,
        table,
        Guidance(scale=None),
        latents=latents,
        timesteps=list(scheduler.timesteps),
        generator=None,
        on_step=lambda done: None,
    )
    session.close()
    hooked, expected = Hooked(dit(), POLICY), latents
    for variant, timestep in zip(plan.variants, scheduler.timesteps, strict=True):
        expected = scheduler.step(hooked(variant, called(expected, timestep)), timestep, expected).prev_sample
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_all_masks_of_a_dit_are_lists_of_the_same_few_engines(store: Store) -> None:
    assembly = assemble(dit(), POLICY, on_cpu(store), logged)
    taps = [tap.name for tap in dit().architecture.taps]
    assert len(assembly.pieces) == 2 * len(taps) + 1
    assert assembly.variants[FULL] == tuple(piece.name for piece in assembly.pieces)
    names = [variant.name for variant in POLICY.variants(taps)]
    assert [*assembly.variants] == names
    for variant in POLICY.variants(taps):
        assert set(taps) - set(variant.consumes) == set(taps) & set(assembly.variants[variant.name])


def test_what_segments_hand_on_shares_memory(store: Store) -> None:
    sizes = {"batch": BATCH}
    session = open_session(dit(), POLICY, on_cpu(store), sizes=sizes)
    session.run(FULL, called(starting(), torch.tensor(500)), sizes)
    assert 0 < session.shape.arena.size < session.shape.arena.naive / 2
    session.close()


def test_a_denoiser_is_whole_unless_its_policy_or_someone_says(store: Store) -> None:
    policy = DeepCache(cache_branch_id=1)

    def pieces(target: Any, of: Policy = policy) -> list[str]:
        return [piece.name for piece in assemble(denoiser(), of, target, logged).pieces]

    assert pieces(on_cpu(store)) == [FULL, "shallow"]
    assert pieces(on_cpu(store, segments=True)) == ["head", "tap_1", "tail"]
    masked = Masks(count=2)
    assert len(pieces(on_cpu(store), masked)) == 2 * len(denoiser().architecture.taps) + 1
    assert pieces(on_cpu(store, segments=False), masked) == [FULL, "mask_0", "mask_1"]
    assert pieces(compiled_torch(store), masked) == [FULL, "mask_0", "mask_1"]
    assert [piece.name for piece in assemble(text_encoder(), policy, on_cpu(store, segments=True), logged).pieces] == [
        FULL
    ]


def test_a_manifest_says_what_its_engine_computes(store: Store) -> None:
    for target in (on_cpu(store), on_cpu(store, segments=True)):
        pieces = {piece.name: piece for piece in assemble(denoiser(), DeepCache(), target, logged).pieces}
        built = build_pieces(denoiser(), DeepCache(), target)
        assert {name: piece_from_json(artefact.about) for name, artefact in built.items()} == pieces


def test_a_backend_that_runs_the_model_has_no_segments(store: Store) -> None:
    with pytest.raises(UnsupportedError, match="runs the model itself, whose weights all variants share; leave segm"):
        assemble(denoiser(), DeepCache(), compiled_torch(store, segments=True), logged)


def test_nothing_is_exported_to_be_cut_where_building_is_forbidden(tmp_path: Path) -> None:
    target = on_cpu(Store(tmp_path), segments=True, build="never")
    with pytest.raises(NotBuiltError, match=r"has no graph of tiny unet to cut into segments; allow build='auto' once"):
        assemble(denoiser(), DeepCache(), target, logged)
