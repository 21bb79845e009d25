"""Plain pipelines of diffusers: from a folder, from the hub, or from a checkpoint in one file.

Of a checkpoint in one file, as other programs keep them, diffusers converts the weights; what is no weight, as the
tokenizer and every config, comes from the folder of a pipeline of the same kind.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepcache_trt.errors import CheckpointError, DeepCacheError, UnsupportedError, first_line
from deepcache_trt.models.catalogue import CATALOGUE, resolve
from deepcache_trt.models.checkpoint.folder import INDEX, check_classes, check_folder, fault
from deepcache_trt.models.definitions.pipelines import own_pipeline_class, pipeline_class
from deepcache_trt.models.single_file import SAFE, is_single_file

# All that a pipeline's folder has beside weights.
_NO_WEIGHTS = ("*.json", "*.txt", "*.model")

_UNSAFE = (
    "if it holds its weights only as a pickle, which can run code when it is loaded, and you trust it, say so with "
    "--allow-pickle (use_safetensors=False in Python)"
)
_UNREACHABLE = "check the name, the network and your access, or give a local folder"


def load_pipeline(base: Any, model: Any, arguments: Mapping[str, Any]) -> Any:
    """What `base.from_pretrained` returns, or `base.from_single_file` where `model` is a file.

    Args:
        base: a pipeline class of diffusers; DiffusionPipeline itself stands for that which the checkpoint says.
        model: a hub id, a folder, a name of the catalogue, a file, or its address on the hub.
        arguments: of either method, but for `original_config` of the latter. Pickles are not read unless it has
            `use_safetensors=False`.

    Raises:
        CheckpointError: no such model, or none that diffusers can load.
        UnknownNameError: neither a name of the catalogue, nor a folder, a file or a hub id.
    """
    arguments = {"use_safetensors": True, **arguments}
    if is_single_file(model):
        return _load_single_file(base, str(model), arguments)
    if arguments.get("config") is not None:
        raise CheckpointError(
            f"{model} is not one file, and has configs of its own; leave config={arguments['config']!r} out"
        )
    with as_checkpoint_error(model, _UNREACHABLE, is_safe=arguments["use_safetensors"]):
        found = resolve(model)
        if str(model) not in CATALOGUE and Path(found).is_dir():
            check_folder(Path(found), allow_pickle=not arguments["use_safetensors"])
            check_classes(Path(found))
        return _class_for(base, found).from_pretrained(found, **arguments)


def check_safe(file: str, *, allow_pickle: bool) -> None:
    """Raise CheckpointError for a file of weights that is a pickle, unless those are allowed."""
    if not allow_pickle and not file.endswith(SAFE):
        raise CheckpointError(f"{file} is no {SAFE} file; {_UNSAFE}")


def config_folder(file: str, *, config: Any = None, revision: str | None = None, offline: bool = False) -> Path:
    """The folder of a pipeline of the kind that a file's weights are for.

    Args:
        file: see `is_single_file`.
        config: a folder, a hub id or a name of the catalogue; None: what diffusers takes the file for.
        revision: of the file on the hub.
        offline: whether to look on this machine only.

    Raises:
        CheckpointError: it cannot be had.
    """
    from huggingface_hub import snapshot_download

    repository = resolve(config) if config is not None else _kind_of(file, revision, offline)
    if Path(repository).is_dir():
        return Path(repository)
    cure = (
        f"the configs of {repository} are not on this machine; name the folder of a pipeline of this kind, or its hub "
        f"id, with --config (config=… in Python)"
    )
    with as_checkpoint_error(file, cure):
        return Path(snapshot_download(repository, local_files_only=offline, allow_patterns=list(_NO_WEIGHTS)))


def _class_for(base: Any, model: Any) -> Any:
    """`base`, or the class of ours that a folder is of, which diffusers would not find."""
    import diffusers

    if base is not diffusers.DiffusionPipeline or not Path(model).is_dir():
        return base
    name = base.load_config(model)["_class_name"]
    if pipeline_class(name) is None:
        raise CheckpointError(f"{Path(model) / INDEX}: {name} is no pipeline of diffusers; give a folder of one")
    return own_pipeline_class(name) or base


def _kind_of(file: str, revision: str | None, offline: bool) -> str:
    """The hub id of the first model of the kind of a file, by the names and shapes of its tensors."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config, load_single_file_checkpoint

    with as_checkpoint_error(file, _UNREACHABLE):
        checkpoint = load_single_file_checkpoint(file, revision=revision, local_files_only=offline)
        return str(fetch_diffusers_config(checkpoint)["pretrained_model_name_or_path"])


def _load_single_file(base: Any, file: str, arguments: dict[str, Any]) -> Any:
    import diffusers

    check_safe(file, allow_pickle=not arguments.pop("use_safetensors"))
    if arguments.pop("variant", None) is not None:
        raise CheckpointError(f"a variant is one of several files of a folder, and {file} is one file; leave it out")
    if "://" not in file and not Path(file).is_file():
        raise CheckpointError(f"there is no file {file}; check its name")
    options = {"revision": arguments.get("revision"), "offline": arguments.get("local_files_only", False)}
    folder = config_folder(file, config=arguments.pop("config", None), **options)
    if base is diffusers.DiffusionPipeline:
        base = pipeline_class(base.load_config(folder)["_class_name"])
    if not hasattr(base, "from_single_file"):
        raise UnsupportedError(f"diffusers loads no {base.__name__} from one file; give a folder or a hub id")
    with as_checkpoint_error(file, "check that it holds all of a pipeline, and that config is of the same kind"):
        return base.from_single_file(file, config=str(folder), **arguments)


@contextmanager
def as_checkpoint_error(model: Any, cure: str, *, is_safe: bool = False) -> Iterator[None]:
    """Say in one line that `model` cannot be loaded, and what to do about it: which file of it, where one is at fault.

    What a library meets in files that it is not made for may be any error, of torch and of tokenizers too.
    """
    from diffusers.loaders.single_file_utils import SingleFileComponentError
    from safetensors import SafetensorError

    try:
        yield
    except (DeepCacheError, MemoryError):
        raise
    except Exception as error:
        if isinstance(model, str | Path) and Path(model).is_dir() and (reason := fault(Path(model))):
            raise CheckpointError(reason) from error
        # Of a file that is not there the libraries say so in words; of others what they were about to do.
        known = isinstance(error, OSError | ValueError | SafetensorError | SingleFileComponentError)
        reason = first_line(error) if known else f"{type(error).__name__}: {first_line(error)}"
        if is_safe and "safetensors" in reason:
            cure = _UNSAFE
        raise CheckpointError(f"diffusers cannot load {str(model)!r}: {reason}; {cure}") from error


def load_component(model_class: Any, source: str, cure: str) -> Any:
    """A model by itself, from its folder or the hub.

    Raises:
        CheckpointError: it cannot be had; the message ends with `cure`.
    """
    with as_checkpoint_error(source, cure):
        return model_class.from_pretrained(source)
