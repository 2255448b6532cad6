"""The same computation is the same bytes, whatever its names and order; another computation is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stages.core import onnx_graph
from stages.core.errors import ConfigError

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")


def model(prefix: str, turned: bool, bias: float = 1.0, unused: bool = False) -> Any:
    """(pixels * 2 + bias) + relu(pixels * 2), with names that begin so, its lists `turned` round."""
    values = {"two": np.float32(2.0), "bias": np.float32(bias), **({"unused": np.float32(3.0)} if unused else {})}
    constants = [onnx.numpy_helper.from_array(np.array(value), prefix + name) for name, value in values.items()]
    node = onnx.helper.make_node
    doubled = node("Mul", ["in", prefix + "two"], [prefix + "doubled"], name=prefix + "a")
    both = [
        node("Relu", [prefix + "doubled"], [prefix + "relu"], name=prefix + "b"),
        node("Add", [prefix + "doubled", prefix + "bias"], [prefix + "sum"], name=prefix + "c"),
    ]
    last = node("Add", [prefix + "sum", prefix + "relu"], ["out"], name=prefix + "d")
    turn = (lambda parts: parts[::-1]) if turned else (lambda parts: parts)
    info = onnx.helper.make_tensor_value_info
    shapes = [info(name, onnx.TensorProto.FLOAT, [f"{prefix}n", 3]) for name in ("in", "out")]
    graph = onnx.helper.make_graph([doubled, *turn(both), last], prefix, shapes[:1], shapes[1:], turn(constants))
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in (("", 15), ("ai.onnx.ml", 2))]
    return onnx.helper.make_model(graph, opset_imports=turn(opsets), ir_version=8)


def test_names_and_order_do_not_matter_and_values_do() -> None:
    found = []
    for made in (model("a", False), model("zz", True), model("m", False, unused=True), model("a", False, bias=1.5)):
        onnx_graph.canonical(made)
        onnx.checker.check_model(made)
        found.append(made.SerializeToString(deterministic=True))
    assert found[0] == found[1] == found[2]
    assert found[0] != found[3]


def test_what_it_computes_stays() -> None:
    from onnx.reference import ReferenceEvaluator

    pixels = np.array([[-1.0, 0.0, 2.0]], np.float32)
    made = model("a", True)
    before = ReferenceEvaluator(made).run(None, {"in": pixels})[0]
    onnx_graph.canonical(made)
    after = ReferenceEvaluator(made).run(["probabilities"], {"pixels": pixels})[0]
    np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(after, [[-1.0, 1.0, 9.0]])
    assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_a_graph_with_branches_is_refused() -> None:
    made = model("a", False)
    inner = onnx.helper.make_graph([], "inner", [], [])
    made.graph.node[0].attribute.append(onnx.helper.make_attribute("then_branch", inner))
    with pytest.raises(ConfigError, match="whose graph has branches; leave 'onnx' out"):
        onnx_graph.canonical(made)
