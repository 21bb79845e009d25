"""From the calls that pipelines make to named tensors and back: a stand-in that cannot be told from the `forward`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from deepcache_trt.errors import UnsupportedError
from deepcache_trt.models.architecture import CallForm
from deepcache_trt.models.calls import check_untouched, form_of, tensors_from_call
from deepcache_trt.models.registry import architecture_of
from deepcache_trt.models.structure import structure_of
from tests import tiny

CLIPS = ["clip", "clip_projection"]


def _ids(batch: int = 2) -> torch.Tensor:
    return torch.randint(0, 98, (batch, 16), generator=torch.Generator().manual_seed(0))


def _answer(model: Any, **arguments: Any) -> Any:
    """What a caller gets whose call has been taken apart, run as a graph would run it, and put together again."""
    architecture = architecture_of(model, dtype="float32", form=form_of(model, arguments))
    with torch.no_grad():
        outputs = architecture.call(model, tensors_from_call(architecture, model, arguments))
    return architecture.answer(model, outputs, arguments)


def _assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
        return
    assert len(found) == len(expected)
    names = expected.keys() if hasattr(expected, "keys") else range(len(expected))
    for name in names:
        _assert_same(found[name], expected[name])


@contextmanager
def _config(model: Any, **changes: Any) -> Iterator[None]:
    before = {name: getattr(model.config, name) for name in changes}
    for name, value in changes.items():
        setattr(model.config, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(model.config, name, value)


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("hidden", [{}, {"output_hidden_states": True}, {"output_hidden_states": False}])
@pytest.mark.parametrize("form", [{}, {"return_dict": True}, {"return_dict": False}])
def test_a_text_encoder_answers_in_the_form_that_is_asked_for(
    name: str, hidden: dict[str, bool], form: dict[str, bool]
) -> None:
    model = tiny.part(name)
    with torch.no_grad():
        expected = model(_ids(), **hidden, **form)
    _assert_same(_answer(model, input_ids=_ids(), **hidden, **form), expected)


@pytest.mark.parametrize("name", CLIPS)
def test_a_text_encoder_answers_in_the_form_that_its_config_asks_for(name: str) -> None:
    model = tiny.new_part(name)
    with _config(model, output_hidden_states=True), torch.no_grad():
        _assert_same(_answer(model, input_ids=_ids()), model(_ids()))


@pytest.mark.parametrize("mask", [None, torch.ones(2, 16), torch.ones(2, 16, dtype=torch.int64)])
def test_a_mask_that_masks_nothing_changes_nothing(mask: torch.Tensor | None) -> None:
    model = tiny.part("clip")
    _assert_same(_answer(model, input_ids=_ids(), attention_mask=mask), _answer(model, input_ids=_ids()))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("attention_mask", torch.tensor([[1] * 15 + [0]])),
        ("position_ids", torch.arange(16)[None]),
        ("output_attentions", True),
    ],
)
def test_a_text_encoder_refuses_what_its_graph_does_not_have(argument: str, value: Any) -> None:
    message = rf"(?s){argument}=.* is not an input of the graph of CLIPTextModel; leave it out.*components="
    with pytest.raises(UnsupportedError, match=message):
        _answer(tiny.part("clip"), input_ids=_ids(), **{argument: value})


def test_arguments_that_say_nothing_are_ignored() -> None:
    model = tiny.part("clip")
    found = _answer(model, input_ids=_ids(), output_attentions=False, position_ids=None)
    _assert_same(found, _answer(model, input_ids=_ids()))


def test_a_text_encoder_without_ids_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="CLIPTextModel is called without input_ids"):
        _answer(tiny.part("clip"))


def test_a_config_that_asks_for_attentions_is_refused() -> None:
    model = tiny.new_part("clip")
    check_untouched(model)
    model.set_attn_implementation("eager")
    model.config.output_attentions = True
    with pytest.raises(UnsupportedError, match=r"asks for attentions.*set config.output_attentions = False"):
        check_untouched(model)


@pytest.mark.parametrize("arguments", [{}, {"latent_embeds": None}])
def test_a_decoder_answers_with_a_bare_tensor(arguments: dict[str, Any]) -> None:
    model = tiny.part("vae")
    latent = torch.randn(1, 4, 3, 2)
    with torch.no_grad():
        expected = model.decoder(latent)
    _assert_same(_answer(model, sample=latent, **arguments), expected)


def test_a_decoder_refuses_embeddings() -> None:
    with pytest.raises(UnsupportedError, match=r"latent_embeds=.* is not an input of the graph of AutoencoderKL"):
        _answer(tiny.part("vae"), sample=torch.zeros(1, 4, 2, 2), latent_embeds=torch.zeros(1, 4))


def test_a_decoder_with_fused_projections_is_refused() -> None:
    model = tiny.new_part("vae")
    check_untouched(model)
    model.fuse_qkv_projections()
    with pytest.raises(UnsupportedError, match=r"attention processors FusedAttnProcessor2_0 of AutoencoderKL"):
        check_untouched(model)


@pytest.mark.parametrize("name", [*tiny.UNETS, "dit"])
@pytest.mark.parametrize("form", [{}, {"return_dict": False}])
def test_a_denoiser_answers_in_the_form_that_is_asked_for(name: str, form: dict[str, bool]) -> None:
    model = tiny.denoiser(name)
    call = _denoiser_call(name)
    with torch.no_grad():
        expected = model(**call, **form)
    found = _answer(model, **call, **form)
    assert type(found) is type(expected)
    torch.testing.assert_close(found[0], expected[0])


def _controlled_call(name: str, *, pooled: bool = False) -> dict[str, Any]:
    call = _denoiser_call(name)
    condition = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        down, mid = tiny.controlnet(name, pooled=pooled)(**call, controlnet_cond=condition, return_dict=False)
    return {**call, "down_block_additional_residuals": down, "mid_block_additional_residual": mid}


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
@pytest.mark.parametrize("pooled", [False, True])
def test_a_unet_answers_a_call_with_the_residuals_of_a_controlnet(name: str, pooled: bool) -> None:
    model, call = tiny.denoiser(name), _controlled_call(name, pooled=pooled)
    with torch.no_grad():
        expected, uncontrolled = model(**call).sample, model(**_denoiser_call(name)).sample
    assert (expected - uncontrolled).abs().max() > 1e-2
    torch.testing.assert_close(_answer(model, **call).sample, expected)


def test_another_number_of_control_residuals_is_refused() -> None:
    call = _controlled_call("sd15")
    call["down_block_additional_residuals"] = call["down_block_additional_residuals"][:9]
    with pytest.raises(UnsupportedError, match=r"has 9 tensors, UNet2DConditionModel has 12 residuals; take a Control"):
        _answer(tiny.denoiser("sd15"), **call)


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        ("down_block_additional_residuals", "diffusers ignores it without down_block_additional_residuals: give both"),
        ("mid_block_additional_residual", "takes them for those of a T2I-adapter; run T2I-adapter pipelines without"),
    ],
)
def test_one_kind_of_control_residuals_without_the_other_is_refused(dropped: str, message: str) -> None:
    call = {**_controlled_call("sd15"), dropped: None}
    with pytest.raises(UnsupportedError, match=message):
        _answer(tiny.denoiser("sd15"), **call)


def test_a_t2i_adapter_beside_a_controlnet_is_refused() -> None:
    call = {**_controlled_call("sd15"), "down_intrablock_additional_residuals": [torch.ones(1)]}
    with pytest.raises(UnsupportedError, match="to run a T2I-adapter in plain diffusers"):
        _answer(tiny.denoiser("sd15"), **call)


def test_a_model_that_no_controlnet_steers_is_refused() -> None:
    message = "UNet2DModel with ControlNet residuals is not covered; covered are UNet2DConditionModel"
    with pytest.raises(UnsupportedError, match=message):
        architecture_of(tiny.denoiser("ddpm"), dtype="float32", form=CallForm(controlled=True))


def _denoiser_call(name: str) -> dict[str, Any]:
    sample = torch.ones(1, 4, 8, 8)
    match name:
        case "svd":
            states = torch.ones(1, 1, 32)
            call = {"timestep": 7, "encoder_hidden_states": states, "added_time_ids": torch.ones(1, 3)}
            return {"sample": torch.ones(1, 3, 8, 8, 8), **call}
        case "ddpm":
            return {"sample": torch.ones(1, 3, 8, 8), "timestep": 7}
        case "dit":
            return {"hidden_states": sample, "timestep": torch.tensor([7]), "class_labels": torch.tensor([1])}
        case "sdxl":
            added = {"text_embeds": torch.ones(1, 32), "time_ids": torch.ones(1, 6)}
            states = torch.ones(1, 5, 64)
            return {"sample": sample, "timestep": 7, "encoder_hidden_states": states, "added_cond_kwargs": added}
    return {"sample": sample, "timestep": 7, "encoder_hidden_states": torch.ones(1, 5, 32)}


def test_what_a_library_notes_in_its_models_when_they_are_called_makes_no_others_of_them() -> None:
    """transformers hangs hooks of its own on layers at the first call that asks for all hidden states."""
    encoder = tiny.stable_diffusion().text_encoder
    assert structure_of(encoder) == {}
    encoder(torch.zeros(1, 7, dtype=torch.int64), output_hidden_states=True)
    assert structure_of(encoder) == {}
