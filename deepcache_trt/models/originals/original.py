"""What is known of a checkpoint in its original layout: how its tensors are called in diffusers, and what it lacks.

Renaming is a function of a dictionary of tensors, one for each component that the checkpoint holds. Whatever has no
place in the model, or is missing from it, is found by comparing the two, and refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepcache_trt.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

# From the tensors of a checkpoint, and the config of the model that they are for, to those of the model in diffusers.
# Of a checkpoint that holds several models each has its own, which leaves the tensors of the others out.
Rename = Callable[["Mapping[str, torch.Tensor]", Mapping[str, Any]], "Tensors"]


@dataclass(frozen=True, kw_only=True)
class Original:
    """The layout of one kind of checkpoint.

    Attributes:
        code: whose it is, for a person.
        pipeline: the class that runs the model.
        parts: the components that the checkpoint holds, and how to rename its tensors for each.
        scheduler: the class of the scheduler that goes with it, and its config.
        wants_vae: whether the pipeline has a VAE that is published apart.
    """

    code: str
    pipeline: str
    parts: Mapping[str, Rename]
    scheduler: tuple[str, Mapping[str, Any]]
    wants_vae: bool = False


def check_fits(found: "Mapping[str, torch.Tensor]", wanted: "Mapping[str, torch.Tensor]", *, what: str) -> None:
    """Raise CheckpointError unless tensors have the names and shapes that a model wants.

    Args:
        found: the tensors.
        wanted: those of the model, which may be on no device.
        what: of which architecture it is, for the message.
    """
    cure = "check that it is of this architecture"
    for name in wanted:
        if name not in found:
            raise CheckpointError(f"{what} has {name}, which the checkpoint lacks; {cure}")
    for name, tensor in found.items():
        if name not in wanted:
            raise CheckpointError(f"{what} has no {name}, which the checkpoint has; {cure}")
        if tensor.shape != wanted[name].shape:
            shapes = f"{list(tensor.shape)} in the checkpoint and {list(wanted[name].shape)} in {what}"
            raise CheckpointError(f"{name} is {shapes}; {cure}")
