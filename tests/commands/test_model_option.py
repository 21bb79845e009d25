"""`--model` of `deepcache-trt build` and `generate`: what is no model, a pickle, and one that takes no prompt."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.commands.command_line import Run, assert_one_line


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose weights are only a pickle."""
    from diffusers import DDPMPipeline, DDPMScheduler

    folder = tmp_path_factory.mktemp("pickled")
    pipe: Any = DDPMPipeline(unet=tiny.denoiser("ddpm"), scheduler=DDPMScheduler())
    pipe.save_pretrained(folder, safe_serialization=False)
    return folder


@pytest.mark.parametrize("command", ["build", "generate one"])
def test_a_folder_that_is_no_model_is_named_with_what_it_lacks(run: Run, tmp_path: Path, command: str) -> None:
    result = run(*command.split(), "--model", tmp_path)
    assert_one_line(result)
    assert f"{tmp_path} is no diffusers model: it has no model_index.json" in result.err


@pytest.mark.parametrize("command", ["build", "generate one"])
def test_a_pickle_is_refused_with_the_option_that_allows_it(run: Run, pickled: Path, command: str) -> None:
    result = run(*command.split(), "--model", pickled)
    assert_one_line(result)
    assert str(pickled) in result.err
    assert "--allow-pickle" in result.err


def test_an_allowed_pickle_is_read(run: Run, pickled: Path) -> None:
    result = run("build", "--model", pickled, "--allow-pickle", "--branch", 99)
    assert_one_line(result)
    assert "cache_branch_id=99 is outside 0…8" in result.err  # known only once it is loaded


def test_a_pipeline_that_takes_no_prompt_is_refused(run: Run, pickled: Path) -> None:
    result = run("generate", "one", "--model", pickled, "--allow-pickle")
    assert_one_line(result)
    assert "DDPMPipeline takes no prompt" in result.err


@pytest.mark.parametrize("command", ["build", "generate one", "profile", "eval", "tune"])
def test_a_mistyped_name_is_said_before_torch_is_imported(command: str) -> None:
    script = (
        "import sys\nfrom deepcache_trt import cli\n"
        f"sys.argv[1:] = {[*command.split(), '--model', 'digitz']}\n"
        "try:\n    cli.main()\nfinally:\n    assert not {'torch', 'numpy', 'onnx'} & sys.modules.keys()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: unknown model 'digitz' (did you mean 'digits'?); give a folder")


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("command", ["build", "generate seven", "profile"])
def test_a_file_that_is_a_pickle_is_not_unpickled(run: Run, tmp_path: Path, command: str) -> None:
    file, mark = tmp_path / "model.ckpt", tmp_path / "unpickled"
    file.write_bytes(pickle.dumps({"state_dict": Touches(mark)}))
    result = run(*command.split(), "--model", file)
    assert_one_line(result)
    assert "--allow-pickle" in result.err
    assert not mark.exists()
