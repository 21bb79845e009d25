"""The tree of a live model's modules against that of a new model of its config.

People change models in place: they set circular padding, exchange activations, take layers away, hang hooks on blocks,
replace the `forward` of a block or the class of it. What an export from the live modules carries is told as differences
that make another graph; whatever runs Python of its own beside the modules of torch, diffusers and transformers is
refused by its path.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import FunctionType
from typing import Any

import torch
from torch.nn.modules import module as torch_module

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.fresh import config_of, empty_model

_LIBRARIES = {"torch", "diffusers", "transformers", "deepcache_trt"}
# They wrap methods of models and compute nothing; of ours are those of a model whose weights are dropped.
_WRAPPERS = {"accelerate", "huggingface_hub", "functools", "typing", "deepcache_trt"}
# Where torch keeps modules whose weights are made of others, or quantized.
_COMPUTED = (
    "torch.nn.utils",
    "torch.ao.",
    "torch.nn.quantized",
    "torch.nn.intrinsic",
    "torch.nn.quantizable",
    "torch.nn.qat",
)

HOOKS = {"_forward_hooks": "a forward hook", "_forward_pre_hooks": "a forward pre-hook"}
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")

# What says nothing about what a module computes, beside what every module of torch has: how gradients are kept, how
# the work of one layer is parted, and marks of diffusers, transformers and peft.
_SILENT = {
    *vars(torch.nn.Module()),
    *("gradient_checkpointing", "_gradient_checkpointing_func", "_chunk_size", "_chunk_dim", "_compiled_call_impl"),
    *("_internal_dict", "peft_config", "_hf_peft_config_loaded", "_is_hf_initialized", "fused_projections"),
    "_output_capturing_hooks_installed",
}
# The parts of a model that `models.processors` knows.
_PROCESSOR, _PROJECTIONS = "processor", "encoder_hid_proj"

# There are many tensors, and each is asked before every image.
_form = attrgetter("dtype", "shape")

_INSTEAD = "or call pipe.disable_cache() for this image, or keep this component off the engines with components=(…)"


@dataclass(frozen=True)
class _Place:
    """A module of a tree, where peft's wrappings are taken off."""

    path: str
    module: torch.nn.Module


class Snapshot:
    """A tree as it was: tells in a millisecond whether anything but the values of its `tensors` has changed since."""

    def __init__(self, model: Any, path: str) -> None:
        """Of the model's sub-module at a path."""
        self.model = model
        self._config = model.config
        self._root = model.get_submodule(path)
        self._modules = list(self._root.modules())
        self._classes = list(map(type, self._modules))
        classes = {base for kind in set(self._classes) for base in kind.__mro__}
        live: list[Mapping[str, Any]] = [vars(model.config), *map(vars, classes), *_dicts(self._modules)]
        # Most are empty, and tell faster that they still are.
        self._empty, self._live = [each for each in live if not each], [each for each in live if each]
        self._kept = [dict(each) for each in self._live]
        self._about_root = _without_forward(self._root)
        self.tensors = [tensor for module in self._modules for tensor in _own_tensors(module)]
        self._forms = list(map(_form, self.tensors))

    def is_current(self) -> bool:
        """Whether it still is so."""
        forward = vars(self._root).get("forward")
        is_own = forward is None or own_method(self._root, forward)
        if self.model.config is not self._config or not is_own or _has_global_hooks():
            return False
        try:
            is_same = list(map(type, self._modules)) == self._classes and not any(self._empty)
            is_same = is_same and self._live == self._kept and _without_forward(self._root) == self._about_root
            return is_same and list(map(_form, self.tensors)) == self._forms
        except (RuntimeError, ValueError):  # a tensor or an array was put in the place of another
            return False


def _own_tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    held = (*module._parameters.values(), *module._buffers.values())
    return (tensor for tensor in held if tensor is not None)


def _without_forward(root: torch.nn.Module) -> dict[str, Any]:
    """What a module has beside its `forward`, in whose place another stands while it runs on engines."""
    return {name: value for name, value in vars(root).items() if name != "forward"}


