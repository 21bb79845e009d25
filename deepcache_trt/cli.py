"""The command `deepcache-trt`: its commands, and how it ends."""

import functools
import inspect
import io
import logging
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Annotated, Any

import typer

from deepcache_trt import __version__, commands
from deepcache_trt.commands.typed import refused
from deepcache_trt.errors import DeepCacheError, first_line, in_one_line

# Typer's usage errors: click's class or that of its own copy of click, which has no public name.
_USAGE_ERROR: Any = typer.BadParameter.__base__

# What DEEPCACHE_TRT_LOG can be: how much this package says, whatever others do.
_LEVELS = ("debug", "info", "warning", "error")

_INTERRUPTED = 130  # what a shell reports for Ctrl-C; typer returns it too


def _commands() -> Iterator[tuple[str, Callable[..., None]]]:
    """Every command as it is typed: a module in `commands` with a function of its name, in a folder of a first word.

    A folder that has a function of its name is a command by its first word alone, too. A module with a function
    `commands` has those that it gives, by all that is typed.
    """
    for info in pkgutil.walk_packages(commands.__path__, f"{commands.__name__}."):
        module = import_module(info.name)
        typed = info.name.removeprefix(f"{commands.__name__}.").replace(".", " ").replace("_", "-")
        function = getattr(module, info.name.rpartition(".")[2], None)
        if inspect.isfunction(function):
            yield typed, function
        elif hasattr(module, "commands"):
            yield from module.commands()


def _app() -> typer.Typer:
    app = typer.Typer(
        name="deepcache-trt",
        help="Run cached diffusion models: the U-Net as two compiled graphs behind an ordinary diffusers pipeline.",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback(invoke_without_command=True)(_options)
    groups = {"": app}
    for typed, function in COMMANDS.items():
        group, _, name = typed.rpartition(" ")
        if group not in groups:
            groups[group] = typer.Typer(help=import_module(f"{commands.__name__}.{group}").__doc__)
            app.add_typer(groups[group], name=group)
        if any(other.startswith(f"{typed} ") for other in COMMANDS):
            groups[typed] = typer.Typer()
            groups[typed].callback(invoke_without_command=True)(_alone(_sane(function)))
            app.add_typer(groups[typed], name=typed)
        else:
            groups[group].command(name)(_sane(function))
    return app


def _sane(function: Callable[..., None]) -> Callable[..., None]:
    """The same command, which what no option takes does not reach."""

    @functools.wraps(function)
    def checked(**given: Any) -> None:
        for name, value in given.items():
            refused.check(refused.names(function)[name], value)
        function(**given)

    return checked


def _alone(function: Callable[..., None]) -> Callable[..., None]:
    """The command of a first word: it runs where no second word follows, and refuses options before one."""

    @functools.wraps(function)
    def callback(context: typer.Context, **given: Any) -> None:
        if context.invoked_subcommand is None:
            function(**given)
            return
        typed = [name for name in given if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
        if typed:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in typed)
            raise DeepCacheError(
                f"{options} before {context.invoked_subcommand!r} is of `{context.command_path}` alone; leave it out"
            )

    signature = inspect.signature(function, eval_str=True)
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    vars(callback)["__signature__"] = signature.replace(parameters=[context, *signature.parameters.values()])
    callback.__annotations__ = {**inspect.get_annotations(function), "context": typer.Context}
    return callback


def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
) -> None:
    if version:
        typer.echo(f"deepcache-trt {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level="INFO" if verbose else "WARNING")
    if wanted := os.environ.get("DEEPCACHE_TRT_LOG"):
        if wanted not in _LEVELS:
            raise DeepCacheError(f"DEEPCACHE_TRT_LOG={wanted!r} is no level; there are {', '.join(_LEVELS)}")
        logging.getLogger(__package__).setLevel(wanted.upper())


COMMANDS = dict(_commands())
app = _app()


def main() -> None:
    """Run the command; what the user can mend ends in one line and exit code 2, Ctrl-C in 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that has not every letter shows a question mark
            stream.reconfigure(errors="replace")
    try:
        refused.check_empty(sys.argv[1:], COMMANDS.values())
        code = app(prog_name="deepcache-trt", standalone_mode=False)
    except DeepCacheError as error:
        _fail(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}")
    except MemoryError as error:
        _fail(f"there is not the memory for this ({first_line(error)}); ask for less, or give other files")
    except _USAGE_ERROR as error:
        _fail(f"{error.format_message().rstrip('.')}; see {error.ctx.command_path} --help")
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except SystemExit:  # how typer ends where whoever reads the output has read enough, as `head` does
        code = 0
    if code == _INTERRUPTED:
        typer.echo("interrupted", err=True)
    sys.exit(code or 0)


def _fail(message: str) -> None:
    typer.echo(f"error: {in_one_line(message)}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
