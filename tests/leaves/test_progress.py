"""What a person who waits is told."""

import io
import logging
from typing import Any

import pytest
import rich.console

from deepcache_trt.progress import Progress, logged, shown


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal would receive."""
    stream = io.StringIO()
    real = rich.console.Console
    monkeypatch.setattr(
        rich.console, "Console", lambda **_: real(file=stream, force_terminal=True, width=100, color_system=None)
    )
    return stream


@pytest.mark.parametrize("progress", [logged, shown])
def test_a_stage_that_reports_nothing_is_a_line_in_the_log(
    progress: Progress, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), progress("tracing the model"):
        pass
    assert caplog.text.count("tracing the model: 0.0 s") == 1


@pytest.mark.parametrize("progress", [logged, shown])
def test_any_stage_may_report_and_may_fail(progress: Progress) -> None:
    def stage() -> None:
        with progress("building") as report:
            report(done=1, total=2, detail="[timing] tactics")
            raise KeyError

    with pytest.raises(KeyError):
        stage()


def test_a_stage_that_knows_how_far_it_is_gets_a_bar(terminal: io.StringIO) -> None:
    with shown("building the full engine") as report:
        report(done=1, total=4)
        report(done=0.5, total=1.0, detail="timing [tactics]")
    text = terminal.getvalue()
    assert "50%" in text
    assert "━" in text
    assert "timing [tactics]" in text
    assert "✓ building the full engine" in text.splitlines()[-1]


def test_a_stage_that_does_not_has_none(terminal: io.StringIO) -> None:
    with shown("tracing the model"):
        pass
    assert "━" not in terminal.getvalue()
    assert "✓ tracing the model" in terminal.getvalue()


def test_a_finished_stage_is_one_line_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with shown("building") as report:
        report(done=1, total=2)
    output: Any = capfd.readouterr()
    assert output.out == ""
    assert [line.strip().rpartition(" ")[0] for line in output.err.splitlines()] == ["✓ building 0.0"]
