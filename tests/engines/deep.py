"""A small model with a tap, and torch engines of its variants."""

from collections.abc import Callable

import torch

from deepcache_trt.engines.torch.engine import Mode, TorchEngine
from deepcache_trt.models.architecture import Architecture, answer_as
from deepcache_trt.models.taps import Tap, Variant
from deepcache_trt.models.traceable import Tensors
from deepcache_trt.runtime.policies.deepcache import variants_at
from tests.engines.graphs import by_name, spec

IMAGE = ("batch", 4, "height", "width")


class Deep(torch.nn.Module):
    """out = last(first(x) + deep(first(x))): the tap is the output of `deep`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = (torch.nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.deep = torch.nn.Sequential(*(torch.nn.Conv2d(4, 4, 3, padding=1) for _ in range(4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        out: torch.Tensor = self.last(x + self.deep(x))
        return out


def _call_deep(model: torch.nn.Module, tensors: Tensors) -> dict[str, torch.Tensor]:
    return {"noise_pred": model(tensors["sample"])}


DEEP = Architecture(
    inputs=(spec("sample", "float32", *IMAGE),),
    outputs=(spec("noise_pred", "float32", *IMAGE),),
    call=_call_deep,
    answer=answer_as("UNet2DConditionOutput"),
    max_batch=8,
    taps=(Tap(name="tap_0", path="deep"),),
)
FULL, SHALLOW = variants_at(0)


def new_model() -> torch.nn.Module:
    """With seeded weights."""
    torch.manual_seed(0)
    return Deep().eval()


def engine_of(function: Callable[[Tensors], Tensors], variant: Variant, mode: Mode) -> TorchEngine:
    tap = spec("tap_0", "float32", *IMAGE)
    return TorchEngine(
        function,
        inputs=by_name(*DEEP.inputs, *(tap for _ in variant.consumes)),
        outputs=by_name(*DEEP.outputs, *(tap for _ in variant.emits)),
        device="cpu",
        mode=mode,
    )


def run(engine: TorchEngine, tensors: Tensors) -> dict[str, torch.Tensor]:
    """What an engine writes into outputs of its own; all tensors of the small model have one shape."""
    outputs = {name: torch.full(tensors["sample"].shape, torch.nan) for name in engine.outputs}
    for name, tensor in ({name: tensors[name] for name in engine.inputs} | outputs).items():
        engine.bind(name, tensor)
    engine.run()
    return outputs


def sample(*shape: int) -> dict[str, torch.Tensor]:
    return {"sample": torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))}
