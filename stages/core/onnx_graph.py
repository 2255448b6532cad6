"""ONNX graphs with names and an order that follow from what they compute, not from how they were made.

tf2onnx numbers what it makes through the whole process and orders constants by the hashes of names, so the same model
has other bytes each time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from stages.core.errors import ConfigError

INPUT, OUTPUT, BATCH = "pixels", "probabilities", "batch"


def canonical(model: Any) -> None:
    """Name and order an onnx.ModelProto of one input and one output, in place: same computation, same bytes.

    Nodes come as the output needs them, first inputs first; constants as nodes use them. Raises ConfigError for a
    graph with graphs inside, whose names would have to be followed.
    """
    graph = model.graph
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        raise ConfigError("export.formats: 'onnx' cannot write this base, whose graph has branches; leave 'onnx' out")
    (taken,), (given,) = graph.input, graph.output
    nodes = _in_order(graph.node, given.name)
    constants = {constant.name: constant for constant in graph.initializer}
    names = {"": "", taken.name: INPUT, given.name: OUTPUT}
    counted: Counter[str] = Counter()
    used: list[Any] = []
    for node in nodes:
        for name in node.input:
            if name in constants and name not in names:
                names[name] = f"constant_{len(used)}"
                used.append(constants[name])
        node.name = f"{node.op_type}_{counted[node.op_type]}"
        counted[node.op_type] += 1
        for number, name in enumerate(node.output):
            names.setdefault(name, f"{node.name}_{number}" if name else "")
    for node in nodes:
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
        node.doc_string = ""
        _sort(node.attribute, "name")
    for constant in used:
        constant.name = names[constant.name]
    for value, name in ((taken, INPUT), (given, OUTPUT)):
        value.name = name
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    _replace(graph.node, nodes)
    _replace(graph.initializer, used)
    _replace(graph.value_info, [])
    graph.name, graph.doc_string = "classifier", ""
    _sort(model.opset_import, "domain")


def _in_order(nodes: Any, output: str) -> list[Any]:
    """The nodes that `output` needs, each after those it needs itself."""
    makers = {name: number for number, node in enumerate(nodes) for name in node.output if name}
    order: dict[int, None] = {}
    waiting = [(makers[output], False)]
    while waiting:
        number, ready = waiting.pop()
        if number in order:
            continue
        if ready:
            order[number] = None
            continue
        waiting.append((number, True))
        waiting += [(makers[name], False) for name in reversed(nodes[number].input) if name in makers]
    return [nodes[number] for number in order]


def _sort(field: Any, key: str) -> None:
    _replace(field, sorted(field, key=lambda one: str(getattr(one, key))))


def _replace(field: Any, values: Sequence[Any]) -> None:
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)
