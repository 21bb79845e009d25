"""docs/schedulers.md, from the cases of the tests; `python -m tests.runtime.scheduler_page` writes it."""

from pathlib import Path

import torch

from tests.runtime.schedulers import CLIPPING, FALLBACKS, ROUNDING, STEPS, TABLES, WITHIN, Case, table_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "schedulers.md"


def document() -> str:
    """docs/schedulers.md."""
    lines = f"""# Schedulers

A generation without Python between its steps needs the scheduler as a table of weights. A scheduler without one runs
its own `step`, so that every scheduler works. `python -m tests.runtime.scheduler_page` writes this page from the
cases of the tests, which cover every scheduler that diffusers exports.

## With a table

A table is made for each kind of call, and compared with the scheduler before it is used. In float32, its image equals
that of the scheduler's own loop to {WITHIN:.0e} of the largest value, at {", ".join(map(str, STEPS))} steps and with
one generator for each image. Options are beside those of Stable Diffusion. *Memory* is how many calls back a step reads
samples, outputs of the model and noise.

| scheduler | options | steps, if others | memory | noise | remarks |
|---|---|---|---|---|---|
""".splitlines()
    for name, cases in TABLES.items():
        lines += [f"| {name} | {_code(case)} | {' | '.join(_columns(name, case))} |" for case in cases]
    lines += ["", "## Without a table", "", "| scheduler | why |", "|---|---|"]
    lines += [f"| {name} | {fallback.why} |" for name, fallback in FALLBACKS.items()]
    lines += [f"| {name} with {_code(case)} | clipping is not linear |" for name, case in CLIPPING.values()]
    for name, case in ROUNDING.items():
        lines.append(f"| {name} with {_code(case)}, at few steps | its first step, from σ = 4096, rounds too much |")
    lines.append(
        "| any, if a pipeline gives `step` more than `eta` and `generator` | that may change from call to call |"
    )
    lines.append("| any, if its `step` was replaced on the object | it is not the scheduler's own |")
    return "\n".join([*lines, ""])


def _columns(name: str, case: Case) -> list[str]:
    table = table_of(*case.scheduler(name, case.steps[-1]), **case.step)
    memory = [weights.shape[1] for weights in (table.sample_weights, table.output_weights, table.noise_weights)]
    upcast = table.noise_dtypes.get(torch.float16) is torch.float32
    return [
        "" if case.steps == STEPS else ", ".join(map(str, case.steps)),
        ", ".join(map(str, memory)),
        "always in float32" if upcast else "yes" if any(table.draws) else "",
        "" if table.takes_edited_samples else "keeps a sample of its own: no edits between steps",
    ]


def _code(case: Case) -> str:
    return ", ".join(f"`{option}`" for option in case.given)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