def _dicts(modules: Sequence[torch.nn.Module]) -> Iterator[Mapping[str, Any]]:
    """Everything that is kept in the modules, in that of the first apart from the module itself."""
    yield from map(vars, modules[1:])
    for module in modules:
        yield from (module._modules, module._parameters, module._buffers)
        yield from (vars(module)[hooks] for hooks in HOOKS)
        yield from (
            vars(value) for name, value in vars(module).items() if name == _PROCESSOR and hasattr(value, "__dict__")
        )


_fresh_trees: dict[tuple[Any, str, str], Mapping[str, Any]] = {}


def differences(model: Any, path: str) -> dict[str, Any]:
    """What the modules of a live model are that those of a new one of its config are not; as JSON, {}: nothing.

    Two models of one config with the same differences compute the same with the same weights.

    Args:
        model: of diffusers or transformers.
        path: of the sub-module that engines stand for; "" is the model itself, whose own hooks go on firing.

    Raises:
        UnsupportedError: something that a graph cannot carry, with its path and a cure.
    """
    root = model.get_submodule(path)
    _check(model, root)
    live, fresh = _facts(root), _fresh_facts(type(model), config_of(model), path)
    # The libraries keep marks of their own in a model itself, as the scale that a LoRA was fused with.
    known = fresh[""]["attributes"]
    live[""]["attributes"] = {name: value for name, value in live[""]["attributes"].items() if name in known}
    different: dict[str, Any] = {path: facts for path, facts in live.items() if facts != fresh.get(path)}
    return different | {path: None for path in fresh if path not in live}


