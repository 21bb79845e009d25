"""One engine code for TensorRT 8.6 → 11 and TensorRT-RTX: every name exists, or is asked for first."""

import ast
import logging
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deepcache_trt.engines.tensorrt import build as tensorrt_build
from deepcache_trt.engines.tensorrt import compiler as tensorrt_compiler
from deepcache_trt.engines.tensorrt import contexts, kernels, versions
from deepcache_trt.engines.tensorrt import engine as tensorrt
from deepcache_trt.errors import BackendError

# Names that TensorRT-RTX lacks; a gate keeps it from them, and the fakes below have them.
GATED = {"NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "PreviewFeature.PROFILE_SHARING_0806"}


def names_of_trt(module: Any) -> set[str]:
    """Every `trt.X` and `trt.X.Y` in the source of a module."""
    found = set()
    for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
        chain: list[str] = []
        while isinstance(node, ast.Attribute):
            chain.insert(0, node.attr)
            node = node.value
        if chain and isinstance(node, ast.Name) and node.id == "trt" and not chain[0].startswith("__"):
            found.add(".".join(chain))
    return found


MODULES = [versions, tensorrt, contexts, kernels, tensorrt_build, tensorrt_compiler]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_name_that_the_engine_code_uses_exists_or_is_gated(module: Any) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="compares with tensorrt-rtx's names")
    missing = set()
    for name in names_of_trt(module):
        owner = trt
        for part in name.split("."):
            owner = getattr(owner, part, None)
        if owner is None:
            missing.add(name)
    assert missing <= GATED


def fake(name: str, version: str, *flags: str, **names: Any) -> Any:
    """A stand-in for the module of one version; only what differs between versions is in it."""
    creation = SimpleNamespace(**{flag: number for number, flag in enumerate(flags)})
    module = SimpleNamespace(__version__=version, NetworkDefinitionCreationFlag=creation, ILogger=object, **names)
    module.__name__ = name
    return module


STRATEGY = SimpleNamespace(USER_MANAGED="user managed")
PREVIEW = SimpleNamespace(PROFILE_SHARING_0806="profile sharing")
V8 = fake("tensorrt", "8.6.1", "EXPLICIT_BATCH", DataType=SimpleNamespace(HALF="half"), PreviewFeature=PREVIEW)
V9 = fake(
    "tensorrt", "9.3.0.post12", "EXPLICIT_BATCH", "STRONGLY_TYPED", IProgressMonitor=object, PreviewFeature=PREVIEW
)
V10 = fake(
    "tensorrt",
    "10.13.3.9",
    *("EXPLICIT_BATCH", "STRONGLY_TYPED"),
    IProgressMonitor=object,
    ExecutionContextAllocationStrategy=STRATEGY,
    OnnxParserRefitter=object,
)
V11 = fake(
    "tensorrt",
    "11.1.0",
    "STRONGLY_TYPED",
    IProgressMonitor=object,
    ExecutionContextAllocationStrategy=STRATEGY,
    OnnxParserRefitter=object,
)
RTX = fake(
    "tensorrt_rtx",
    "1.7.1.116",
    "STRONGLY_TYPED",
    IProgressMonitor=object,
    ExecutionContextAllocationStrategy=STRATEGY,
    OnnxParserRefitter=object,
    IRuntimeCache=object,
    DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
)
VERSIONS = [V8, V9, V10, V11, RTX]


def each(*expected: Any) -> pytest.MarkDecorator:
    pairs = list(zip(VERSIONS, expected, strict=True))
    return pytest.mark.parametrize(
        ("trt", "expected"), pairs, ids=[f"{trt.__name__}-{trt.__version__}" for trt in VERSIONS]
    )


@each((8, 6, 1), (9, 3, 0), (10, 13, 3, 9), (11, 1, 0), (1, 7, 1, 116))
def test_a_version_is_read_as_numbers(trt: Any, expected: tuple[int, ...]) -> None:
    assert versions.version(trt) == expected


