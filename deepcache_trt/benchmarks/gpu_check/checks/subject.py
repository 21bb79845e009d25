"""One model on one backend: what the checks of `gpu_check` run, and what they compare it with."""

import copy
import gc
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch

from deepcache_trt.benchmarks.gpu_check.rows import FAIL, PASS, Row
from deepcache_trt.benchmarks.gpu_check.workloads import WORKLOADS
from deepcache_trt.benchmarks.timing.seeded import drawn_pipeline, seeded_prompt
from deepcache_trt.builder.component import Component, from_model
from deepcache_trt.builder.open_session import open_session
from deepcache_trt.builder.pieces import variants_of
from deepcache_trt.builder.shapes import shapes_from_text
from deepcache_trt.builder.target import Target
from deepcache_trt.engines import backends
from deepcache_trt.engines.engine import Engine
from deepcache_trt.engines.store import Store
from deepcache_trt.export.parity import example_inputs, run_model
from deepcache_trt.models.architecture import OUTPUT
from deepcache_trt.models.catalogue import resolve
from deepcache_trt.models.registry import architecture_of
from deepcache_trt.progress import logged
from deepcache_trt.runtime.policies.deepcache import DeepCache
from deepcache_trt.runtime.session import Session
from deepcache_trt.tensors import LATENT_PIXELS, PROMPT_TOKENS, TensorSpec

BRANCH = 0
POLICY = DeepCache(cache_branch_id=BRANCH)

Tensors = Mapping[str, torch.Tensor]


