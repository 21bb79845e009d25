"""One family of user errors.

    DeepCacheError(ValueError)
    ├── UnknownNameError      a model, backend, variant or option that does not exist
    ├── BackendError          a backend that is not installed, or does not work on this machine
    ├── CheckpointError       a folder or file that is no usable diffusers checkpoint
    ├── ShapeError            a size, batch or dtype that the model or the engine cannot take
    ├── ArgumentError         a value of an argument of which no picture can come
    ├── UnsupportedError      an argument that the graph does not have
    ├── NotBuiltError         an engine that is missing while building is forbidden
    ├── StoreError            the store cannot be read or written (no space, no permission)
    │   └── DamagedError      something in it is not what was written there
    └── ParityError           a built graph that does not compute what the model computes

Every message names the value, the limit and the cure. Our own bugs are assertions, never one of these.
"""

import re

# Absolute paths, but neither what follows a scheme, nor a division, nor what was cut down before.
_PATH = re.compile(r"(?<![\w./:…])(?:/[^\s/:;,'\"()]+)+/?")

# Of what was typed or read, a message repeats so much: what is longer says no more.
_LONGEST, _ENDS = 300, 100
_LONGEST_LINE = 3000


class DeepCacheError(ValueError):
    """Base of every error that the caller can mend."""


class UnknownNameError(DeepCacheError):
    """A name that is not among the known ones; the message lists those."""


class BackendError(DeepCacheError):
    """A backend that is not installed, or that does not work on this machine."""


class CheckpointError(DeepCacheError):
    """A folder or file that is no usable diffusers checkpoint."""


class ShapeError(DeepCacheError):
    """A size, batch or dtype that the model or the engine cannot take."""


class ArgumentError(DeepCacheError):
    """A value of an argument of which no picture can come: no number, negative, or more than the machine holds."""


class UnsupportedError(DeepCacheError):
    """An argument that the graph does not have and that therefore would be ignored."""


class NotBuiltError(DeepCacheError):
    """An engine that is missing while `build="never"` forbids building it."""


class StoreError(DeepCacheError):
    """The store cannot be read or written."""


class DamagedError(StoreError):
    """A manifest, or a file that it names, is not what was written; says which and how."""


class ParityError(DeepCacheError):
    """A built graph that does not compute what the model computes."""


def first_line(error: BaseException) -> str:
    """The first line of another library's message, without its full stop; its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def reason_of(error: Exception) -> str:
    """Why a file cannot be read, for a message that names it: what the system says, or else the first line."""
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)


def in_one_line(message: str) -> str:
    """A message as one line that a terminal only shows: without letters that command it, and with long words cut."""
    words = ("".join(c if c.isprintable() else ascii(c)[1:-1] for c in word) for word in message.split())
    line = " ".join(word if len(word) <= _LONGEST else f"{word[:_ENDS]}…{word[-_ENDS:]}" for word in words)
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…"


def did_you_mean(name: str, known: list[str]) -> str:
    """` (did you mean 'sdxl'?)` for a near miss, else the empty string."""
    from difflib import get_close_matches

    if len(name) > _LONGEST:  # whatever it is, it is near to no name, and comparing it takes long
        return ""
    close = get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def of_compiler(error: Exception) -> str:
    """What torch's compiler says went wrong, on one line, and the cure where it lacks another compiler."""
    text = first_line(error)
    if text.endswith("raised:"):  # the name of the compiler's backend; what it raised comes next
        text = f"{text} {next((line for line in str(error).splitlines()[1:] if line.strip()), '')}"
    if any(word in str(error) for word in ("InvalidCxxCompiler", "TritonMissing", "Failed to find C compiler")):
        text += "; install a C++ compiler such as g++ (and on CUDA triton), or use PyTorch without its compiler"
    return text


def without_paths(text: str) -> str:
    """`text` with every absolute path cut down to its last part: what is published, or sent to others, has none."""
    return _PATH.sub(lambda path: f"…/{path[0].rstrip('/').rsplit('/', 1)[-1]}", text)
