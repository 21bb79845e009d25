"""The double of TensorRT's execution API, and what the engine code calls, are like the real bindings.

The bindings tell what they take and return in the first lines of their docstrings, one line for each overload.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deepcache_trt.engines.store import write_whole
from deepcache_trt.engines.tensorrt import compiler, contexts, kernels, versions
from deepcache_trt.engines.tensorrt import engine as tensorrt
from tests.engines.tensorrt_backend import tensorrt_double
from tests.engines.tensorrt_backend.tensorrt_double import ALIGNMENT, REAL_NAMES, WORKSPACE, Context, Recorder

NAMES = [(double, name) for double in REAL_NAMES for name in vars(double) if not name.startswith("_")]

# What the engine code calls the objects of each class.
CLASSES = {
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "config": "IRuntimeConfig IBuilderConfig",
    "cache": "IRuntimeCache",
    "serialized": "IHostMemory",
    "refitter": "Refitter",
    "parser": "OnnxParser OnnxParserRefitter",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "layer": "ILayer",
    "error": "ParserError",
}

# What older versions of TensorRT have instead of something newer, which is asked for first.
OLDER = {
    "engine.device_memory_size",
    "engine.create_execution_context_without_device_memory",
}


@pytest.fixture(scope="module")
def trt() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="compares with tensorrt-rtx's classes")


def signatures(method: Any) -> list[tuple[list[str], int, str]]:
    """Of each overload of a method: the names of its arguments, how many of them it needs, and what it returns."""
    found = []
    pattern = rf"^(?:\d+\. )?{method.__name__}\(self: [\w.]+(?:, )?(.*)\) -> (.+)$"
    for arguments, returned in re.findall(pattern, method.__doc__, re.MULTILINE):
        names = re.findall(r"(?:^|, )(\w+): ", re.sub(r"<[^>]*>", "", arguments))
        found.append((names, len(names) - arguments.count(" = "), returned.split(".")[-1].split("::")[-1]))
    assert found, f"{method.__doc__!r} tells no arguments"
    return found


def returned_by(function: Any) -> set[str]:
    """What a method of the double returns, in the words of the real one; what may be missing is None there too."""
    annotation = inspect.get_annotations(function, eval_str=True)["return"]
    kinds = [kind for kind in getattr(annotation, "__args__", ()) if kind is not type(None)]
    if annotation is Any:
        return {"DataType"}
    if annotation is None or not kinds or getattr(annotation, "__origin__", None) is list:
        return {
            str(annotation) if not isinstance(annotation, type) else REAL_NAMES.get(annotation, annotation.__name__)
        }
    return {REAL_NAMES.get(kind, kind.__name__) for kind in kinds}


@pytest.mark.parametrize(("double", "name"), NAMES, ids=[f"{REAL_NAMES[double]}.{name}" for double, name in NAMES])
def test_the_double_takes_and_returns_what_tensorrt_does(trt: Any, double: type[object], name: str) -> None:
    real, own = getattr(getattr(trt, REAL_NAMES[double]), name, None), getattr(double, name)
    assert real is not None, f"TensorRT has no {REAL_NAMES[double]}.{name}"
    assert callable(real) == callable(own)
    if callable(own):
        arguments = list(inspect.signature(own).parameters)[1:]
        assert any(
            arguments[:needed] == names[:needed] and set(arguments) <= set(names) and {result} == returned_by(own)
            for names, needed, result in signatures(real)
        ), f"{arguments} -> {returned_by(own)} is none of {signatures(real)}"


def uses(module: ModuleType) -> Iterator[tuple[str, str, int | None]]:
    """Every `x.name` on an object of TensorRT in the source, and the number of arguments where it is called."""
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
        if owner.lstrip("_") in CLASSES and not node.attr.startswith("__"):
            call = calls.get(id(node))
            yield owner.lstrip("_"), node.attr, None if call is None else len(call.args) + len(call.keywords)


FOUND = {use for module in (versions, tensorrt, contexts, kernels, compiler) for use in uses(module)}
USES = sorted((use for use in FOUND if f"{use[0]}.{use[1]}" not in OLDER), key=str)


@pytest.mark.parametrize("use", USES, ids=[f"{owner}.{name}" for owner, name, _ in USES])
def test_what_the_engine_code_calls_is_there_and_takes_as_many_arguments(
    trt: Any, use: tuple[str, str, int | None]
) -> None:
    owner, name, count = use
    members = [
        getattr(getattr(trt, kind), name) for kind in CLASSES[owner].split() if hasattr(getattr(trt, kind), name)
    ]
    assert members
    assert count is None or any(
        needed <= count <= len(names) for member in members for names, needed, _ in signatures(member)
    )


def test_the_memory_of_tensorrt_is_written_to_a_file_as_it_is(trt: Any, tmp_path: Path) -> None:
    """A runtime cache, which only a GPU can make, gives memory of the same class as a build does."""
    builder = trt.Builder(versions.logger(trt))
    network, config = builder.create_network(0), builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    network.mark_output(network.add_identity(network.add_input("x", trt.float32, (2, 4))).get_output(0))
    memory = builder.build_serialized_network(network, config)
    assert type(memory) is trt.IHostMemory
    assert signatures(trt.IRuntimeCache.serialize)[0][2] == type(memory).__name__
    doubled = tensorrt_double.host_memory(bytes(memory))
    for each in (memory, doubled):
        write_whole(tmp_path / "file", each)
        assert (tmp_path / "file").read_bytes() == bytes(memory)
        assert (each.nbytes, kernels._digest(each)) == (memory.nbytes, kernels._digest(bytes(memory)))
        with pytest.raises(TypeError):
            len(each)


# What it refuses.


@pytest.fixture
def context(recorder: Recorder) -> Context:
    context = Context(recorder)
    assert context.set_optimization_profile_async(0, 77)
    context.set_device_memory(ALIGNMENT, WORKSPACE)
    assert context.set_input_shape("sample", (2, 4, 8, 8))
    assert context.set_input_shape("timestep", (1,))
    assert all(context.set_tensor_address(name, ALIGNMENT) for name in tensorrt_double.TENSORS)
    return context


def test_it_runs_when_everything_is_set(context: Context) -> None:
    assert context.execute_async_v3(77)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("set_input_shape", ("sample", (5, 4, 8, 8))),
        ("set_input_shape", ("sample", (2, 4, 16, 16))),
        ("set_input_shape", ("sample", (2, 4, 8))),
        ("set_input_shape", ("out", (2, 4, 8, 8))),
        ("set_tensor_address", ("latents", ALIGNMENT)),
        ("set_tensor_address", ("sample", ALIGNMENT + 4)),
        ("set_optimization_profile_async", (2, 77)),
    ],
)
def test_it_refuses_what_tensorrt_refuses(context: Context, recorder: Recorder, call: str, arguments: Any) -> None:
    assert getattr(context, call)(*arguments) is False
    assert recorder.errors
    assert context.execute_async_v3(77)  # what was set before is still set


@pytest.mark.parametrize("missing", ["shape", "address", "memory"])
def test_it_does_not_run_before_everything_is_set(recorder: Recorder, missing: str) -> None:
    context = Context(recorder)
    if missing != "memory":
        context.set_device_memory(ALIGNMENT, WORKSPACE)
    context.set_input_shape("timestep", (1,))
    if missing != "shape":
        context.set_input_shape("sample", (2, 4, 8, 8))
    for name in tensorrt_double.TENSORS[missing == "address" :]:
        context.set_tensor_address(name, ALIGNMENT)
    assert not context.execute_async_v3(77)


def test_another_profile_forgets_the_shapes(context: Context) -> None:
    assert context.set_optimization_profile_async(0, 77)
    assert context.execute_async_v3(77)
    assert context.set_optimization_profile_async(1, 77)
    assert not context.execute_async_v3(77)


def test_it_does_nothing_but_run_during_a_capture_and_that_only_if_it_can(context: Context, recorder: Recorder) -> None:
    recorder.capturing = True
    assert context.execute_async_v3(77)
    with pytest.raises(AssertionError, match="set_input_shape during a capture"):
        context.set_input_shape("timestep", (1,))
    recorder.capturable = False
    assert not context.execute_async_v3(77)


def test_it_does_nothing_for_another_gpu_than_the_engines(context: Context, recorder: Recorder) -> None:
    recorder.device = 0
    with pytest.raises(AssertionError, match="execute_async_v3 on GPU 0, the engine is on -1"):
        context.execute_async_v3(77)