class Subject:
    """A model and its engines on one backend; what takes time is made when it is first asked for."""

    def __init__(self, *, phase: str = "", backend: str, device: str, model: str, store: Store, until: float) -> None:
        """Nothing is loaded yet.

        Args:
            phase: that asks for it.
            backend: as `deepcache-trt doctor` names it.
            device: "cuda", "cpu", or the compute capability of a GPU elsewhere, such as "sm86".
            model: a key of `WORKLOADS`.
            store: where engines are kept.
            until: when this process will be ended, on the clock of `time.time`.
        """
        self.phase, self.backend, self.place, self.model = phase, backend, device, model
        self.workload = WORKLOADS[model]
        self.dtype = "float32" if device == "cpu" else "float16"
        self.device = "cuda" if device == "cuda" else "cpu"  # where tensors are
        pixels = [str(size) for size in (self.workload.pixels, self.workload.other_pixels) if size]
        self.target = Target(
            backend=backends.find(backend, "cpu" if device == "cpu" else "cuda"),
            store=store,
            shapes=shapes_from_text(pixels, ["1"]),  # read by compiled backends only
            capability=device if device.startswith("sm") else None,
        )
        self._until = until
        self._session: Session | None = None

    def row(self, check: str, status: str | bool, detail: str = "", setting: str = "", /, **figures: Any) -> Row:
        """What a check found; a bool is whether it passed."""
        if isinstance(status, bool):
            status = PASS if status else FAIL
        place = {"phase": self.phase, "backend": self.backend, "device": self.place, "model": self.model}
        return Row(**place, check=check, setting=setting, status=status, figures=figures, detail=detail)

    @property
    def on_gpu(self) -> bool:
        """Whether engines run on a GPU here."""
        return self.device == "cuda"

    @property
    def seconds_left(self) -> float:
        """Until this process will be ended."""
        return self._until - time.time()

    @cached_property
    def pipe(self) -> Any:
        """The plain pipeline of diffusers, in the precision of the engines."""
        from diffusers import StableDiffusionPipeline

        if not self.workload.is_seeded:
            dtype = getattr(torch, self.dtype)
            pipe = StableDiffusionPipeline.from_pretrained(resolve(self.model), dtype=dtype, use_safetensors=True)
        else:
            pipe = drawn_pipeline(self.model, self.dtype, self.device)
        pipe.set_progress_bar_config(disable=True)
        return pipe.to(self.device)

    @cached_property
    def component(self) -> Component:
        """The U-Net as material for engines; those of a cached pipeline have the same key."""
        return from_model(self.pipe.unet, name=self.model, part="unet")

    def sizes(self, pixels: int | None = None) -> dict[str, int]:
        """The axes of one guided image."""
        side = (pixels or self.workload.pixels) // LATENT_PIXELS
        return {"batch": 2, "height": side, "width": side, "sequence": PROMPT_TOKENS}

    def inputs(self, sizes: Mapping[str, int], seed: int = 0) -> Tensors:
        """Seeded inputs of the model, where the engines read them."""
        made = example_inputs(self.component.architecture, sizes, seed=seed)
        return {name: tensor.to(self.device) for name, tensor in made.items()}

    @property
    def session(self) -> Session:
        """The engines, built and open."""
        if self._session is None:
            self._session = open_session(self.component, POLICY, self.target, sizes=self.sizes(), progress=logged)
        return self._session

    def close_session(self) -> dict[str, int]:
        """Let go of the engines, the last one first; returns the bytes of GPU memory that each of them gave back."""
        if self._session is None:
            return {}
        engines, self._session = self._session.engines, None
        return {variant: self._freed_by(engines[variant].close) for variant in reversed(list(engines))}

    def _freed_by(self, close: Callable[[], None]) -> int:
        before = torch.cuda.mem_get_info()[0] if self.on_gpu else 0
        close()
        gc.collect()
        if not self.on_gpu:
            return 0
        torch.cuda.synchronize()
        return torch.cuda.mem_get_info()[0] - before

    @torch.no_grad()
    def reference(self, sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """By variant, what torch computes in float32 for inputs 0 and, with the tap of those, for inputs 1."""
        model = copy.deepcopy(self.pipe.unet).float()
        architecture = architecture_of(model, dtype="float32")
        first, second = (_float(self.inputs(sizes, seed)) for seed in (0, 1))
        full, shallow = variants_of(self.component.architecture, POLICY, self.component.name)
        whole = run_model(model, architecture, full, first)
        cached = run_model(model, architecture, shallow, {**second, **{tap: whole[tap] for tap in shallow.consumes}})
        return {full.name: whole[OUTPUT], shallow.name: cached[OUTPUT]}


class Buffers:
    """Tensors of one shape that engines read and fill, a tap being one tensor for all; and their workspace."""

    def __init__(self, engines: Mapping[str, Engine], sizes: Mapping[str, int], device: str, *, share: bool = True):
        """Bind `engines` to new tensors, and to one workspace or, without `share`, each to its own."""
        self.engines = engines
        self.tensors: dict[str, torch.Tensor] = {}
        workspace = _bytes(max(engine.workspace_bytes for engine in engines.values()), device)
        for engine in engines.values():
            for name, spec in (engine.inputs | engine.outputs).items():
                if name not in self.tensors:
                    self.tensors[name] = _empty(spec, sizes, device)
                engine.bind(name, self.tensors[name])
            if engine.workspace_bytes:
                engine.use_workspace(workspace if share else _bytes(engine.workspace_bytes, device))

    def fill(self, inputs: Tensors) -> None:
        """Copy `inputs` to where the engines read them."""
        for name, tensor in inputs.items():
            self.tensors[name].copy_(tensor)

    def run(self, variant: str, inputs: Tensors) -> torch.Tensor:
        """One step; returns a copy of the prediction."""
        self.fill(inputs)
        self.tensors[OUTPUT].fill_(torch.nan)  # what an engine leaves out is seen
        self.engines[variant].run()
        return self.tensors[OUTPUT].clone()


def record(engine: Engine) -> torch.cuda.CUDAGraph:
    """A run of `engine` as a CUDA graph, after one outside it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        engine.run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        engine.run()
    return graph


def draw(subject: Subject, pipe: Any, **call: Any) -> Any:
    """One image of the workload, always from the same seed; `call` is more of what the pipeline takes, or other."""
    size = subject.workload.pixels
    given = {"height": size, "width": size, "num_inference_steps": subject.workload.steps[0], **call}
    return pipe(**_prompt(subject), generator=torch.Generator().manual_seed(0), **given).images[0]


def _prompt(subject: Subject) -> dict[str, Any]:
    if subject.pipe.text_encoder is not None:
        return {"prompt": "a handwritten seven"}
    return seeded_prompt(subject.pipe.unet)


def _float(tensors: Tensors) -> Tensors:
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _empty(spec: TensorSpec, sizes: Mapping[str, int], device: str) -> torch.Tensor:
    return torch.empty(spec.resolve(sizes), dtype=getattr(torch, spec.dtype), device=device)


def _bytes(count: int, device: str) -> torch.Tensor:
    return torch.empty(count, dtype=torch.uint8, device=device)
