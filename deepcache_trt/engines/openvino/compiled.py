"""What OpenVINO has compiled of one graph for one profile of shapes, and the files that it is kept in."""

import logging
import mmap
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepcache_trt.engines.caches import is_usable, keep
from deepcache_trt.engines.openvino.library import core, has_bfloat16, load, reason, threads
from deepcache_trt.engines.openvino.quantized import in_two, is_quantized_bfloat16, scale_in_float32

_log = logging.getLogger(__name__)

# How often the pages of a file that is being loaded are given back.
_GIVE_BACK_SECONDS = 0.02


# The parts that a graph is compiled in, each with OpenVINO's name of what it may round float32 to: a whole graph, or
# what of a quantized one must not be rounded, and its rest. OpenVINO's own choice, bf16 where the CPU has it, rounds
# whatever a graph holds in float32: float32 pipelines, and in all others the timestep, of which 481 then gives the
# image of 480; "f32" keeps to the graph's own types.
_WHOLE, _BEFORE, _ROUNDED = "whole", "before", "rounded"
_PRECISIONS = {_WHOLE: "f32", _BEFORE: "f32", _ROUNDED: "bf16"}


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """Requests that run in a row: each may be given what the one before it has made, by name.

    Attributes:
        requests: of OpenVINO.
        files: what they read from, alive for as long as they are.
    """

    requests: tuple[Any, ...]
    files: tuple[Any, ...] = ()

    def bind(self, name: str, tensor: Any) -> None:
        """Use a tensor of OpenVINO as an input or an output of that name."""
        readers = [request for request in self.requests if name in _names(request)]
        assert readers, f"nothing that was compiled has {name}"
        for request in readers:
            request.set_tensor(name, tensor)

    def infer(self) -> None:
        """Run all of them."""
        *first, last = self.requests
        for request in first:
            request.infer()
            for place in request.get_compiled_model().outputs:
                last.set_tensor(place.get_any_name(), request.get_tensor(place))
        last.infer()


def compiled(graph: Path, shapes: Mapping[str, Any], blob: Path | None) -> Compiled:
    """Compile a graph, or load what was compiled of it before.

    Args:
        graph: its weights beside it.
        shapes: OpenVINO's, of each input.
        blob: where what is compiled is kept, the weights in it: loaded from there it takes less memory and time. None:
            it is compiled each time.

    Raises:
        RuntimeError: OpenVINO cannot compile it.
    """
    if blob is not None:
        try:
            if (kept := _loaded(blob, shapes)) is not None:
                return kept
        except (OSError, RuntimeError, ValueError) as error:
            _log.warning("OpenVINO does not take %s (%s); it is compiled anew", blob, reason(error))
    models = compile_graph(graph, shapes)
    if blob is not None:
        try:
            _save(blob, models)
            if (kept := _loaded(blob, shapes)) is not None:
                return kept
        except OSError as error:  # the next one compiles again
            _log.warning("what OpenVINO compiled was not saved to %s: %s", blob, error.strerror)
    return Compiled(requests=tuple(model.create_infer_request() for model in models.values()))


def compile_graph(graph: Path, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """The models that OpenVINO makes of a graph, by part, in the order in which they run.

    Args:
        graph: its weights beside it.
        shapes: of each input.

    Raises:
        RuntimeError: OpenVINO cannot compile it.
    """
    model = core().read_model(graph)
    is_quantized = is_quantized_bfloat16(model)
    if is_quantized:
        scale_in_float32(model)
    model.reshape(dict(shapes))
    parts = {_WHOLE: model}
    if is_quantized and has_bfloat16():
        before, rest = in_two(model)
        parts = ({} if before is None else {_BEFORE: before}) | {_ROUNDED: rest}
    return {part: core().compile_model(each, "CPU", _config(part)) for part, each in parts.items()}


def _config(part: str) -> dict[str, str | int]:
    own = threads()
    return {"INFERENCE_PRECISION_HINT": _PRECISIONS[part]} | ({"INFERENCE_NUM_THREADS": own} if own else {})


def _file(blob: Path, part: str) -> Path:
    return blob if part == _WHOLE else blob.with_suffix(f".{part}{blob.suffix}")


def _save(blob: Path, models: Mapping[str, Any]) -> None:
    blob.parent.mkdir(parents=True, exist_ok=True)
    for part, model in models.items():
        exported = model.export_model()
        keep(_file(blob, part), exported if isinstance(exported, bytes) else exported.getbuffer())


def _loaded(blob: Path, shapes: Mapping[str, Any]) -> Compiled | None:
    """Requests of what was compiled; None where something of it is not there.

    Raises:
        OSError, RuntimeError, ValueError: OpenVINO does not take it.
    """
    there = [part for part in _PRECISIONS if is_usable(_file(blob, part))]
    parts = [_WHOLE] if _WHOLE in there else there
    if parts == [_BEFORE] or not parts:
        return None
    requests, files = zip(*(_import(_file(blob, part), part) for part in parts), strict=True)
    known = {*shapes, *(name for request in requests[:-1] for name in _made(request))}
    read = [place.get_names() for place in requests[-1].get_compiled_model().inputs]
    return Compiled(requests=requests, files=files) if all(known & names for names in read) else None


def _names(request: Any) -> set[str]:
    """Of the inputs and outputs; each may have several."""
    model = request.get_compiled_model()
    return {name for place in (*model.inputs, *model.outputs) for name in place.get_names()}


def _made(request: Any) -> set[str]:
    return {name for place in request.get_compiled_model().outputs for name in place.get_names()}


def _import(blob: Path, part: str) -> tuple[Any, Any]:
    """A request of a compiled model, and the mapped file that OpenVINO reads some weights from ever after."""
    import numpy as np

    with blob.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # a tensor takes no memory that is read-only
    tensor = load().Tensor(np.frombuffer(mapped, np.uint8), shared_memory=True)
    with _given_back(mapped):
        return core().import_model(tensor, "CPU", _config(part)).create_infer_request(), tensor


@contextmanager
def _given_back(mapped: mmap.mmap) -> Iterator[None]:
    """Give the pages of a mapped file back as they are read: the weights are copied, and would be in memory twice."""
    done = threading.Event()

    def give_back() -> None:
        while not done.wait(_GIVE_BACK_SECONDS):
            mapped.madvise(mmap.MADV_DONTNEED)
        mapped.madvise(mmap.MADV_DONTNEED)

    helper = threading.Thread(target=give_back, daemon=True)
    if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        helper.start()
    try:
        yield
    finally:
        done.set()
        if helper.ident is not None:
            helper.join()
