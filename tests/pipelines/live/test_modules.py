"""Modules that are no longer what their config makes are followed or refused, and never ignored."""

from functools import partial
from operator import attrgetter
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepcache_trt import DeepCachePipeline
from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.structure import structure_of
from tests.pipelines import micro
from tests.pipelines.drawing import difference
from tests.pipelines.live.edits import FOLLOWED, FOLLOWED_TEXT, MARKS, REFUSED, circular, hook
from tests.pipelines.weights import own_models

SD = micro.STRAIGHT["sd"]
STEPS = 6


def own() -> Any:
    """A plain pipeline whose U-Net and VAE are its own."""
    return micro.with_own(SD, "unet", "vae")


def cached(plain: Any) -> Any:
    return DeepCachePipeline.from_pipe(plain, cache_interval=1, **micro.engines(SD))


def draw(pipe: Any, **call: Any) -> torch.Tensor:
    return micro.draw(pipe, SD, num_inference_steps=STEPS, **call)


def assert_followed(plain: Any, pipe: Any) -> None:
    assert difference(draw(pipe), draw(plain)) <= 1e-4


# Each is exported: the others of their kind in the slow tier.
_ONE_OF_A_KIND = {"circular padding", "other activations", "a layer taken away", "another entry of the config"}


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(edit, id=name, marks=() if name in _ONE_OF_A_KIND else pytest.mark.slow)
        for name, edit in FOLLOWED.items()
    ],
)
def test_what_a_graph_carries_is_followed_before_the_first_image_and_after_it(edit: Any) -> None:
    plain = own()
    edit(plain.unet)
    assert_followed(plain, cached(plain))

    plain = own()
    pipe = cached(plain)
    before = draw(pipe)
    edit(plain.unet)
    assert difference(draw(plain), before) > 1e-3
    assert_followed(plain, pipe)


@pytest.mark.parametrize("edit", FOLLOWED_TEXT.values(), ids=FOLLOWED_TEXT)
def test_text_encoders_are_followed_too(edit: Any) -> None:
    plain = micro.with_own(SD, "text_encoder")
    edited = DeepCachePipeline.from_pipe(plain, cache_interval=1, backend="onnxruntime", components=("text_encoder",))
    before = draw(edited)
    edit(plain.text_encoder)
    assert difference(draw(plain), before) > 1e-3
    assert_followed(plain, edited)
    states = [pipe.encode_prompt("seven", "cpu", 1, False, clip_skip=1)[0] for pipe in (edited, plain)]
    assert difference(*states) <= 1e-4


def test_a_text_encoder_without_layers_is_refused() -> None:
    plain = micro.with_own(SD, "text_encoder")
    plain.text_encoder.text_model.encoder.layers = torch.nn.ModuleList()
    pipe = DeepCachePipeline.from_pipe(plain, cache_interval=1, backend="onnxruntime", components=("text_encoder",))
    with pytest.raises(UnsupportedError, match=r"CLIPTextModel gives no hidden_state_0 .*disable_cache\(\)"):
        draw(pipe)
    assert draw(plain).isfinite().all()


@pytest.mark.parametrize("compiled", ["unet", "vae.decoder", "vae.decode"])
def test_what_torch_compiles_for_itself_is_left_to_engines(compiled: str) -> None:
    plain = own()
    expected = draw(plain, output_type="pt")
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return graph.forward

    if compiled == "vae.decode":
        plain.vae.decode = torch.compile(plain.vae.decode, backend=backend)
    else:
        attrgetter(compiled)(plain).compile(backend=backend)
    pipe = DeepCachePipeline.from_pipe(plain, cache_interval=1, backend="onnxruntime")
    for _ in range(2):
        assert difference(draw(pipe, output_type="pt"), expected) <= 1e-4
    assert sum(graphs) <= 1  # a division of the latents is no model
    assert difference(draw(plain, output_type="pt"), expected) <= 1e-4
    assert sum(graphs) > 1
    torch._dynamo.reset()


def test_a_unet_that_is_compiled_as_a_whole_is_refused_with_the_way_back() -> None:
    plain = own()
    pipe = cached(plain)
    pipe.unet = plain.unet = torch.compile(plain.unet, backend="eager")
    for ask in (partial(cached, plain), partial(draw, pipe)):
        with pytest.raises(UnsupportedError, match=r"OptimizedModule, .* set pipe\.unet = pipe\.unet\._orig_mod"):
            ask()
    pipe.unet = pipe.unet._orig_mod
    assert draw(pipe).isfinite().all()


