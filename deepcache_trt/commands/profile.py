"""`deepcache-trt profile`: what caching can save, before anything is built."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from deepcache_trt.commands.typed.options import (
    AsJson,
    Config,
    Interval,
    Model,
    Precision,
    Quantize,
    SkipInterval,
    SkipMode,
    StoreFolder,
)


def profile(
    model: Model,
    config: Config = None,
    size: Annotated[
        str | None, typer.Option(help="Pixels: 512, or 768x1024 (height x width). [default: the model's]")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Of one call of the U-Net; guidance makes two of each image.")] = 1,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Of the text; 1 for ldm-4-g, whose condition is a class. [default: 77]")
    ] = None,
    branch: Annotated[
        list[int] | None,
        typer.Option(help="The skip connection at which the shallow layers begin; repeatable. [default: 0]"),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps that averages are taken over.")] = 50,
    plan: Annotated[Path | None, typer.Option(help="A plan file, instead of the next three.")] = None,
    interval: Interval = None,
    skip_mode: SkipMode = None,
    skip_interval: SkipInterval = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], typer.Option(help="Of weights and activations.")
    ] = "float16",
    gpu: Annotated[
        str | None, typer.Option(help='Predict times by this GPU\'s roofline: "RTX A5000", "H100 SXM", "L4", …')
    ] = None,
    precision: Precision = None,
    quantize: Quantize = None,
    peak_tflops: Annotated[float | None, typer.Option(help="Of another GPU, dense, in this precision.")] = None,
    peak_tops: Annotated[float | None, typer.Option(help="Of that GPU in 8 bits, dense, with --precision.")] = None,
    bandwidth: Annotated[float | None, typer.Option(help="Of its memory, in GB/s.")] = None,
    seconds: Annotated[
        list[str] | None,
        typer.Option(
            help="A time measured on that GPU, as full=0.031 or shallow=0.004; repeatable. "
            "Prints the share of the prediction that it reaches."
        ),
    ] = None,
    store: StoreFolder = None,
    as_json: AsJson = False,
) -> None:
    """Count what a model's variants cost.

    Operations, parameters and bytes moved, full and shallow; and with a GPU the times that its roofline predicts.
    Counts come from the model's architecture: nothing is downloaded or run, and the prediction is no measurement.
    """
    from deepcache_trt.benchmarks.counting.model_counts import count_model
    from deepcache_trt.benchmarks.counting.model_report import markdown, report
    from deepcache_trt.benchmarks.counting.roofline import gpu_from_options, measured_from_options
    from deepcache_trt.engines.store import Store, default_root
    from deepcache_trt.pipelines.engine_options import EngineOptions
    from deepcache_trt.progress import quiet_libraries, shown
    from deepcache_trt.runtime.policies.deepcache import DeepCache, only_deepcache
    from deepcache_trt.runtime.policies.plan_file import read_policy

    options = {"cache_interval": interval, "skip_mode": skip_mode, "skip_interval": skip_interval}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    policy = DeepCache(**given) if plan is None else only_deepcache(read_policy(plan, given))
    branches = tuple(dict.fromkeys(branch or [policy.cache_branch_id]))
    EngineOptions(precision=precision, quantize=quantize)  # refuses what does not go together
    chosen = gpu_from_options(
        gpu, tflops=peak_tflops, tops=peak_tops, bandwidth=bandwidth, dtype=dtype, precision=precision
    )
    measured = measured_from_options(seconds or (), gpu=chosen, branches=branches)
    quiet_libraries()
    counts = count_model(
        model,
        config=config,
        dtype=dtype,
        size=size,
        batch=batch,
        tokens=tokens,
        branches=branches,
        store=Store(store or default_root()),
        progress=shown,
        precision=precision,
        quantize=quantize or (),
    )
    record = report(counts, policy.plan(steps), gpu=chosen, measured=measured)
    typer.echo(json.dumps(record, indent=2, ensure_ascii=False) if as_json else markdown(record))