@each(0b01, 0b11, 0b10, 0b1, 0b1)
def test_a_network_has_an_explicit_batch_and_is_strongly_typed_where_it_can(trt: Any, expected: int) -> None:
    assert versions.network_flags(trt) == expected


@each(False, True, True, True, True)
def test_progress_is_asked_for_where_it_exists(trt: Any, expected: bool) -> None:
    assert versions.has_progress(trt) is expected


@each(True, True, True, True, False)
def test_only_tensorrt_measures_kernels(trt: Any, expected: bool) -> None:
    assert versions.keeps_timings(trt) is expected


def network(*dtypes: str) -> Any:
    """A network of one layer with an output of each dtype."""
    outputs = [SimpleNamespace(dtype=dtype) for dtype in dtypes]
    layer = SimpleNamespace(num_outputs=len(outputs), get_output=lambda index: outputs[index])
    return SimpleNamespace(num_layers=1, get_layer=lambda index: layer)


@pytest.mark.parametrize(
    ("dtypes", "flags"), [(["float", "half"], {"fp16": True}), (["float", "int32"], {"fp16": False})]
)
def test_version_8_is_allowed_fp16_where_the_graph_has_it(dtypes: list[str], flags: dict[str, bool]) -> None:
    assert versions.precision_flags(V8, network(*dtypes)) == flags
    assert versions.precision_flags(V10, network(*dtypes)) == {}


class OldEngine:
    """The names of `ICudaEngine` in 8.6."""

    device_memory_size = 100

    def create_execution_context_without_device_memory(self) -> str:
        return "without memory"


class NewEngine:
    """Its names from 10.1."""

    device_memory_size_v2 = 200

    def create_execution_context(self, how: Any) -> Any:
        return how


class RtxEngine(NewEngine):
    def create_runtime_config(self) -> Any:
        config = SimpleNamespace()
        config.set_execution_context_allocation_strategy = lambda how: setattr(config, "strategy", how)
        return config


@each(OldEngine(), OldEngine(), NewEngine(), NewEngine(), RtxEngine())
def test_a_context_is_made_without_memory_of_its_own(trt: Any, expected: Any) -> None:
    engine = expected
    config = versions.runtime_config(trt, engine)
    context = versions.create_context(trt, engine, config)
    if trt is RTX:
        assert context is config is not None
        assert config.strategy == "user managed"
        assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
    else:
        assert context == ("without memory" if type(engine) is OldEngine else "user managed")


def test_memory_is_given_with_its_size_where_that_is_wanted() -> None:
    new, old = SimpleNamespace(), SimpleNamespace()
    new.set_device_memory = lambda *given: setattr(new, "given", given)
    versions.give_memory(new, 256, 100)
    versions.give_memory(old, 256, 100)
    assert (new.given, old.device_memory) == ((256, 100), 256)
    assert (versions.workspace_bytes(NewEngine()), versions.workspace_bytes(OldEngine())) == (200, 100)


@pytest.mark.parametrize("trt", [V8, V9])
def test_versions_that_cannot_read_weights_from_a_graph_say_so(trt: Any) -> None:
    with pytest.raises(BackendError, match=rf"TensorRT {trt.__version__} cannot take weights.*build another engine"):
        versions.refit(trt, object(), Path("engine.onnx"))


def test_a_node_is_named_by_the_error_or_found_by_its_number(tmp_path: Path) -> None:
    from tests.engines.graphs import Net

    graph = Net(tmp_path / "net.onnx").path
    new = SimpleNamespace(node_name=lambda: "conv", node_operator=lambda: "Conv")
    assert versions.node_of(new, graph) == ("conv", "Conv")
    assert versions.node_of(SimpleNamespace(node=lambda: 2), graph) == ("conv0", "Conv")
    assert versions.node_of(SimpleNamespace(node=lambda: -1), graph) == ("", "")


# The module.


