"""Which layers of a quantized graph multiply numbers of 8 bits in an engine plan, by what TensorRT tells of its layers.

An engine plan is opened on its own kind of GPU only, but the builder tells of the layers that it has made of a graph
where it is made: of each the types of what it reads, and the nodes of the graph that went into it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

_LAYER = re.compile(r"Inputs: \[(?P<given>.*?)\], Constants: \[(?P<held>.*?)\], Outputs: .*Metadata: (?P<nodes>.*)")
_TYPE = re.compile(r"Datatype: (\w+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")

_EIGHT_BITS = {"Int8", "FP8"}


def is_quantized(trt: Any, network: Any) -> bool:
    """Whether weights or activations of a network are quantized."""
    return any(network.get_layer(index).type == trt.LayerType.DEQUANTIZE for index in range(network.num_layers))


def facts(graph: Path, account: str) -> dict[str, Any]:
    """What a manifest should say: how many layers of the graph are quantized, and which of them are not in 8 bits.

    Args:
        graph: the ONNX file that the engine plan is made of.
        account: the builder's, of the layers of the plan; "" where it gave none.

    Returns:
        Nothing for a graph without quantized layers, and where there is no account.
    """
    body = onnx.load(graph, load_external_data=False).graph
    weights = {initializer.name for initializer in body.initializer}
    quantized = {
        node.name or f"node_of_{node.output[0]}": node.input[0]  # the parser's name for a node that has none
        for node in body.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights
    }
    if not (quantized and account):
        return {}
    multiplied = set(_nodes_in_8_bits(account))
    others = sorted(weight for node, weight in quantized.items() if node not in multiplied)
    return {"quantized_layers": len(quantized), "not_in_8_bits": others}


def _nodes_in_8_bits(account: str) -> Iterator[str]:
    """The nodes that went into layers which read an activation and a constant of the same 8 bits."""
    for line in account.splitlines():
        layer = _LAYER.search(line)
        if layer and _EIGHT_BITS.intersection(_TYPE.findall(layer["given"]), _TYPE.findall(layer["held"])):
            yield from _NODE.findall(layer["nodes"])
