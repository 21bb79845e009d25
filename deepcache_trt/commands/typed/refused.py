"""What no option takes, whatever it is for: numbers that nothing can be made of, and text that is none."""

import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from typer.models import ArgumentInfo, ParameterInfo

from deepcache_trt.errors import DeepCacheError

# Far above what anybody means, and far below what fills the memory before it is looked at, by the option's name.
_MOST = {
    **dict.fromkeys(("seed", "random"), 2**63 - 1),
    **dict.fromkeys(("images", "first", "limit", "max-steps", "log-every", "checkpoint-every"), 10**9),
    **dict.fromkeys(("steps", "solve-steps"), 100_000),
    **dict.fromkeys(("size", "height", "width"), 1 << 16),
    "workers": 10_000,
}
_MOST_OF_OTHERS = 1_000_000
_MOST_OF_FLOATS = 10**12

# What may be empty: a picture of nothing in particular is drawn from an empty prompt.
_MAY_BE_EMPTY = {"--prompt", "--negative"}


@functools.cache
def names(function: Callable[..., None]) -> Mapping[str, str]:
    """What a person calls the parameters of a command: the option, as --batch, or the name of an argument."""
    found = {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        info = next((each for each in get_args(parameter.annotation)[1:] if isinstance(each, ParameterInfo)), None)
        # In an annotation the first name stands where the default would be.
        typed = () if info is None else (info.default, *(info.param_decls or ()))
        options = [word for word in typed if isinstance(word, str) and word.startswith("--")]
        is_argument = isinstance(info, ArgumentInfo)
        found[name] = options[0] if options else name if is_argument else f"--{name.replace('_', '-')}"
    return found


def check(option: str, value: Any) -> None:
    """Raise for a value that no option takes.

    Args:
        option: as `names` has it.
        value: as typer gives it; a list of those where the option can be repeated.

    Raises:
        DeepCacheError: it names the option.
    """
    most = _MOST.get(option.removeprefix("--"), _MOST_OF_OTHERS)
    for each in value if isinstance(value, list | tuple) else [value]:
        if isinstance(each, float) and not math.isfinite(each):
            raise DeepCacheError(f"{option} {each} is no finite number; give one")
        if isinstance(each, int) and abs(each) >= 2**63:
            raise DeepCacheError(f"{option} {each} is beyond 64 bits; give a smaller number")
        limit = most if isinstance(each, int) else _MOST_OF_FLOATS
        if isinstance(each, int | float) and abs(each) > limit:
            raise DeepCacheError(f"{option} {each} is beyond {limit:,}; give a smaller number")
        if isinstance(each, str | Path) and not _is_utf8(str(each)):
            raise DeepCacheError(f"{option} {str(each)!r} is not UTF-8; give something that is")


def check_empty(words: Sequence[str], functions: Iterable[Callable[..., None]]) -> None:
    """Raise for an option that is given an empty text: Python takes an empty path for the folder that one is in.

    Args:
        words: as they were typed.
        functions: the commands.

    Raises:
        DeepCacheError: it names the option.
    """
    empty = [option for option, value in itertools.pairwise(words) if value == ""]
    empty += [word.removesuffix("=") for word in words if word.endswith("=") and word.count("=") == 1]
    texts = {option for function in functions for option in _of_text(function)} if empty else set()
    for option in empty:
        if option in texts:
            raise DeepCacheError(f"{option} is empty; give what it is for, or leave it out")


def _of_text(function: Callable[..., None]) -> set[str]:
    """The options of a command that take a path or another text, which must not be empty."""
    known = inspect.signature(function, eval_str=True).parameters
    kinds = {name: str(get_args(each.annotation)[:1]) for name, each in known.items()}
    return {
        option
        for name, option in names(function).items()
        if ("Path" in kinds[name] or "str" in kinds[name]) and option not in _MAY_BE_EMPTY
    }


def _is_utf8(text: str) -> bool:
    """Whether it came from bytes that are; the system's names that are not have half letters in Python."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
