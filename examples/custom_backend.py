"""Add a backend of your own, here ONNX Runtime's plainest call, and draw a picture with it.

    python examples/custom_backend.py

A package that you install can do without the `register` below. It names its value as an entry point, and every command
and pipeline then knows the backend:

    [project.entry-points."deepcache_trt.backends"]
    plain = "your_package.your_module:BACKEND"
"""

from pathlib import Path

import onnxruntime
import torch

from deepcache_trt import DeepCachePipeline
from deepcache_trt.engines import backends
from deepcache_trt.engines.backend import ENGINE_GRAPH, Backend, Built
from deepcache_trt.engines.engine import Engine, check_binding
from deepcache_trt.tensors import TensorSpec


class PlainEngine(Engine):
    """A variant in an ONNX Runtime session that takes numpy arrays and gives new ones."""

    capturable = False  # there is no CUDA graph on a CPU

    def __init__(self, graph: Path, inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec]) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self._bound: dict[str, torch.Tensor] = {}

    def bind(self, name: str, tensor: torch.Tensor) -> None:
        """Keep the tensor, whose memory is the caller's, for the next runs."""
        check_binding(self.inputs.get(name) or self.outputs[name], tensor, "cpu")
        self._bound[name] = tensor

    def run(self) -> None:
        """Fill the bound outputs."""
        arrays = self._session.run([*self.outputs], {name: self._bound[name].numpy() for name in self.inputs})
        for name, array in zip(self.outputs, arrays, strict=True):
            self._bound[name].copy_(torch.from_numpy(array))

    def close(self) -> None:
        """Let go of the tensors."""
        self._bound.clear()


def open_plain(built: Built) -> PlainEngine:
    """From what was built, here the graph itself, to an engine."""
    return PlainEngine(built.folder / ENGINE_GRAPH, dict(built.inputs), dict(built.outputs))


BACKEND = Backend(
    name="plain",
    device="cpu",
    probe=lambda: onnxruntime.__version__,
    version=lambda: onnxruntime.__version__,
    open=open_plain,
)


def main(model: str = "digits", prompt: str = "a handwritten seven", steps: int = 50, out: str = "custom.png") -> None:
    """Draw `prompt` on engines of the backend above.

    Args:
        model: a hub id, a folder, or a name of the catalogue; "digits" is bundled.
        prompt: of the picture.
        steps: denoising steps.
        out: the PNG.
    """
    backends.register(BACKEND)
    pipe = DeepCachePipeline.from_pretrained(model, dtype=torch.float32, cache_interval=3, backend="plain")
    pipe(prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(0)).images[0].save(out)
    print({variant: len(seconds) for variant, seconds in pipe.last_run.runs.items()})


if __name__ == "__main__":
    main()
