"""The published table of DeepCache, and the speed-up that arithmetic allows in each of its cells.

Seconds of a call by resolution, batch, cache interval I and cache branch B, as in `timing.published_table`.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deepcache_trt.benchmarks.bench.grid import PLAIN, Cell
from deepcache_trt.benchmarks.counting.macs import Macs, count_macs, ideal_speedup
from deepcache_trt.benchmarks.report import markdown_table
from deepcache_trt.benchmarks.timing.published_table import COLUMNS, HARDWARE, MODEL, SOURCE, STEPS
from deepcache_trt.benchmarks.timing.published_table import SECONDS as PUBLISHED
from deepcache_trt.runtime.plan import FULL, Plan
from deepcache_trt.runtime.policies.deepcache import SHALLOW, variants_at
from deepcache_trt.tensors import LATENT_PIXELS, PROMPT_TOKENS

SECONDS = {
    Cell(pixels=pixels, batch=batch, policy=policy): seconds
    for (pixels, batch), row in PUBLISHED.items()
    for policy, seconds in zip((PLAIN, *COLUMNS), row, strict=True)
}

# Operations of one run of the U-Net by (pixels, branch) and variant.
Counts = Mapping[tuple[int, int], Mapping[str, Macs]]


def published_speedup(cell: Cell) -> float | None:
    """What was published for a cell with caching, over the same row without; None: there is no such cell."""
    return SECONDS[cell.plain] / SECONDS[cell] if cell in SECONDS and not cell.is_plain else None


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """The speed-up that the count of operations allows, by what is counted."""

    whole: float  # convolutions, linear layers and the products of attention
    weights: float  # the published counts leave the products of attention out


def allowed_speedup(macs: Mapping[str, Macs], plan: Plan) -> Allowed:
    """How much less a cached denoising computes than an uncached one of as many steps.

    That is T·F / (n·F + (T − n)·S) with F and S the operations of a full and of a cached step, T steps and, of them,
    n full ones; a skipped step is none. It knows the U-Net only: neither text encoder nor decoder, nor what is no
    operation.
    """
    calls = Counter(plan.variants)
    return Allowed(
        whole=ideal_speedup({name: count.total for name, count in macs.items()}, calls),
        weights=ideal_speedup({name: count.weights for name, count in macs.items()}, calls),
    )


def count_published() -> dict[tuple[int, int], dict[str, Macs]]:
    """The operations of Stable Diffusion 2.1's U-Net at every resolution and branch of the table, one image each.

    The graph is exported from the config alone; that takes a minute, and no weights.
    """
    import onnx
    import onnx_ir

    from deepcache_trt.export.cut import cut
    from deepcache_trt.export.trace import onnx_from_config
    from deepcache_trt.models.catalogue import CATALOGUE

    unet = CATALOGUE[MODEL].parts["unet"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "unet.onnx"
        onnx_ir.save(onnx_from_config(unet.model_class(), unet.config, dtype="float16"), path)
        graph = onnx.load(path, load_external_data=False)
    branches = sorted({policy.cache_branch_id for policy in COLUMNS})
    variants = {branch: variants_at(branch) for branch in branches}
    graphs = {branch: {variant.name: cut(graph, variant) for variant in both} for branch, both in variants.items()}
    return {
        (pixels, branch): {name: count_macs(variant, image_sizes(pixels)) for name, variant in both.items()}
        for pixels in sorted({pixels for pixels, _ in PUBLISHED})
        for branch, both in graphs.items()
    }


def image_sizes(pixels: int) -> dict[str, int]:
    """The axes of a U-Net's run for one image without guidance."""
    side = pixels // LATENT_PIXELS
    return {"batch": 1, "height": side, "width": side, "sequence": PROMPT_TOKENS}


def arithmetic(counts: Counts) -> str:
    """The published table beside what operations allow in each cell, as Markdown.

    Args:
        counts: of `count_published`.
    """
    lines = []
    for cell, seconds in SECONDS.items():
        speedup = published_speedup(cell)
        if speedup is None:
            continue
        allowed = _allowed(counts, cell)
        lines.append(
            [
                f"{cell.pixels}",
                f"{cell.batch}",
                cell.column,
                f"{SECONDS[cell.plain]:.2f}",
                f"{seconds:.2f}",
                f"{speedup:.2f}×",
                f"{allowed.whole:.2f}×",
                f"{100 * speedup / allowed.whole:.0f} %",
                f"{allowed.weights:.2f}×",
            ]
        )
    header = ["pixels", "batch", "plan", "original, s", "cached, s", "published", "operations allow", "share"]
    operations = [
        [f"{pixels}", *(_giga(both[FULL])), f"k = {branch}", *(_giga(both[SHALLOW]))]
        for (pixels, branch), both in counts.items()
    ]
    return "\n\n".join(
        [
            "## What arithmetic allows in the published table",
            f"The seconds are [published]({SOURCE}): {HARDWARE}, Stable Diffusion 2.1, {STEPS} steps, eager PyTorch; "
            "they were not measured here. *Operations allow* is T·F ÷ (n·F + (T − n)·S): F and S are the "
            "multiply-accumulate operations of a full and of a cached step of the U-Net, counted from its exported "
            f"graph, T = {STEPS} steps, n = ⌈T ÷ I⌉ of them full. Counted are convolutions, linear layers and both "
            "products of every attention; the last column leaves the latter out, as the published counts do. "
            "*Share* is the published speed-up over what operations allow: the rest is time that a cached step takes "
            "and its operations do not explain, and that of the text encoder and the decoder, which a call has and "
            "the count has not. Both sides are eager: what compiling gains for every step is not in it.",
            markdown_table([*header, "without attention products"], lines),
            _summary(counts),
            markdown_table(
                ["pixels", "full step, G", "of it attention", "branch", "cached step, G", "of it attention"], operations
            ),
        ]
    )


def _allowed(counts: Counts, cell: Cell) -> Allowed:
    assert cell.published_form is not None
    _, branch = cell.published_form
    return allowed_speedup(counts[cell.pixels, branch], cell.policy.plan(STEPS))


def _summary(counts: Counts) -> str:
    shares = {
        cell: speedup / _allowed(counts, cell).whole
        for cell in SECONDS
        if (speedup := published_speedup(cell)) is not None
    }
    (least, lowest), (most, highest) = (end(shares.items(), key=lambda item: item[1]) for end in (min, max))
    return (
        f"The share goes from {100 * lowest:.0f} % ({least.title}) to {100 * highest:.0f} % ({most.title}): "
        f"eager DeepCache takes up to {100 / lowest - 100:.0f} % longer than its operations explain."
    )


def _giga(macs: Macs) -> tuple[str, str]:
    return f"{(macs.weights + macs.attention) / 1e9:.1f}", f"{macs.attention / 1e9:.1f}"
