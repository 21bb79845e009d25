"""Decoders and text encoders in 8 bits: only where they are named, calibrated by themselves, whatever the schedule."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

from deepcache_trt import DeepCachePipeline
from deepcache_trt.builder.component import from_model
from deepcache_trt.engines.store import Artefact, Store
from deepcache_trt.errors import NotBuiltError, UnknownNameError
from tests import tiny
from tests.builder.stores import store_with_graphs
from tests.commands.command_line import Run, assert_one_line
from tests.pipelines.drawing import difference, draw
from tests.pipelines.loras import add_adapter

# Of the denoiser as little as can be, so that what is seen is of the others.
LITTLE = "mid_block.resnets.0.conv1"
INT8: dict[str, Any] = {
    "precision": "int8",
    "calibration_prompts": ("a handwritten seven",),
    "backend": "onnxruntime",
    "cache_interval": 1,
}


@pytest.fixture
def store(store_root: Path, tmp_path: Path) -> Store:
    """A store with the graphs of the pipeline's models, and nothing that is quantized."""
    return with_graphs(store_root, tmp_path / "store")


def with_graphs(shared: Path, root: Path) -> Store:
    pipe, parts = tiny.stable_diffusion(), ("unet", "vae", "text_encoder")
    return store_with_graphs((from_model(getattr(pipe, part), name="tiny", part=part) for part in parts), shared, root)


def cached(plain: Any, store: Store, *patterns: str, **options: Any) -> Any:
    quantize = {"quantize": (LITTLE, *patterns)} if options.get("precision", "int8") else {"calibration_prompts": None}
    return DeepCachePipeline.from_pipe(plain, **{"store": store.root, **INT8, **quantize, **options})


def picture(pipe: Any, **call: Any) -> torch.Tensor:
    """[1, 3, H, W] in 0…1."""
    call = {"num_inference_steps": 4, "generator": torch.Generator().manual_seed(0), "output_type": "pt", **call}
    images: torch.Tensor = pipe("a handwritten three", **call).images
    return images


def calibrated(store: Store) -> dict[str, Artefact]:
    """The calibrations, by component; one for each."""
    found = [each for each in store.list() if each.kind == "calibrations"]
    assert len({each.about["component"] for each in found}) == len(found)
    return {each.about["component"]: each for each in found}


def quantized_graphs(store: Store) -> dict[str, list[str]]:
    """The layers of each graph that are quantized, by the class of its model."""
    return {
        each.about["class"]: each.about["quantized"]
        for each in store.list()
        if each.kind == "graphs" and "quantized" in each.about
    }


def test_only_what_is_named_is_quantized(store: Store) -> None:
    plain = tiny.stable_diffusion()
    without = picture(cached(plain, store, precision=None))
    picture(cached(plain, store))
    assert quantized_graphs(store).keys() == {"UNet2DConditionModel"}
    both = picture(cached(plain, store, "vae:decoder.up_blocks.*", "text_encoder:all"))
    graphs = quantized_graphs(store)
    assert all(name.startswith("decoder.up_blocks.") for name in graphs["AutoencoderKL"])
    assert len(graphs["CLIPTextModel"]) > 3
    assert graphs["UNet2DConditionModel"] == [LITTLE]
    assert 1e-4 < float((both - without).norm() / without.norm()) < 0.1


def test_their_scales_are_those_of_uncached_draws_and_serve_every_schedule(store: Store) -> None:
    pipe = cached(tiny.stable_diffusion(), store, "vae:all", "text_encoder:all", cache_interval=3)
    picture(pipe)
    pipe.set_cache_params(cache_interval=2)
    picture(pipe)
    found = [each.about for each in store.list() if each.kind == "calibrations"]
    drawn = {each["component"]: each["calibration"] for each in found if each["component"] != "unet"}
    assert len(found) == 4  # the denoiser's are of each schedule
    prompts = ["a handwritten seven"]
    assert drawn["vae"] == {"inputs": "drawn", "steps": 10, "prompts": prompts}
    assert drawn["text_encoder"] == {"inputs": "encoded", "prompts": prompts}


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_scales_do_not_depend_on_what_else_is_quantized(
    store: Store, store_root: Path, tmp_path: Path, part: str
) -> None:
    plain, alone = tiny.stable_diffusion(), with_graphs(store_root, tmp_path / "alone")
    picture(cached(plain, store, "vae:all", "text_encoder:all"))
    picture(cached(plain, alone, f"{part}:all"))
    for name in (part, "unet"):
        assert calibrated(alone)[name].about["scales"] == calibrated(store)[name].about["scales"]


