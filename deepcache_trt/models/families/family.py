"""A family: one value that says all that is known of one kind of model.

Nothing else knows a model by the name of its class: whoever has to know something about one asks its family, or the
`Architecture` that the family describes it by.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deepcache_trt.models.architecture import AS_CONFIGURED, Architecture, CallForm


def _as_configured(model: Any, arguments: Mapping[str, Any]) -> CallForm:
    return AS_CONFIGURED


def upcast_if_stated(config: Mapping[str, Any], dtype: str) -> str:
    """The precision of a model whose config says that its activations overflow half precision, as SDXL's VAE's do.

    diffusers upcasts such a model too. A VAE whose checkpoint says nothing (SD1.5, SD2.1) has `force_upcast` by
    default, and runs in half precision in diffusers.
    """
    is_stated = config.get("force_upcast") and "force_upcast" not in config.get("_use_default_values", ())
    return "float32" if is_stated and dtype == "float16" else dtype


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of model.

    Attributes:
        library: that has its class: "diffusers", "transformers", or a module of ours.
        class_name: of its class there.
        describe: gives a model of this class, in a precision and a form of call, as a graph; the model may be on fake
            tensors. Raises UnsupportedError for a kind that is not covered.
        is_denoiser: whether a pipeline calls it at every step, with caches to choose from.
        is_controllable: whether ControlNets can add residuals to its own.
        module: path of the sub-module whose `forward` engines stand for; "" is the model itself.
        follows_denoiser: whether it is called before the denoiser at each step and computes what that reads.
        form: what of a call makes another graph of the model; the arguments are those of its `forward`, by name.
        dtype: the precision to build it in, by its config, where its pipeline is in another.
        straight: the names of pipelines that do nothing between two calls of it but guidance and the scheduler's
            `step`; those that inpaint also paste.
        containers: classes of diffusers that hold several models of it, and the attribute where they have them.
    """

    library: str
    class_name: str
    describe: Callable[[Any, str, CallForm], Architecture]
    is_denoiser: bool = False
    is_controllable: bool = False
    module: str = ""
    follows_denoiser: bool = False
    form: Callable[[Any, Mapping[str, Any]], CallForm] = _as_configured
    dtype: Callable[[Mapping[str, Any], str], str] = upcast_if_stated
    straight: frozenset[str] = frozenset()
    containers: Mapping[str, str] = field(default_factory=dict)

    def model_class(self) -> Any:
        """The class, imported when it is asked for."""
        from importlib import import_module

        return getattr(import_module(self.library), self.class_name)