@pytest.mark.parametrize(
    ("backend", "module", "extra"), [("tensorrt", "tensorrt", "cuda"), ("tensorrt-rtx", "tensorrt_rtx", "rtx")]
)
def test_a_missing_module_and_a_placeholder_are_named_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, backend: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError, match=rf"'{backend}' does not load .*pip install 'deepcache-trt\[{extra}\]'"):
        versions.load(backend)
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(__version__="10.1"))
    with pytest.raises(BackendError, match=rf"'{backend}' is a placeholder .*pip install 'deepcache-trt\[{extra}\]'"):
        versions.load(backend)
    placed = SimpleNamespace(Builder=object)
    monkeypatch.setitem(sys.modules, module, placed)
    assert versions.load(backend) is placed


# The log.


@pytest.mark.parametrize(
    ("severity", "text", "level"),
    [
        ("WARNING", "Unused Input: encoder_hidden_states", logging.INFO),
        ("WARNING", "ModelImporter.cpp:1071: Make sure input timestep has Int64 binding.", logging.INFO),
        ("WARNING", "Tactic Device request: 4194MB Available: 2000MB. Device memory is insufficient", logging.WARNING),
        ("WARNING", "Using an engine plan file across different models of devices is not recom", logging.WARNING),
        ("ERROR", "Error Code 2: OutOfMemory", logging.INFO),
        ("INTERNAL_ERROR", "Assertion failed", logging.INFO),
        ("INFO", "Total Activation Memory: 1 bytes", logging.DEBUG),
        ("VERBOSE", "Setting a default quantization params", 5),
    ],
)
def test_only_warnings_that_matter_are_shown_as_warnings(severity: str, text: str, level: int) -> None:
    assert versions.severity_level(severity, text) == level


def test_errors_are_kept_for_the_exception_without_their_noise(caplog: pytest.LogCaptureFixture) -> None:
    trt = fake("tensorrt", "10.0")
    trt.ILogger = type("ILogger", (), {})
    trt = _Hashable(trt)
    log = versions.logger(trt)
    log.log(SimpleNamespace(name="ERROR"), "before")
    with versions.errors_of(trt) as errors, caplog.at_level(logging.INFO):
        log.log(SimpleNamespace(name="ERROR"), "Error Code 4:\n  no such layer")
        log.log(SimpleNamespace(name="ERROR"), "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime")
        log.log(SimpleNamespace(name="WARNING"), "Unused Input: t")
    assert errors == ["Error Code 4: no such layer"]
    assert versions.reason(errors) == "Error Code 4: no such layer"
    assert versions.reason([]) == "it gave no reason"
    assert len(caplog.records) == 3


def test_a_ctrl_c_inside_the_log_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = _Hashable(fake("tensorrt", "10.0"))

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(versions._log, "log", interrupted)
    with pytest.raises(KeyboardInterrupt), versions.errors_of(trt):
        versions.logger(trt).log(SimpleNamespace(name="INFO"), "deserializing")  # C++ would drop an exception here


class _Hashable:
    """A module can be the key of a cache, a namespace cannot."""

    def __init__(self, names: Any) -> None:
        vars(self).update(vars(names))


def test_the_real_logger_is_taken_by_the_real_builder(caplog: pytest.LogCaptureFixture) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="logs from tensorrt-rtx")
    with versions.errors_of(trt) as errors, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        builder = trt.Builder(versions.logger(trt))
        builder.build_serialized_network(builder.create_network(0), builder.create_builder_config())
    assert any("at least one output" in error or "apability" in error for error in errors), errors


@pytest.mark.parametrize("trt", VERSIONS, ids=lambda trt: f"{trt.__name__} {trt.__version__}")
def test_several_contexts_on_one_profile_are_asked_for_where_that_is_no_matter_of_course(trt: Any) -> None:
    assert versions.preview_features(trt) == (["profile sharing"] if trt in (V8, V9) else [])