def test_a_calibration_of_the_decoder_leaves_no_trace_on_the_picture_or_the_pipeline(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny.stable_diffusion()
    decoded = []
    own = plain.vae.decode

    def decode(*args: Any, **kwargs: Any) -> Any:
        decoded.append(args)
        return own(*args, **kwargs)

    monkeypatch.setattr(plain.vae, "decode", decode)
    pipe = cached(plain, store, "vae:all")
    first = picture(pipe)
    assert len(decoded) == 1
    assert plain.vae.decode is decode
    assert torch.equal(picture(pipe), first)


def test_adapters_of_a_text_encoder_are_merged_before_it_is_quantized(store: Store) -> None:
    plain = tiny.stable_diffusion()
    plain.text_encoder = tiny.stable_diffusion().text_encoder
    pipe = cached(plain, store, "text_encoder:all")
    before = draw(pipe)
    add_adapter(plain.text_encoder, ["q_proj", "v_proj"])
    adapted = draw(pipe)
    without = draw(cached(plain, store, precision=None))
    plain.text_encoder.disable_adapters()
    assert torch.equal(draw(pipe), before)
    assert difference(adapted, without) < 0.5 * difference(adapted, before)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`upcast_vae` is deprecated:FutureWarning")
def test_a_decoder_that_computes_in_float32_in_a_half_precision_pipeline_is_calibrated_in_it(store: Store) -> None:
    plain: Any = StableDiffusionXLPipeline(**copy.deepcopy(tiny.stable_diffusion_xl().components))
    plain.vae.register_to_config(force_upcast=True)
    pipe = cached(plain.to(torch.float16), store, "vae:all", components=("vae",))
    assert picture(pipe).isfinite().all()
    assert calibrated(store)["vae"].about["dtype"] == "float32"


@pytest.mark.parametrize("pattern", ["vea:all", "transformer:all", "controlnet:all", "safety_checker:*"])
def test_layers_of_a_component_that_is_on_no_engine_are_refused_with_those_that_are(store: Store, pattern: str) -> None:
    owner = pattern.partition(":")[0]
    with pytest.raises(UnknownNameError, match=rf"no component '{owner}'.*; there is unet, vae, text_encoder$"):
        cached(tiny.stable_diffusion(), store, pattern)


def test_a_component_that_is_left_to_torch_is_not_quantized_either(store: Store) -> None:
    with pytest.raises(UnknownNameError, match=r"no component 'vae' to quantize layers of; there is unet$"):
        cached(tiny.stable_diffusion(), store, "vae:all", components=())


def test_a_controlnet_is_not_quantized(store: Store) -> None:
    with pytest.raises(UnknownNameError, match=r"no component 'controlnet'.*; there is unet, vae, text_encoder$"):
        cached(tiny.stable_diffusion_controlnet(), store, "controlnet:all")


def test_a_pattern_that_no_layer_of_the_component_matches_is_refused(store: Store) -> None:
    with pytest.raises(UnknownNameError, match=r"vae has no layer 'mid_block\.\*'"):
        picture(cached(tiny.stable_diffusion(), store, "vae:mid_block.*"))


def test_a_missing_engine_is_told_with_the_command_that_builds_it(store: Store) -> None:
    pipe = cached(tiny.stable_diffusion(), store, "text_encoder:all", build="never")
    command = r"--component text_encoder --precision int8 --quantize text_encoder:all --store"
    with pytest.raises(NotBuiltError, match=command):
        picture(pipe)


@pytest.mark.slow
def test_what_is_built_ahead_is_what_is_drawn_with(run: Run, tmp_path: Path) -> None:
    given: list[Any] = ["--model", "digits", "--backend", "onnxruntime", "--interval", 2, "--store", tmp_path / "built"]
    given += ["--precision", "int8", "--quantize", "vae:all", "--quantize", "text_encoder:all"]
    built = run("build", *given)
    assert built.code == 0
    for part in ("unet", "vae", "text_encoder"):
        assert f"digits {part} full: onnxruntime engine (float32, int8) in" in built.out
    drawing = ["generate", "a handwritten two", *given, "--steps", 4, "--out", tmp_path / "two.png"]
    assert run(*drawing, "--no-build").code == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("build", "--component", "unet"), "there is no component 'vae' to quantize layers of; there is unet"),
        (("profile", "--branch", "0"), "there is no component 'vae' to quantize layers of; there is unet"),
    ],
)
def test_commands_refuse_layers_of_what_they_do_not_look_at(
    run: Run, tmp_path: Path, command: tuple[str, ...], message: str
) -> None:
    given = ["--model", "digits", "--precision", "int8", "--quantize", "vae:all", "--store", tmp_path / "store"]
    result = run(command[0], *command[1:], *given)
    assert_one_line(result)
    assert message in result.err
