"""Names, dtypes and symbolic shapes of the tensors that pass between models, graphs and engines."""

import ast
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Axes that most families share: pixels of an image for each element of a latent's height and width, and the tokens of
# one prompt, as every CLIP text encoder gives them.
LATENT_PIXELS = 8
PROMPT_TOKENS = 77

Dim = int | str  # a number, or an expression over axes such as "batch" or "height/8"

# The dtypes that a graph input or output can have; names are those of numpy and torch.
DTYPES = ("float32", "float16", "bfloat16", "int64", "bool")

_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Pow: lambda a, b: float(a) ** b,  # a power of whole numbers could fill the memory
}


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One named tensor: `shape` mixes numbers and expressions over the dynamic axes."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __post_init__(self) -> None:
        assert self.dtype in DTYPES, self.dtype

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TensorSpec":
        """Read what a manifest has."""
        return cls(name=data["name"], dtype=data["dtype"], shape=tuple(data["shape"]))

    def resolve(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The concrete shape for the given axis sizes, e.g. `{"batch": 2, "height": 64, "width": 64}`."""
        return tuple(resolve_dim(dim, sizes) for dim in self.shape)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(str(d) for d in self.shape)}]"


def resolve_dim(dim: Dim, sizes: Mapping[str, int]) -> int:
    """Evaluate one dimension; arithmetic only, so a graph from a stranger cannot run code here.

    Raises:
        KeyError: the expression names an axis that `sizes` does not have.
        ValueError: it is no arithmetic, or has no value.
    """
    if isinstance(dim, int):
        return dim
    try:
        return int(_evaluate(ast.parse(dim, mode="eval").body, sizes))
    except (SyntaxError, ArithmeticError, TypeError) as error:  # a TypeError: the root of a negative number
        raise ValueError(f"not a dimension: {dim!r}") from error


def _evaluate(node: ast.expr, sizes: Mapping[str, int]) -> float:
    match node:
        case ast.Constant(value=int() | float() as value):
            return value
        case ast.Name(id=name):
            return sizes[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _ARITHMETIC[type(op)](_evaluate(left, sizes), _evaluate(right, sizes))
        case ast.Call(func=ast.Name(id="floor"), args=[operand], keywords=[]):
            return math.floor(_evaluate(operand, sizes))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, sizes)
    raise ValueError(f"not a dimension: {ast.unparse(node)!r}")


def axis_sizes(specs: Mapping[str, TensorSpec], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Read the size of each dynamic axis off the shapes of the inputs.

    An axis is any dimension that is a bare name. Where two inputs disagree, the first one wins here and the
    disagreement surfaces when the other one is checked against its resolved shape.
    """
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        for dim, size in zip(specs[name].shape, shape, strict=False):
            if isinstance(dim, str) and dim.isidentifier():
                sizes.setdefault(dim, size)
    return sizes


def channels_of(tensor: "torch.Tensor", latents: "torch.Tensor") -> "torch.Tensor":
    """The first channels of what a model was given or predicted, as many as latents [B, C, …] have.

    A model may take further ones, such as a mask, and give further ones, such as a learned variance.
    """
    axis = latents.ndim - 3  # the channels are axis 1 of an image and 2 of a video
    return tensor.narrow(axis, 0, latents.shape[axis])
