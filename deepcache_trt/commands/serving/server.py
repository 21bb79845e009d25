"""`deepcache-trt serve`: pictures over HTTP."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from deepcache_trt.commands.typed.options import CalibrationPrompts, Plan, Precision, Quantize, StoreFolder
from deepcache_trt.documents import MOST_BYTES_BY_HAND, parsed, read_text
from deepcache_trt.errors import DeepCacheError, first_line

_KEY = "DEEPCACHE_TRT_API_KEY"


def commands() -> Iterator[tuple[str, Callable[..., None]]]:
    """As it is typed."""
    yield "serve", serve


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(help="A catalogue name, a folder or hub id; repeatable, as NAME=MODEL too. [default: digits]"),
    ] = None,
    lora: Annotated[list[str] | None, typer.Option(help="NAME=FILE or hub id; repeatable.")] = None,
    plan: Plan = None,
    interval: Annotated[int, typer.Option(help="Of DeepCache, where neither a request nor --plan says how.")] = 3,
    branch: Annotated[int, typer.Option(help="Likewise.")] = 0,
    host: Annotated[str, typer.Option(help="0.0.0.0 answers other machines too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where it listens.")] = 8000,
    address: Annotated[
        str | None, typer.Option(help="Of a cluster of Ray, or auto. [default: one that is started here]")
    ] = None,
    replicas: Annotated[int, typer.Option(min=0, help="At most. [default: one for each GPU, or one]")] = 0,
    cores: Annotated[int, typer.Option(min=0, help="Of a replica without a GPU. [default: all]")] = 0,
    batch: Annotated[int, typer.Option(help="Pictures that are drawn together, at most.")] = 8,
    waiting: Annotated[int, typer.Option(help="Pictures that wait in front of a replica, at most.")] = 64,
    seconds: Annotated[float, typer.Option(help="That a request may take.")] = 300.0,
    backend: Annotated[str, typer.Option(help="auto, or a name that `deepcache-trt doctor` lists.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16. [default: float32 without a GPU]")] = "",
    precision: Precision = None,
    quantize: Quantize = None,
    calibration_prompts: CalibrationPrompts = None,
    store: StoreFolder = None,
    config: Annotated[
        Path | None, typer.Option(help="Ray Serve's own .yaml of this application, in place of all but --address.")
    ] = None,
) -> None:
    """Serve pictures over HTTP, on Ray Serve.

    OpenAI's /v1/images/generations, /v1/generate with everything that a pipeline takes, /health, /metrics and /docs.
    Requests of one kind that come at the same time are drawn together. Where DEEPCACHE_TRT_API_KEY is in the
    environment, requests have to show it.
    """
    from deepcache_trt.pipelines.calibrating.prompts import NOISE
    from deepcache_trt.pipelines.calibrating.prompts import calibration_prompts as prompts_of
    from deepcache_trt.runtime.policies import DeepCache
    from deepcache_trt.runtime.policies.plan_file import read_plan

    if config is not None:
        settings, host, port = _from_file(config)
    else:
        policy = DeepCache(cache_interval=interval, cache_branch_id=branch) if plan is None else read_plan(plan).policy
        settings = {
            "models": _named(model or ["digits"]),
            "adapters": _named(lora or ()),
            "policy": policy.to_json(),
            "replicas": replicas,
            "cores": cores,
            "batch": batch,
            "waiting": waiting,
            "seconds": seconds,
            "backend": backend,
            "dtype": dtype,
            "store": str(store.resolve()) if store else "",
            "precision": precision or "",
            "quantize": quantize or (),
            # A replica may run where the file is not.
            "calibration_prompts": prompts_of("", calibration_prompts) or NOISE if calibration_prompts else (),
        }
    _serve({"key": os.environ.get(_KEY, ""), **settings}, host, port, address)


def _serve(args: dict[str, Any], host: str, port: int, address: str | None) -> None:
    try:
        from deepcache_trt.serving.application import settings_from
        from deepcache_trt.serving.cluster import served
    except ImportError as error:
        raise DeepCacheError(f"serve needs Ray ({first_line(error)}); pip install 'deepcache-trt[serve]'") from error
    with served(settings_from(args), host=host, port=port, address=address) as wait:
        typer.echo(f"http://{host}:{port}")
        wait()


def _named(given: Any) -> dict[str, str]:
    """NAME=MODEL; one without a name is called by its last part."""
    found: dict[str, str] = {}
    for each in given:
        name, _, model = each.rpartition("=")
        name = name or Path(model).name
        if name in found:
            raise DeepCacheError(f"two are called {name!r}; name one of them, as other={model}")
        found[name] = model
    return found


def _from_file(path: Path) -> tuple[dict[str, Any], str, int]:
    """The arguments of the application, and where it listens."""
    import yaml

    try:
        found: Any = parsed(read_text(path, most=MOST_BYTES_BY_HAND), yaml.safe_load)
        (application,) = found["applications"]
        http = found.get("http_options") or {}
        return dict(application.get("args") or {}), str(http.get("host", "127.0.0.1")), int(http.get("port", 8000))
    except OSError as error:
        raise DeepCacheError(f"cannot read --config {path}: {error.strerror}; give Ray Serve's .yaml") from error
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise DeepCacheError(
            f"--config {path} is no file of Ray Serve with one application: {first_line(error)}; see docs/serving.md"
        ) from error
