"""`deepcache-trt experiment` as a user types it: what it prints and writes, its old spellings, what it refuses."""

import csv
import json
import re
from pathlib import Path

import pytest

from tests import tiny
from tests.commands.command_line import Run, assert_one_line


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small pipelines, which draw pictures of one size."""
    folder = tmp_path_factory.mktemp("models")
    for unet in ("sd15", "sd21"):
        tiny.stable_diffusion(unet).save_pretrained(folder / unet)
    return folder


QUICK = ("--steps", 3, "--batch", 4, "--backend", "onnxruntime", "--prompt", "a handwritten six")


def test_they_are_listed(run: Run) -> None:
    result = run("experiment", "list")
    names = [line.split()[0] for line in result.out.splitlines()]
    assert result.code == 0
    assert {"branches", "diversity", "generate", "interval-evolution", "non-uniform", "schedulers"} <= set(names)


@pytest.mark.parametrize("name", ["branches", "diversity", "interval-evolution", "non-uniform", "schedulers"])
def test_each_runs_to_its_end_on_the_digits(name: str, run: Run, tmp_path: Path, store_root: Path) -> None:
    out = tmp_path / "out"
    few = {"schedulers": ("--scheduler", "ddim", "--scheduler", "unipc"), "branches": ("--branch", 0, "--branch", 3)}
    options = ("--interval", 2, *few.get(name, ()), "--limit", 2, "--store", store_root)
    result = run("experiment", name, *QUICK, *options, "--out", out)
    assert (result.code, result.out.splitlines()[-1]) == (0, str(out))
    lines = [json.loads(line) for line in (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["prompt"] for line in lines} == {"a handwritten six"}
    assert (out / "plot.png").exists()
    environment = json.loads((out / "environment.json").read_text(encoding="utf-8"))
    assert environment["deepcache-trt"].startswith("0.")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(
            "bk-sdm",
            "--model {models}/sd15 --smaller {models}/sd21 --steps 3 --limit 1 --backend onnxruntime",
            marks=pytest.mark.slow,
        ),
        ("ddpm", "--steps 4 --interval 2 --limit 5 --batch 5"),
        pytest.param("dit", "--limit 5 --batch 5", marks=pytest.mark.slow),
        ("feature-similarity", "--model digits-dit --steps 4 --limit 1"),
        pytest.param("ldm", "--model digits-ddpm --steps 4 --limit 5 --batch 5", marks=pytest.mark.slow),
        ("macs", "--model digits-ddpm"),
    ],
)
def test_each_other_runs_to_its_end_on_a_bundled_model(
    name: str, options: str, run: Run, tmp_path: Path, store_root: Path, models: Path
) -> None:
    out, given = tmp_path / "out", options.format(models=models).split()
    result = run("experiment", name, *given, "--store", store_root, "--out", out)
    assert (result.code, result.out.splitlines()[-1]) == (0, str(out)), result.err
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert len(report["lines"]) > 1
    assert (out / "samples.jsonl").read_text(encoding="utf-8").count("\n") >= len(report["lines"])
    assert (out / "plot.png").exists() == (name != "bk-sdm")


def test_old_spellings_and_a_config_give_the_same_pictures(run: Run, tmp_path: Path, store_root: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a handwritten one\na handwritten two\n", encoding="utf-8")
    old = ("--prompt_file", prompts, "--cache_interval", 2, "--cache_branch_id", 1, "--batch_size", 2, "--steps", 3)
    first, second = tmp_path / "first", tmp_path / "second"
    common = ("--backend", "onnxruntime", "--store", store_root)
    assert run("experiment", "generate", *old, *common, "--output_dir", first).code == 0
    assert (
        run("experiment", "generate", "--config", first / "config.json", "--store", store_root, "--out", second).code
        == 0
    )
    pictures = sorted(path.relative_to(first) for path in first.glob("images/*/*.png"))
    assert [str(path) for path in pictures] == [f"images/interval-2-branch-1/{index:06}.png" for index in range(2)]
    for path in pictures:
        assert (first / path).read_bytes() == (second / path).read_bytes()


def test_results_are_collected_into_a_page_and_numbers(run: Run, tmp_path: Path, store_root: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    for interval in (2, 3):
        where = ("--interval", interval, "--limit", 1, "--store", store_root, "--out", runs / f"every-{interval}")
        assert run("experiment", "diversity", *QUICK, "--seeds", 2, *where).code == 0
    assert run("experiment", "report", "--results", runs, "--out", out).code == 0
    page = (out / "experiments.md").read_text(encoding="utf-8")
    assert page.count("## diversity\n") == 2
    assert "![diversity](experiments/every-2.png)" in page
    assert (out / "experiments" / "every-3.png").exists()
    with (out / "experiments" / "experiments.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["cell"]) for row in rows] == [
        *(("every-2", cell) for cell in ("uncached", "interval 2, branch 0")),
        *(("every-3", cell) for cell in ("uncached", "interval 3, branch 0")),
    ]
    assert all(row["CPU"] and row["command"].startswith("deepcache-trt ") for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("branch", "No such command 'branch'"),
        ("branches --workers 2", "--workers 2 are Ray's; give --ray auto with it"),
        ("branches --ray nowhere:1", "there is no cluster of Ray at nowhere:1"),
        ("clip-score --images {root} --prompt one", "{root} has 0 pictures for 1 prompts; give as many of each"),
        ("clip-score --prompt one", "clip-score needs --images, the folder with the pictures"),
        ("clip-score --images {root}/empty.txt --prompt one", "--images {root}/empty.txt is no folder; give the one"),
        ("ddpm --model digits", "a .*Pipeline draws neither by classes nor from noise alone"),
        ("dit --threshold 2", "a threshold of 2 is outside 0…1"),
        ("feature-similarity --model digits-dit --prompt one", "a .*Pipeline takes no prompt; leave --prompt out"),
        ("macs --branch 12", "digits: cache_branch_id=12 is outside 0…11"),
        ("generate --prompt-file {root}/empty.txt", "{root}/empty.txt has no prompts; write one a line"),
        ("generate --prompt-file {root}/empty.txt --prompt one", "--prompt and --prompt-file both say what is drawn"),
        (
            "branches --config {root}/none.json",
            "cannot read --config {root}/none.json: No such file or directory; give the",
        ),
        ("branches --seeds 0", "seeds 0 is below 1; give at least that many"),
        ("report --results {root} --out {root}/out", "there are no results of experiments in {root}; run some"),
        ("schedulers --scheduler unipk", "unknown scheduler 'unipk'"),
        ("branches --model digits-ddpm", "a .*Pipeline takes no prompt"),
    ],
)
def test_bad_input_is_one_line(
    run: Run, arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # results go into a folder beside, of the experiment's name
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    result = run("experiment", *(each.format(root=tmp_path) for each in arguments.split()))
    assert_one_line(result)
    wanted = message.replace("{root}", re.escape(str(tmp_path)))
    assert re.match(f"error: {wanted}", result.err), result.err
    assert not (tmp_path / "out").exists()
