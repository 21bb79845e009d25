"""What OpenVINO wants of a quantized graph whose other tensors are bfloat16.

Layers that multiply whole numbers give it float32, and it rounds that to bfloat16 in passing only where it may round
all float32 of a model. So it is allowed to, and what must not be rounded, which is what becomes of a timestep until it
is bfloat16 by itself, is a model of its own: rounded, 481 would give the image of 480.
"""

from collections.abc import Iterable
from typing import Any

# Precede the names of what the model before the quantized one gives it.
_BEFORE = "before"


def is_quantized_bfloat16(model: Any) -> bool:
    """Whether layers of it are quantized and what it is given or gives is bfloat16."""
    from openvino import Type

    given = any(place.get_element_type() == Type.bf16 for place in (*model.inputs, *model.outputs))
    return given and any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())


def scale_in_float32(model: Any) -> None:
    """Let what a quantized bfloat16 graph multiplies with constants be multiplied in float32, as in a normalisation.

    Where layers are quantized OpenVINO moves scales about, those that it finds in normalisations too, and cannot put
    what it makes of them, which is float32, beside bfloat16. It fuses the conversions with what is around them.
    """
    from openvino import Type, opset13

    for node in model.get_ops():
        if node.get_type_name() != "Multiply" or node.get_output_element_type(0) != Type.bf16:
            continue
        given = [place.get_source_output() for place in node.inputs()]
        if any(map(_is_constant, given)):
            product = opset13.multiply(*(opset13.convert(each, Type.f32) for each in given))
            rounded = opset13.convert(product, Type.bf16).output(0)
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(rounded)


def _is_constant(given: Any) -> bool:
    node = given.get_node()
    while node.get_type_name() in ("Unsqueeze", "Reshape", "Convert") and node.get_input_size():
        node = node.input(0).get_source_output().get_node()
    return bool(node.get_type_name() == "Constant")


def in_two(model: Any) -> tuple[Any | None, Any]:
    """What a model computes in float32 of its float32 inputs alone, as a model of its own, and the rest.

    Args:
        model: of which the rest is made; not to be used any more.

    Returns:
        None where there is nothing of it, and else a model with some of the inputs; its outputs have the names of those
        inputs of the rest that it has beside the model's.
    """
    from openvino import Model, opset13

    rounded = [node.get_friendly_name() for node in _rounded(model)]
    if not rounded:
        return None, model
    first = model.clone()
    last = _named(first, rounded)
    reached = _ancestors(last)
    inputs = [node for node in first.get_parameters() if node.get_friendly_name() in reached]
    before = Model([node.output(0) for node in last], inputs, _BEFORE)
    handed = []
    for number, node in enumerate(_named(model, rounded)):
        name = f"{_BEFORE}_{number}"
        parameter = opset13.parameter(node.get_output_partial_shape(0), node.get_output_element_type(0), name=name)
        for place in (parameter.output(0), before.output(number)):
            place.get_tensor().set_names({name})
        for reader in node.output(0).get_target_inputs():
            reader.replace_source_output(parameter.output(0))
        handed.append(parameter)
    read = _ancestors(model.get_results())
    kept = [node for node in model.get_parameters() if node.get_friendly_name() in read]
    return before, Model(model.get_results(), [*kept, *handed], "quantized")


def _rounded(model: Any) -> list[Any]:
    """The conversions from float32 of what is float32 all the way from inputs that are."""
    from openvino import Type

    fixed: set[str] = set()  # depends on shapes and constants alone
    exact: set[str] = set()
    found = []
    for node in model.get_ordered_ops():
        name, kind = node.get_friendly_name(), node.get_type_name()
        read = {place.get_source_output().get_node().get_friendly_name() for place in node.inputs()}
        if kind in ("Constant", "ShapeOf") or (read and read <= fixed):
            fixed.add(name)
        elif kind == "Parameter" or read - fixed <= exact:
            if node.get_output_size() and node.get_output_element_type(0) == Type.f32 and kind != "Result":
                exact.add(name)
            elif kind == "Convert":
                found.append(node)
    return found


def _named(model: Any, names: Iterable[str]) -> list[Any]:
    by_name = {node.get_friendly_name(): node for node in model.get_ops()}
    return [by_name[name] for name in names]


def _ancestors(nodes: Iterable[Any]) -> set[str]:
    """The names of nodes and of all that they are made of."""
    found, left = set(), [*nodes]
    while left:
        node = left.pop()
        if node.get_friendly_name() not in found:
            found.add(node.get_friendly_name())
            left.extend(place.get_source_output().get_node() for place in node.inputs())
    return found
