"""A command for each experiment that is declared; its options are the fields of the experiment's dataclass."""

import inspect
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from deepcache_trt.benchmarks.experiments.declared import experiments
from deepcache_trt.benchmarks.experiments.experiment import Experiment, Workers
from deepcache_trt.commands.typed.options import StoreFolder
from deepcache_trt.documents import MOST_BYTES_BY_HAND, parsed, read_text
from deepcache_trt.errors import DeepCacheError, did_you_mean, reason_of

# How the scripts beside the paper of DeepCache and others call the same.
_ALSO = {
    "batch": ("--batch-size", "--batch_size"),
    "branch": ("--cache-branch-id", "--cache_branch_id"),
    "interval": ("--cache-interval", "--cache_interval"),
    "prompt_file": ("--prompt_file",),
}


def commands() -> Iterator[tuple[str, Callable[..., None]]]:
    """Each of them, as it is typed."""
    for name, experiment in experiments().items():
        yield f"experiment {name}", _command(experiment)


def _command(experiment: Experiment[Any]) -> Callable[..., None]:
    known = {field.name: field for field in fields(experiment.options)}
    hints = get_type_hints(experiment.options, include_extras=True)

    def command(
        out: Annotated[
            Path | None, typer.Option("--out", "--output-dir", "--output_dir", help="Of results. [default: its name]")
        ] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="The first so many samples, for a quick look.")] = None,
        ray: Annotated[
            str | None, typer.Option(help="Draw on workers of Ray: auto, or the address of a cluster.")
        ] = None,
        workers: Annotated[int | None, typer.Option(min=1, help="With --ray. [default: one for each GPU]")] = None,
        store: StoreFolder = None,
        config: Annotated[
            Path | None,
            typer.Option(
                help="The config.json of an earlier run, or a .toml; options go before it.",
                is_eager=True,
                callback=_defaults_from(experiment.name, known),
            ),
        ] = None,
        **given: Any,
    ) -> None:
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        options = experiment.options(**values)
        if workers is not None and ray is None:
            raise DeepCacheError(f"--workers {workers} are Ray's; give --ray auto with it, or leave it out")
        _run(experiment, options, out or Path(experiment.name), limit, ray, workers, store)

    own = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=_option(name, hints[name])
        )
        for name, field in known.items()
    ]
    shared = [each for each in inspect.signature(command).parameters.values() if each.kind is not each.VAR_KEYWORD]
    shared = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in shared]
    vars(command)["__signature__"] = inspect.Signature([*own, *shared])
    command.__annotations__ = {each.name: each.annotation for each in (*own, *shared)}
    command.__doc__ = (
        f"{experiment.says}\n\nPictures, a line about each, a table and a plot go into a folder. A run that was killed "
        "goes on where it was when it is given the same command again, and does nothing twice."
    )
    return command


def _default(field: "Field[Any]") -> Any:
    return list(field.default) if isinstance(field.default, tuple) else field.default


def _option(name: str, hint: Any) -> Any:
    """The annotation of a field as typer reads it."""
    kind, says = get_args(hint) if get_origin(hint) is Annotated else (hint, None)
    if get_origin(kind) is tuple:
        kind = list[get_args(kind)[0]]  # type: ignore[misc]  # a type that is known only here
    return Annotated[kind, typer.Option(f"--{name.replace('_', '-')}", *_ALSO.get(name, ()), help=says)]


def _defaults_from(experiment: str, known: Mapping[str, "Field[Any]"]) -> Callable[..., Path | None]:
    """The callback of --config: what the file says of the experiment's options becomes their defaults."""

    def take(context: typer.Context, config: Path | None) -> Path | None:
        if config is not None:
            context.default_map = _read(config, experiment, known)
        return config

    return take


def _read(path: Path, experiment: str, known: Mapping[str, "Field[Any]"]) -> dict[str, Any]:
    """What a file says of an experiment's options; whether the values are such is typer's to say."""
    try:
        text = read_text(path, most=MOST_BYTES_BY_HAND)
        found: Any = parsed(text, tomllib.loads if path.suffix.lower() == ".toml" else json.loads)
    except (OSError, ValueError) as error:
        raise DeepCacheError(
            f"cannot read --config {path}: {reason_of(error)}; give the config.json of an experiment"
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("experiment"), str):
        raise DeepCacheError(f"--config {path} names no experiment; give the config.json of one")
    if found["experiment"] != experiment:
        raise DeepCacheError(
            f"--config {path} is of {found['experiment']}; give it to `deepcache-trt experiment {found['experiment']}`"
        )
    for name, value in found.items():
        if name == "experiment":
            continue
        if name not in known:
            raise DeepCacheError(f"--config {path} has an unknown {name!r}{did_you_mean(name, [*known])}; take it out")
        default = known[name].default
        if isinstance(value, bool) != isinstance(default, bool) or isinstance(value, list) != isinstance(
            default, tuple
        ):
            raise DeepCacheError(f"--config {path}: {name} is {json.dumps(value)}, which it cannot be; mend it")
    return {name: value for name, value in found.items() if value is not None}


def _run(
    experiment: Experiment[Any],
    options: Any,
    out: Path,
    limit: int | None,
    ray: str | None,
    workers: int | None,
    store: Path | None,
) -> None:
    from deepcache_trt.benchmarks.experiments.run import run
    from deepcache_trt.benchmarks.timing.allocator import keep_freed_memory
    from deepcache_trt.commands.typed.output import print_table, tell, typed_command
    from deepcache_trt.progress import quiet_libraries, shown

    quiet_libraries()
    keep_freed_memory()
    report = run(
        experiment,
        options,
        out,
        store=store,
        limit=limit,
        workers=None if ray is None else Workers(address=ray, count=workers),
        command=typed_command(),
        progress=shown,
        tell=tell,
    )
    print_table(report.header, report.lines, title=experiment.name)
    for remark in report.remarks:
        typer.echo(f"· {remark}")
    typer.echo(str(out))
