"""Fidelity beside speed: who the rivals are, and one real evaluation of the bundled model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepcache_trt.benchmarks.evaluate.contenders import Contender, contenders, grid, rivals
from deepcache_trt.benchmarks.evaluate.measure import Evaluation, Row, evaluate, evaluate_samplers
from deepcache_trt.benchmarks.evaluate.report import markdown, remarks, table
from deepcache_trt.benchmarks.fidelity.judges import Judges
from deepcache_trt.benchmarks.timing.drawing import DIGITS, Pipes, Scene, draw, load_pipes, prompts_for
from deepcache_trt.builder.model_source import ModelSource
from deepcache_trt.commands.eval.comparison import settings_from
from deepcache_trt.errors import DeepCacheError
from deepcache_trt.runtime.policies import DeepCache, Uncached
from deepcache_trt.samplers import Sampler
from tests.benchmarks.nearer import Nearer

STEPS = 10
SETTINGS = {"three": DeepCache(), "five": DeepCache(cache_interval=5)}


# Who is compared.


def test_a_rival_has_as_many_steps_as_fit_in_the_time_of_its_setting() -> None:
    first = contenders(SETTINGS, steps=50)
    plain, uncached = (one.name for one in first[:2])
    found = rivals(first, {plain: [10.0], uncached: [5.0], "three": [3.99], "five": [2.01]})
    assert {(one.system, one.steps): one.rival_of for one in found} == {
        ("diffusers", 19): ("three",),  # 0.2 s a step
        ("engines", 39): ("three",),
        ("diffusers", 10): ("five",),
        ("engines", 20): ("five",),
    }


def test_settings_that_take_as_long_share_a_rival_and_one_step_is_the_least() -> None:
    first = contenders(SETTINGS, steps=50)
    plain, uncached = (one.name for one in first[:2])
    found = rivals(first, {plain: [100.0], uncached: [5.0], "three": [1.01], "five": [1.02]})
    assert [(one.name, one.rival_of) for one in found] == [
        ("diffusers, uncached, 1 step", ("three", "five")),
        ("engines, uncached, 10 steps", ("three", "five")),
    ]


def test_a_setting_that_is_slower_than_uncached_has_no_rival_but_the_reference() -> None:
    first = contenders({"three": DeepCache()}, steps=4)
    assert rivals(first, {first[0].name: [1.0], first[1].name: [1.0], "three": [1.5]}) == []


def test_a_slow_moment_of_the_machine_falls_on_both_sides() -> None:
    first = contenders({"three": DeepCache()}, steps=50)
    plain, uncached = (one.name for one in first[:2])
    found = rivals(first, {plain: [10, 10, 30], uncached: [5, 5, 15], "three": [2.01, 2.01, 6.03]})
    assert [one.steps for one in found] == [10, 20]


def test_settings_are_every_interval_with_every_branch_and_forecast_and_the_plan_files(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"cache_interval": 7}')
    found = settings_from([2, 4], [0, 1], ["none", "taylor1"], [tmp_path / "mine.json"])
    assert len(found) == 9
    assert found["interval 4, branch 1, taylor1"] == DeepCache(cache_interval=4, cache_branch_id=1, forecast="taylor1")
    assert found["interval 2, branch 0"] == DeepCache(cache_interval=2)
    assert found["plan mine"] == DeepCache(cache_interval=7)
    assert list(settings_from([], [], [], [tmp_path / "mine.json"])) == ["plan mine"]
    assert list(settings_from([], [], [], [])) == ["interval 3, branch 0", "interval 5, branch 0"]


def test_two_plan_files_of_one_name_are_refused(tmp_path: Path) -> None:
    files = [tmp_path / folder / "plan.json" for folder in "ab"]
    for file in files:
        file.parent.mkdir()
        file.write_text("{}")
    with pytest.raises(DeepCacheError, match="two plan files are called 'plan'; rename one"):
        settings_from([], [], [], files)


# What is drawn.


@pytest.fixture(scope="module")
def pipes(store_root: Path) -> Pipes:
    return load_pipes(ModelSource(model="digits"), policies=SETTINGS.values(), backend="onnxruntime", store=store_root)


def test_every_pipeline_draws_the_scene_from_the_same_noise(pipes: Pipes) -> None:
    scene = Scene(prompts=DIGITS[:2], steps=3)
    drawn = [draw(pipe, scene, seed=1) for pipe in (pipes.plain, pipes.cached(Uncached()), pipes.plain)]
    for one in drawn:
        assert (one.latents.shape, one.pictures.shape) == ((2, 4, 8, 8), (2, 3, 64, 64))  # type: ignore[union-attr]
        assert 0 < one.loop_seconds < one.seconds
    assert np.array_equal(drawn[0].latents, drawn[2].latents)
    assert np.allclose(drawn[0].latents, drawn[1].latents, atol=1e-3)
    again = draw(pipes.plain, scene, seed=1, decode=False)
    assert np.allclose(again.latents, drawn[0].latents, atol=1e-6)
    assert again.pictures is None
    assert np.abs(draw(pipes.plain, scene, seed=2).latents - again.latents).max() > 0.1


def test_prompts_are_the_ten_digits_for_the_bundled_model_unless_others_are_given() -> None:
    assert prompts_for("digits", None) == DIGITS
    assert prompts_for("digits", ["two"]) == ("two",)
    assert len(prompts_for("sd15", [])) == 1


@pytest.fixture(scope="module")
def found(pipes: Pipes, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    folder = tmp_path_factory.mktemp("pictures")
    settings = {
        "reuse": DeepCache(cache_interval=5),
        "taylor1": DeepCache(cache_interval=5, forecast="taylor1"),
        "branch 1": DeepCache(cache_interval=5, cache_branch_id=1),
        "another kind": Nearer(),
    }
    judges = Judges(DIGITS, folder=folder)
    evaluation = evaluate(pipes, settings, Scene(prompts=DIGITS, steps=STEPS), range(2), judges, lambda line: None)
    return evaluation, folder


def test_the_reference_is_itself_and_engines_without_caching_equal_it(found: tuple[Evaluation, Path]) -> None:
    reference, uncached, *_ = found[0].rows
    assert reference.samples["psnr_db"] == (None, None)
    assert reference.samples["latent_mse"] == (0.0, 0.0)
    assert all(value is not None and value > 60 for value in uncached.samples["psnr_db"])
    assert (reference.macs_share, uncached.macs_share) == (1, 1)
    assert reference.scores["accuracy"] == uncached.scores["accuracy"] > 0.8


def test_settings_cost_what_their_plans_say_and_differ_from_the_reference(found: tuple[Evaluation, Path]) -> None:
    rows = {row.contender.name: row for row in found[0].rows}
    assert rows["reuse"].macs_share == rows["taylor1"].macs_share < rows["branch 1"].macs_share < 1
    assert 2 / STEPS < rows["reuse"].macs_share < 0.5
    for name in ("reuse", "taylor1", "branch 1"):
        assert all(10 < value < 60 for value in rows[name].samples["psnr_db"])  # type: ignore[operator]
    assert rows["taylor1"].median("latent_mse") < rows["reuse"].median("latent_mse")  # type: ignore[operator]
    assert rows["branch 1"].median("latent_mse") < rows["reuse"].median("latent_mse")  # type: ignore[operator]


def test_a_policy_of_any_kind_costs_what_its_variants_do(found: tuple[Evaluation, Path], pipes: Pipes) -> None:
    """Of ten calls three are full, three at the first skip connection, two at the second, and two are skipped."""
    rows = {row.contender.name: row for row in found[0].rows}
    first, second = (10 * rows[name].macs_share / 8 - 0.25 for name in ("reuse", "branch 1"))  # two of ten are full
    assert rows["another kind"].macs_share == pytest.approx((3 + 3 * first + 2 * second) / STEPS)
    assert rows["another kind"].contender.record()["policy"] == {"policy": "nearer"}
    assert len(pipes.opened) == 4  # none, branch 0 twice, branch 1, and both
    assert pipes.cached(DeepCache()) is pipes.cached(DeepCache(cache_interval=7))


def test_each_setting_has_rivals_of_fewer_steps(found: tuple[Evaluation, Path]) -> None:
    against = [row for row in found[0].rows if row.contender.rival_of]
    for row in against:
        assert row.contender.steps < STEPS
        assert row.macs_share == row.contender.steps / STEPS
    served = {(setting, row.contender.system) for row in against for setting in row.contender.rival_of}
    assert ("reuse", "engines") in served


def test_every_picture_is_kept(found: tuple[Evaluation, Path]) -> None:
    evaluation, folder = found
    assert {path.name for path in folder.iterdir()} == {row.contender.name for row in evaluation.rows}
    files = sorted((folder / "reuse").iterdir())
    assert len(files) == 2 * len(DIGITS)
    with Image.open(files[0]) as image:
        assert image.size == (64, 64)


def test_the_report_has_every_row_and_says_what_is_missing(found: tuple[Evaluation, Path]) -> None:
    evaluation, _ = found
    header, lines = table(evaluation)
    assert header[:4] == ["", "MACs", "loop, s", "speed-up"]
    assert {"latent MSE", "PSNR, dB", "accuracy", "Fréchet"} <= set(header)
    assert "CLIP score" not in header
    assert all(len(line) == len(header) for line in lines)
    assert lines[0][header.index("PSNR, dB")] == "∞"
    labels = [line[0] for line in lines]
    assert labels.index("reuse") + 1 < len(labels)
    assert labels[labels.index("reuse") + 1].startswith("  same time: ")
    said = remarks(evaluation)
    assert {f"no {figure}: {reason}" for figure, reason in evaluation.absent.items()} <= set(said)
    page = markdown(evaluation, title="A title", command="the command", environment={"CPU": "a machine"})
    assert "Written by `the command`." in page
    assert "| CPU | a machine |" in page
    assert json.loads(json.dumps(evaluation.record()))["rows"][2]["contender"]["name"] == "reuse"


# Several samplers.


DDIM, UNIPC = (Sampler(class_name=f"{name}Scheduler") for name in ("DDIM", "UniPCMultistep"))


def test_samplers_and_steps_are_drawn_uncached_and_with_each_setting() -> None:
    everyone = grid(SETTINGS, [DDIM, UNIPC], [10, 20])
    assert len(everyone) == 1 + 2 * 2 * 3
    assert (everyone[0].name, everyone[0].system) == ("diffusers, DDIM 20, uncached", "diffusers")
    names = {contender.name: contender for contender in everyone}
    assert len(names) == len(everyone)
    cached = names["UniPCMultistep 10, five"]
    assert (cached.sampler, cached.steps, cached.policy) == (UNIPC, 10, SETTINGS["five"])
    twin = names[cached.uncached]
    assert replace(cached, name=twin.name, policy=Uncached(), uncached="") == twin


@pytest.fixture(scope="module")
def sampled(pipes: Pipes) -> Evaluation:
    scene = Scene(prompts=DIGITS[:2], steps=1)
    judges = Judges(scene.prompts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepcache_trt.samplers._FINEST_STEPS", 40)
        return evaluate_samplers(
            pipes, {"three": DeepCache()}, [DDIM, UNIPC], [4, 20], scene, [0], judges, lambda line: None
        )


def test_samplers_are_measured_from_the_solution_and_caching_from_its_own_sampler(sampled: Evaluation) -> None:
    assert sampled.truth == "DDIM, 40 steps"
    rows = {row.contender.name: row for row in sampled.rows}
    error, caching = ({name: row.median(of) for name, row in rows.items()} for of in ("latent_error", "caching_error"))
    assert error["DDIM 20, uncached"] < error["DDIM 4, uncached"]  # type: ignore[operator]
    assert error["diffusers, DDIM 20, uncached"] == pytest.approx(error["DDIM 20, uncached"], rel=1e-2)
    assert 0.001 < caching["DDIM 20, three"] < 1  # type: ignore[operator]
    assert caching["DDIM 20, uncached"] is None
    assert error["UniPCMultistep 4, uncached"] != error["DDIM 4, uncached"]
    assert rows["UniPCMultistep 4, uncached"].macs_share == pytest.approx(4 / 20)


def test_the_table_of_samplers_is_by_time_and_marks_what_is_nearest_in_its_time(sampled: Evaluation) -> None:
    header, lines = table(sampled)
    assert {"error", "error of caching", "s an image"} <= set(header)
    assert len(lines) == len(sampled.rows)
    cells = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    speeds = [float(line[header.index("speed-up")].rstrip("×")) for line in lines]
    assert speeds == sorted(speeds, reverse=True)
    marked = [float(line[header.index("error")]) for line in lines if line[header.index("best")]]
    assert lines[0][header.index("best")] == "✓"
    assert marked == sorted(marked, reverse=True)
    assert cells["diffusers, DDIM 20, uncached"]["speed-up"] == "1.00×"
    assert "by DDIM, 40 steps, from the same noise" in remarks(sampled)[0]
    record = json.loads(json.dumps(sampled.record()))
    assert record["rows"][-1]["contender"]["sampler"]["class_name"] == "UniPCMultistepScheduler"


def test_a_median_over_infinite_values_is_none() -> None:
    row = Row(
        contender=Contender(name="a", system="engines", steps=1), macs_share=1, samples={"psnr_db": (None, 3.0, None)}
    )
    assert row.median("psnr_db") is None
    assert row.median("ssim") is None


def test_a_model_without_prompts_is_refused(tmp_path: Path) -> None:
    from diffusers import DDPMPipeline, DDPMScheduler

    from tests import tiny

    pipe: Any = DDPMPipeline(unet=tiny.denoiser("ddpm"), scheduler=DDPMScheduler())
    pipe.save_pretrained(tmp_path)
    with pytest.raises(DeepCacheError, match="a DDPMPipeline takes no prompt"):
        load_pipes(ModelSource(model=str(tmp_path)), policies=(), backend="auto")