def _fresh_facts(model_class: Any, config: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    key = model_class, repr(sorted(config.items())), path
    if key not in _fresh_trees:
        _fresh_trees[key] = _facts(empty_model(model_class, config).get_submodule(path))
    return _fresh_trees[key]


def _places(module: torch.nn.Module, path: str = "") -> Iterator[_Place]:
    module = unwrapped(module)
    yield _Place(path, module)
    for name, child in module.named_children():
        if name != _PROCESSOR and (path or name != _PROJECTIONS):
            yield from _places(child, f"{path}.{name}" if path else name)


def _facts(root: torch.nn.Module) -> dict[str, dict[str, Any]]:
    return {place.path: _describe(place) for place in _places(root)}


def _describe(place: _Place) -> dict[str, Any]:
    module = place.module
    # An attribute that is None is what one is that is not there: FreeU, switched off, leaves such.
    own = {
        name: value
        for name, value in vars(module).items()
        if value is not None and name not in _SILENT and not (callable(value) and own_method(module, value))
    }
    if not place.path:  # the libraries keep their affairs there
        own = {name: value for name, value in own.items() if not name.startswith("_")}
    own = {name: _plain(value) for name, value in own.items() if name != _PROCESSOR}
    tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return {
        "class": _name(type(module)),
        "attributes": own,
        "tensors": {name: list(tensor.shape) for name, tensor in tensors},
    }


def _plain(value: Any) -> Any:
    """As JSON; of what has no such form, what it is."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | set):
        return [_plain(each) for each in value]
    if isinstance(value, torch.dtype):
        return str(value)
    return _name(value) if hasattr(value, "__qualname__") else _name(type(value))


def _name(of: Any) -> str:
    return f"{of.__module__}.{of.__qualname__}"


def _has_global_hooks() -> bool:
    return any(getattr(torch_module, name) for name in _GLOBAL_HOOKS)


def _check(model: Any, root: torch.nn.Module) -> None:
    """Raise UnsupportedError for what no graph of the modules says."""
    if _has_global_hooks():
        raise UnsupportedError(
            f"there are hooks on all modules of torch, which engines have not; remove them, {_INSTEAD}"
        )
    dtypes: dict[torch.dtype, str] = {}
    for place in _places(root):
        problem = _problem_of(place)
        where = f"{place.path or 'the model'} of {type(model).__name__}"
        if problem:
            raise UnsupportedError(f"{where} {problem}, {_INSTEAD}")
        for name, parameter in place.module.named_parameters(recurse=False):
            if parameter.is_floating_point():
                dtypes.setdefault(parameter.dtype, f"{place.path}.{name}".lstrip("."))
    if len(dtypes) > 1:
        said = " and ".join(f"{name} is {str(dtype).removeprefix('torch.')}" for dtype, name in dtypes.items())
        raise UnsupportedError(
            f"the weights of {type(model).__name__} have several precisions: {said}; an engine has one: give all of "
            f"them the same with .to(torch.float32), {_INSTEAD}"
        )


def _problem_of(place: _Place) -> str:
    """What a graph cannot carry of one module, and how to undo it; "" where there is nothing."""
    module, kind = place.module, type(place.module)
    for hooks, words in HOOKS.items():
        if place.path and len(kept_hooks(module, hooks)) < len(vars(module)[hooks]):
            return f"has {words}, which engines would not call; remove it with the handle that setting it returned"
    if not _is_known(kind):
        return (
            f"is a {kind.__name__} of {kind.__module__}, and engines are made of modules of torch, diffusers and "
            f"transformers; put the original module back"
        )
    if method := _foreign_method(kind):
        return f"is a {kind.__name__}, whose method {method} was replaced in its class; put the original back"
    for name, value in vars(module).items():
        if name in _SILENT or not callable(value) or own_method(module, value):
            continue
        if callable(getattr(kind, name, None)):
            return f"has a method {name} of its own ({_described(value)}); delete that attribute"
        if isinstance(value, FunctionType) and not _is_known(value):
            return f"has {name}={_described(value)}, a function of its own; put back one of torch"
    for name, parameter in module.named_parameters(recurse=False):
        origin = type(parameter).__module__
        if origin != "torch.nn.parameter" and not origin.startswith("deepcache_trt."):
            return f"has {name} as a {type(parameter).__name__} of {origin}; load the model without quantization"
    dropout = _dropout_of(module) if module.training else 0.0
    if dropout:
        return f"is in training mode, where its dropout of {dropout:g} draws at random; call eval() of the model"
    return ""


def kept_hooks(module: torch.nn.Module, hooks: str) -> "OrderedDict[int, Any]":
    """Those with which transformers collects hidden states: they are part of how its models are called."""
    kept = ((key, hook) for key, hook in vars(module)[hooks].items() if _top(hook) == "transformers")
    return OrderedDict(kept)


def _is_known(of: Any) -> bool:
    where = of.__module__ or ""
    return _top(of) in _LIBRARIES and not where.startswith(_COMPUTED)


def _described(value: Any) -> str:
    return _name(value) if hasattr(value, "__qualname__") else repr(type(value))


def _foreign_method(kind: type) -> str:
    """A method of a class that someone has put there who is not its library; "" where there is none."""
    for base in kind.__mro__:
        if base.__module__.split(".")[0] in _LIBRARIES:
            for name, method in vars(base).items():
                if isinstance(method, FunctionType) and _top(method) not in _LIBRARIES | _WRAPPERS:
                    return f"{base.__name__}.{name}"
    return ""


def _top(of: Any) -> str:
    return (of.__module__ or "").split(".")[0]


def _dropout_of(module: torch.nn.Module) -> float:
    if isinstance(module, torch.nn.modules.dropout._DropoutNd):
        return module.p
    values = (vars(module).get(name) for name in ("dropout", "attention_dropout"))
    return max((float(value) for value in values if isinstance(value, int | float)), default=0.0)


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The layer that peft has wrapped, or the module itself."""
    wrapped: torch.nn.Module | None = getattr(module, "base_layer", None)
    return wrapped if wrapped is not None and type(module).__module__.startswith("peft.") else module


def own_method(module: torch.nn.Module, value: Any) -> bool:
    """Whether an attribute is a method of the module's class, or stands for it as long as engines are installed."""
    if _top(value) == "deepcache_trt":
        value = getattr(value, "__wrapped__", None)
    is_own: bool = getattr(value, "__self__", None) is module
    return is_own and getattr(type(module), value.__name__, None) is value.__func__