@pytest.mark.parametrize(("edit", "message"), REFUSED.values(), ids=REFUSED)
def test_what_no_graph_carries_is_refused_with_its_path_and_plain_diffusers_goes_on(edit: Any, message: str) -> None:
    plain = own()
    pipe = cached(plain)
    draw(pipe)
    edit(plain.unet)
    with pytest.raises(UnsupportedError, match=rf"{message}.*disable_cache\(\)"):
        draw(pipe)
    assert "forward" not in vars(plain.unet) or edit.__name__ == "other_forward_of_the_model"
    if edit.__name__ != "several_precisions":  # which torch refuses too
        assert draw(plain).isfinite().all()


@pytest.mark.parametrize("leave", MARKS.values(), ids=MARKS)
def test_marks_of_the_libraries_make_no_other_graph(leave: Any) -> None:
    plain = own()
    leave(plain)
    assert structure_of(plain.unet) == {}


def test_what_is_undone_is_as_before() -> None:
    plain = own()
    pipe = cached(plain)
    before = draw(pipe)
    handle = plain.unet.mid_block.register_forward_hook(lambda module, given, output: 2 * output[0])
    with pytest.raises(UnsupportedError, match="has a forward hook"):
        draw(pipe)
    handle.remove()
    assert torch.equal(draw(pipe), before)
    for padding in ("circular", "zeros"):
        for layer in plain.unet.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.padding_mode = padding
        assert_followed(plain, pipe)
    assert torch.equal(draw(pipe), before)


def test_a_class_that_is_patched_for_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = own()
    pipe = cached(plain)
    draw(pipe)
    kind = type(plain.unet.mid_block.resnets[0])
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda *args, **kwargs: 1.1 * forward(*args, **kwargs))
    with pytest.raises(UnsupportedError, match=r"ResnetBlock2D, whose method ResnetBlock2D.forward was replaced"):
        draw(pipe)


def test_hooks_of_all_modules_are_refused() -> None:
    pipe = cached(own())
    draw(pipe)
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, given, output: None)
    try:
        with pytest.raises(UnsupportedError, match="hooks on all modules of torch"):
            draw(pipe)
    finally:
        handle.remove()
    draw(pipe)


def test_hooks_of_the_model_itself_go_on_firing() -> None:
    plain = own()
    calls = []
    plain.unet.register_forward_hook(lambda module, given, output: calls.append("after"))
    plain.unet.register_forward_pre_hook(lambda module, given: calls.append("before"))
    pipe = cached(plain)
    pipe.set_cache_params(cache_interval=3)
    draw(pipe)
    assert calls == ["before", "after"] * STEPS
    assert pipe.last_run.reason == "there are hooks on the unet, which want each of its calls"


def test_the_decoder_of_a_vae_is_looked_at_too() -> None:
    plain = own_models.fresh()
    pipe = DeepCachePipeline.from_pipe(plain, cache_interval=1, backend="onnxruntime", components=("vae",))
    before = own_models.draw(pipe)
    circular(plain.vae)
    expected = own_models.draw(plain)
    assert difference(expected, before) > 1e-3
    assert difference(own_models.draw(pipe), expected) <= 1e-4
    plain.vae.encoder.mid_block.register_forward_hook(lambda *_: None)  # which runs in PyTorch
    own_models.draw(pipe)
    hook(plain.vae.decoder)
    with pytest.raises(UnsupportedError, match="mid_block of AutoencoderKL has a forward hook"):
        own_models.draw(pipe)
    assert difference(own_models.draw(plain), expected) <= 1e-6


def test_training_without_dropout_is_no_other_picture() -> None:
    plain = own()
    pipe = cached(plain)
    before = draw(pipe)
    plain.unet.train()
    assert torch.equal(draw(pipe), before)


@pytest.mark.slow
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from([*FOLLOWED, *REFUSED]), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from([*FOLLOWED]), max_size=2, unique=True),
)
def test_any_edits_together_are_followed_or_refused(later: list[str], first: list[str]) -> None:
    plain = own()
    for name in first:
        FOLLOWED[name](plain.unet)
    pipe = cached(plain)
    assert_followed(plain, pipe)
    for name in later:
        (FOLLOWED.get(name) or REFUSED[name][0])(plain.unet)
    if set(later) & set(REFUSED):
        with pytest.raises(UnsupportedError, match="UNet2DConditionModel"):
            draw(pipe)
    else:
        assert_followed(plain, pipe)
