"""What people do to the modules of a model in a pipeline: what a graph carries, and what it cannot."""

import copy
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft import LoraConfig

Edit = Callable[[Any], Any]


def circular(model: Any) -> None:
    """Seamless pictures: every convolution takes what is beyond an edge from the other side."""
    for layer in convolutions(model):
        layer.padding_mode = "circular"


def one_circular(model: Any) -> None:
    convolutions(model)[-1].padding_mode = "circular"


def other_activations(model: Any) -> None:
    for module in model.modules():
        if hasattr(module, "nonlinearity"):
            module.nonlinearity = torch.nn.Mish()


def coarser_norms(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.eps = 0.5


def scaled_blocks(model: Any) -> None:
    next(module for module in model.modules() if hasattr(module, "output_scale_factor")).output_scale_factor = 1.5


def layer_taken_away(model: Any) -> None:
    block = next(module for module in model.modules() if type(module).__name__ == "ResnetBlock2D")
    block.conv2 = torch.nn.Identity()


def layer_added(model: Any) -> None:
    model.conv_out = torch.nn.Sequential(model.conv_out, torch.nn.Hardtanh(-0.3, 0.3))


def stronger_attention(model: Any) -> None:
    for module in model.modules():
        if type(module).__name__ == "Attention":
            module.rescale_output_factor = 0.1


def other_config(model: Any) -> None:
    model.register_to_config(center_input_sample=True)


def fewer_text_layers(text_encoder: Any) -> None:
    del text_encoder.text_model.encoder.layers[-1]


def more_text_layers(text_encoder: Any) -> None:
    layers = text_encoder.text_model.encoder.layers
    layers.append(copy.deepcopy(layers[0]))


def no_final_text_norm(text_encoder: Any) -> None:
    text_encoder.text_model.final_layer_norm = torch.nn.Identity()


# By what docs/pipelines.md calls it.
FOLLOWED: Mapping[str, Edit] = {
    "circular padding": circular,
    "circular padding of one layer": one_circular,
    "other activations": other_activations,
    "another epsilon of norms": coarser_norms,
    "another scale of a block's output": scaled_blocks,
    "a layer taken away": layer_taken_away,
    "a layer of torch added": layer_added,
    "attention that counts for more": stronger_attention,
    "another entry of the config": other_config,
}
FOLLOWED_TEXT: Mapping[str, Edit] = {
    "the last layer of a text encoder taken away": fewer_text_layers,
    "a layer of a text encoder added": more_text_layers,
    "its final norm taken away": no_final_text_norm,
}


class Scaled(torch.nn.Conv2d):
    """A convolution of somebody's own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 1.1 * super().forward(input)


def hook(model: Any) -> None:
    model.mid_block.register_forward_hook(lambda module, given, output: output)


def hook_before(model: Any) -> None:
    model.conv_in.register_forward_pre_hook(lambda module, given: given)


def other_class(model: Any) -> None:
    model.conv_in.__class__ = Scaled


def other_forward(model: Any) -> None:
    layer = model.conv_out
    own = layer.forward
    layer.forward = lambda hidden: 1.1 * own(hidden)


def other_forward_of_the_model(model: Any) -> None:
    own = model.forward
    model.forward = lambda *args, **kwargs: own(*args, **kwargs)


def other_method(model: Any) -> None:
    """Seamless in one direction only, as the patches do that go around for it."""

    def _conv_forward(layer: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(hidden, (1, 1, 0, 0), mode="circular")
        padded = torch.nn.functional.pad(padded, (0, 0, 1, 1))
        return torch.nn.functional.conv2d(padded, weight, bias)

    model.conv_out._conv_forward = types.MethodType(_conv_forward, model.conv_out)


def weight_norm(model: Any) -> None:
    torch.nn.utils.parametrizations.weight_norm(model.conv_in)


def old_weight_norm(model: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(model.down_blocks[0].resnets[0].conv1)


def several_precisions(model: Any) -> None:
    model.conv_out.to(torch.float64)


def dropout(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    model.train()


def quantized(model: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch moves it to a package of its own
        torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)


# By what docs/pipelines.md calls it: the edit, and where the message says that it is.
REFUSED: Mapping[str, tuple[Edit, str]] = {
    "a forward hook on a block": (hook, "mid_block of UNet2DConditionModel has a forward hook"),
    "a forward pre-hook on a layer": (hook_before, "conv_in of UNet2DConditionModel has a forward pre-hook"),
    "a class of somebody's own": (
        other_class,
        "conv_in of UNet2DConditionModel is a Scaled of tests.pipelines.live.edits",
    ),
    "a `forward` of a layer's own": (other_forward, "conv_out of UNet2DConditionModel has a method forward of its own"),
    "a `forward` of the model's own": (
        other_forward_of_the_model,
        "the model of UNet2DConditionModel has a method forward of its own",
    ),
    "another method of a layer": (
        other_method,
        "conv_out of UNet2DConditionModel has a method _conv_forward of its own",
    ),
    "a parametrization": (weight_norm, "conv_in of UNet2DConditionModel is a ParametrizedConv2d"),
    "weight norm by a hook": (old_weight_norm, "conv1 of UNet2DConditionModel has a forward pre-hook"),
    "weights of several precisions": (
        several_precisions,
        "several precisions: .* is float32 and conv_out.weight is float64",
    ),
    "training mode with dropout": (dropout, "in training mode, where its dropout of 0.1 draws at random"),
    "quantized layers": (quantized, r"linear_1 of UNet2DConditionModel is a Linear of torch\.ao"),
}


def convolutions(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]


def freeu_on_and_off(pipe: Any) -> None:
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    pipe.disable_freeu()


def lora_fused(pipe: Any) -> None:
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"]))
    pipe.fuse_lora(lora_scale=0.7, components=["unet"])


def slicing_on_and_off(pipe: Any) -> None:
    pipe.enable_attention_slicing()
    pipe.disable_attention_slicing()


def checkpointing(pipe: Any) -> None:
    pipe.unet.enable_gradient_checkpointing()


def frozen(pipe: Any) -> None:
    pipe.unet.requires_grad_(False).to(memory_format=torch.channels_last)


# What leaves something behind in the modules of a pipeline that says nothing about what they compute.
MARKS: Mapping[str, Edit] = {
    "FreeU on and off": freeu_on_and_off,
    "a LoRA fused": lora_fused,
    "attention in slices and no more": slicing_on_and_off,
    "gradient checkpointing": checkpointing,
    "weights that want no gradient, channels last": frozen,
}
