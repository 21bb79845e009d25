"""The torch engine: eager as the reference; compiled, what a supplied tap makes superfluous is gone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.utils.flop_counter import FlopCounterMode

from deepcache_trt.engines.backend import BuildOptions, Built, TorchVariant
from deepcache_trt.engines.torch import COMPILED_CPU
from deepcache_trt.engines.torch.engine import Mode, TorchEngine
from deepcache_trt.errors import BackendError, ShapeError
from deepcache_trt.export import parity
from deepcache_trt.models.registry import architecture_of
from deepcache_trt.models.traceable import Tensors, traceable
from tests import tiny
from tests.engines.deep import DEEP, FULL, SHALLOW, engine_of, new_model, run, sample
from tests.engines.graphs import by_name, spec

# torch's compiler imports modules that define scripts.
imports_torch_jit = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


class Compiler:
    """torch's compiler up to where kernels would be generated, which takes minutes for a U-Net."""

    def __init__(self) -> None:
        self.compilations = 0
        self.flops = 0  # of the last run of what it compiled

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        self.compilations += 1
        compiled: Callable[..., object] = aot_autograd(fw_compiler=self._counting)(graph, inputs)
        return compiled

    def _counting(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., object]:
        def counted(*tensors: torch.Tensor) -> object:
            with FlopCounterMode(display=False) as counter:
                outputs = graph(*tensors)
            self.flops = counter.get_total_flops()
            return outputs

        boxed: Callable[..., object] = make_boxed_func(counted)
        return boxed


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    torch._dynamo.reset()
    compiler = Compiler()
    real = torch.compile

    def with_compiler(function: Tensors, **options: bool) -> object:
        return real(function, backend=compiler, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(torch, "compile", with_compiler)
    return compiler


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return new_model()


SHAPES = [(2, 4, 8, 8), (2, 4, 8, 16), (3, 4, 16, 16), (2, 4, 8, 8), (4, 4, 12, 12)]


@pytest.mark.parametrize("mode", ["eager", "prune", "compile"])
def test_a_cached_step_equals_the_full_one(mode: Mode, model: torch.nn.Module, compiler: Compiler) -> None:
    full, shallow = (engine_of(traceable(model, DEEP, variant), variant, mode) for variant in (FULL, SHALLOW))
    for shape in SHAPES:
        x = sample(*shape)
        outputs = run(full, x)
        torch.testing.assert_close(outputs["noise_pred"], model(x["sample"]).detach())
        cached = run(shallow, {**x, "tap_0": outputs["tap_0"]})
        assert torch.equal(cached["noise_pred"], outputs["noise_pred"])


@imports_torch_jit
def test_the_real_compiler_gives_the_same(model: torch.nn.Module) -> None:
    torch._dynamo.reset()
    x = sample(2, 4, 8, 8)
    tap = run(engine_of(traceable(model, DEEP, FULL), FULL, "eager"), x)["tap_0"]
    cached = run(engine_of(traceable(model, DEEP, SHALLOW), SHALLOW, "compile"), {**x, "tap_0": tap})
    torch.testing.assert_close(cached["noise_pred"], model(x["sample"]).detach())


@pytest.mark.parametrize(("level", "mode"), [(None, None), (3, None), (5, "max-autotune-no-cudagraphs")])
def test_a_high_optimization_level_looks_for_the_fastest_kernels(
    level: int | None, mode: str | None, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def asking(function: object, **options: object) -> object:
        asked.append(options["mode"])
        return function

    monkeypatch.setattr(torch, "compile", asking)
    variant = TorchVariant(
        inputs=by_name(*DEEP.inputs), eager=lambda: dict, traceable=lambda: traceable(model, DEEP, FULL)
    )
    built = Built(
        folder=Path(),
        inputs=by_name(*DEEP.inputs),
        outputs=by_name(*DEEP.outputs),
        profiles=(),
        cache=Path,
        variant=variant,
        options=BuildOptions(optimization_level=level),
    )
    COMPILED_CPU.open(built)
    assert set(asked) == {mode}


def test_what_torch_has_no_use_for_is_refused() -> None:
    for options in (BuildOptions(workspace_bytes=1), BuildOptions(refittable=True)):
        with pytest.raises(BackendError, match="leave these options out"):
            COMPILED_CPU.check(None, options)


def test_the_outputs_are_the_bound_tensors_and_ask_for_no_gradient(model: torch.nn.Module) -> None:
    engine = engine_of(traceable(model, DEEP, FULL), FULL, "eager")
    outputs = run(engine, sample(2, 4, 8, 8))
    assert not any(output.requires_grad or output.isnan().any() for output in outputs.values())


def test_variants_that_take_turns_are_compiled_once_each(model: torch.nn.Module, compiler: Compiler) -> None:
    full, shallow = (engine_of(traceable(model, DEEP, variant), variant, "compile") for variant in (FULL, SHALLOW))
    x = sample(2, 4, 8, 8)
    for _ in range(3):
        tap = run(full, x)["tap_0"]
        for _ in range(2):
            run(shallow, {**x, "tap_0": tap})
    assert compiler.compilations == 2


def test_all_shapes_after_the_first_share_one_compilation(model: torch.nn.Module, compiler: Compiler) -> None:
    engine = engine_of(traceable(model, DEEP, FULL), FULL, "compile")
    for shape, compiled in zip(SHAPES, [1, 2, 2, 2, 2], strict=True):
        run(engine, sample(*shape))
        assert compiler.compilations == compiled, shape


def test_engines_do_not_use_up_one_anothers_compilations(model: torch.nn.Module, compiler: Compiler) -> None:
    count = torch._dynamo.config.recompile_limit + 2
    engines = [engine_of(traceable(model, DEEP, SHALLOW), SHALLOW, "compile") for _ in range(count)]
    x = sample(2, 4, 8, 8)
    for engine in 2 * engines:
        run(engine, {**x, "tap_0": x["sample"]})
    assert compiler.compilations == count


def test_a_cached_step_costs_only_its_own_layers(model: torch.nn.Module, compiler: Compiler) -> None:
    x = {**sample(2, 4, 8, 8), "tap_0": torch.zeros(2, 4, 8, 8)}
    layers = {}
    for variant in (FULL, SHALLOW):
        run(engine_of(traceable(model, DEEP, variant), variant, "compile"), x)
        layers[variant.name] = compiler.flops / (2 * (2 * 8 * 8) * (4 * 4 * 3 * 3))
    assert layers == {"full": 6, "shallow": 2}


# A ControlNet's inputs are more residuals, DiT's taps are of another kind; neither changes what is traced here.
@pytest.mark.parametrize("name", ["sd15", "ddpm"])
def test_the_models_of_diffusers_are_traced_as_a_whole(name: str, compiler: Compiler) -> None:
    unet = tiny.denoiser(name)
    architecture = architecture_of(unet, dtype="float32")
    sizes = {"batch": 2, "height": 8, "width": 16, "sequence": 7}
    inputs = parity.example_inputs(architecture, sizes)
    expected = parity.run_model(unet, architecture, FULL, inputs)
    engine = TorchEngine(
        traceable(unet, architecture, SHALLOW),
        inputs=by_name(*architecture.inputs, spec("tap_0", "float32", *expected["tap_0"].shape)),
        outputs=by_name(*architecture.outputs),
        device="cpu",
        mode="compile",
    )
    output = torch.empty_like(expected["noise_pred"])
    for tensor_name, tensor in {**inputs, "tap_0": expected["tap_0"], "noise_pred": output}.items():
        engine.bind(tensor_name, tensor)
    engine.run()
    assert torch.equal(output, expected["noise_pred"])
    with FlopCounterMode(display=False) as full:
        parity.run_model(unet, architecture, FULL, inputs)
    assert 0 < compiler.flops < 0.5 * full.get_total_flops()
    assert compiler.compilations == 1
    assert not any(module._forward_hooks for module in unet.modules())


# Errors.


@imports_torch_jit
def test_without_a_compiler_the_error_has_the_cure(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._functorch import config as functorch_config
    from torch._inductor import config

    torch._dynamo.reset()
    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(config, "fx_graph_cache", False)  # what an earlier run compiled needs no compiler
    monkeypatch.setattr(functorch_config, "enable_autograd_cache", False)
    engine = engine_of(traceable(model, DEEP, FULL), FULL, "compile")
    cure = r"install a C\+\+ compiler such as g\+\+ .*or use PyTorch without its compiler"
    with pytest.raises(BackendError, match=cure) as caught:
        run(engine, sample(2, 4, 8, 8))
    assert "\n" not in str(caught.value)


def test_a_function_that_cannot_be_traced_is_a_backend_error(compiler: Compiler) -> None:
    def breaks(tensors: Tensors) -> Tensors:
        torch._dynamo.graph_break()
        return {"noise_pred": tensors["sample"], "tap_0": tensors["sample"]}

    with pytest.raises(BackendError, match=r"torch\.compile failed: "):
        run(engine_of(breaks, FULL, "compile"), sample(2, 4, 8, 8))


def test_a_tensor_that_does_not_fit_is_refused_with_its_name(model: torch.nn.Module) -> None:
    engine = engine_of(traceable(model, DEEP, FULL), FULL, "eager")
    with pytest.raises(ShapeError, match=r"sample has shape \[2, 3, 8, 8\]"):
        engine.bind("sample", torch.zeros(2, 3, 8, 8))


@pytest.mark.parametrize("mode", ["eager", "compile"])
def test_close_may_be_repeated(mode: Mode, model: torch.nn.Module, compiler: Compiler) -> None:
    engine = engine_of(traceable(model, DEEP, FULL), FULL, mode)
    run(engine, sample(2, 4, 8, 8))
    engine.close()
    engine.close()
    with pytest.raises(AssertionError):
        engine.run()
