"""Networks as ONNX graphs, for runtimes that know no Python.

`to_onnx` writes the graph of a network by itself, and that of a whole pipeline by
skl2onnx, to which `register` makes our estimators known. The graph is built in one
place, `_Graph`, for both.
"""

from __future__ import annotations

import importlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from cbp._base import BaseBP, network_of
from cbp._c_text import CONSTANTS, TABLES
from cbp._catalog import n_answers
from cbp._label_columns import LabelColumns, labels_of
from cbp.estimators import BPClassifier, BPRegressor

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray
    from sklearn.base import BaseEstimator

    from cbp._fitted import Fitted
    from cbp._label_columns import AnyLabels
    from cbp._network import Network

# The first versions that have every operator in the form that is written here.
OPSET, IR_VERSION, ML_OPSET = 15, 8, 1

# Protobuf reads no more; weights in other files are nothing to load from strangers.
MOST_BYTES = 2**31 - 2**20


def to_onnx(model: BaseEstimator, zipmap: bool = False) -> onnx.ModelProto:
    """A fitted network, or a fitted pipeline that ends with one, as an ONNX model.

    Parameters
    ----------
    model : BPClassifier, BPRegressor or Pipeline
        Fitted. The graph of a network needs the package onnx only; a pipeline, or
        another estimator that holds one of ours, is converted by skl2onnx.

    zipmap : bool, default=False
        Whether probabilities are maps from class to number, one for each row, instead
        of a matrix. Only for one label in each row, out of whole numbers or strings.

    Returns
    -------
    onnx.ModelProto
        Its input ``X`` has a row for each sample, in the type that the network computes
        in. The outputs are named as those of skl2onnx: ``label`` and ``probabilities``
        of a classifier (with `zipmap` ``output_label`` and ``output_probability``),
        ``variable`` of a regressor, a matrix. Several columns of labels make ``label``
        a matrix and ``probabilities`` a sequence of matrices.

    Raises
    ------
    ImportError
        If onnx, or for a pipeline skl2onnx, is not installed (extra ``onnx``).
    NotFittedError
        If the model is not fitted.
    TypeError
        If `model` is no estimator.
    ValueError
        If ONNX cannot hold the model: it has more than 2 GiB, or columns of labels
        whose types differ.

    Notes
    -----
    Sums run in the order of the runtime, so that last bits differ from ours; labels
    differ only where two classes are as good as equally probable. Probabilities may be
    0 and 1, which ours never are.
    """
    helper = _package("onnx").helper
    if not isinstance(model, BaseBP):
        return _by_skl2onnx(model, zipmap)
    fitted = model._model()
    network = fitted._network
    graph = _Graph(network.dtype)
    outputs = _outputs(graph, fitted, graph.logits(fitted, "X"))
    if zipmap:
        outputs = _zipped(graph, fitted, outputs)
    n, type_ = network.layer_sizes[0], graph.type_of(network.dtype)
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "cbp",
            [helper.make_tensor_value_info("X", type_, [None, n])],
            [graph.shown(name, value, kind) for name, value, kind in outputs],
            graph.initializers,
        ),
        opset_imports=[
            helper.make_opsetid("", OPSET),
            helper.make_opsetid("ai.onnx.ml", ML_OPSET),
        ],
        ir_version=IR_VERSION,
        producer_name="cbp",
    )
    _package("onnx").checker.check_model(made)
    return made


def register() -> None:
    """Make `BPClassifier` and `BPRegressor` known to skl2onnx.

    ``skl2onnx.to_onnx`` and ``convert_sklearn`` then convert whatever holds them.
    `to_onnx` does this by itself.

    Raises
    ------
    ImportError
        If skl2onnx is not installed (extra ``onnx``).
    """
    update = _package("skl2onnx").update_registered_converter
    update(
        BPClassifier,
        "CbpBPClassifier",
        _shape_of_classifier,
        _convert,
        options={"zipmap": [True, False, "columns"]},
    )
    update(BPRegressor, "CbpBPRegressor", _shape_of_regressor, _convert)


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name != name:
            raise
        raise ImportError(
            f"Export to ONNX needs the package {name}; the extra has all that it "
            'needs: pip install "cbp-learn[onnx]".',
            name=name,
        ) from error


# ---- the graph


class _Graph:
    """Nodes and constants, from the first weights on.

    Parameters
    ----------
    dtype : float type
        In which all is computed.
    prefix : str, default=""
        What the names of all values begin with.
    """

    def __init__(self, dtype: np.dtype, prefix: str = ""):
        self.dtype, self.prefix = dtype, prefix
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.onnx = _package("onnx")

    def type_of(self, dtype: Any) -> int:
        """ONNX's number of a type."""
        if np.dtype(dtype).kind in "OU":
            return self.onnx.TensorProto.STRING
        return self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def node(self, op: str, *inputs: str, n: int = 1, **attributes: Any) -> Any:
        """A new node: the name of its output, or a list of those of n outputs."""
        names = [f"{self.prefix}{op}_{len(self.nodes)}_{i}" for i in range(n)]
        name = f"{self.prefix}{op}_{len(self.nodes)}"
        self.nodes.append(
            self.onnx.helper.make_node(op, list(inputs), names, name, **attributes)
        )
        return names[0] if n == 1 else names

    def constant(self, value: Any, dtype: Any = None) -> str:
        """A constant; numbers are of the graph's type if no other is named."""
        name = f"{self.prefix}constant_{len(self.initializers)}"
        if dtype == "string":
            made = self.onnx.helper.make_tensor(
                name,
                self.onnx.TensorProto.STRING,
                np.shape(value),
                [str(item).encode() for item in value],
            )
        else:
            array = np.ascontiguousarray(np.asarray(value, dtype or self.dtype))
            array = array.reshape(np.shape(value))
            made = self.onnx.numpy_helper.from_array(array, name)
        self.initializers.append(made)
        return name

    def rename(self, value: str, name: str) -> None:
        """Call a value otherwise, in all nodes."""
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, held in enumerate(names):
                    if held == value:
                        names[i] = name

    def shown(self, name: str, value: str, kind: tuple) -> Any:
        """`value` under the name of an output, as `_Outputs` has it."""
        helper = self.onnx.helper
        self.rename(value, name)
        type_, shape = self.type_of(kind[-2]), kind[-1]
        if kind[0] == "sequence":
            return helper.make_tensor_sequence_value_info(name, type_, shape)
        if kind[0] == "maps":
            number = helper.make_tensor_type_proto(self.onnx.TensorProto.FLOAT, [])
            maps = helper.make_map_type_proto(type_, number)
            return helper.make_value_info(name, helper.make_sequence_type_proto(maps))
        return helper.make_tensor_value_info(name, type_, shape)

    # ------------------------------------------------------------------ the network

    def logits(self, fitted: Fitted, x: str) -> str:
        """Weighted inputs of the output layer."""
        network = fitted._network
        if network.n_params * network.dtype.itemsize > MOST_BYTES:
            raise ValueError(
                f"The model has {network.n_params} parameters, and an ONNX file holds "
                "no more than 2 GiB."
            )
        W, b = network.views(fitted.theta())
        for l in range(len(W)):
            x = self.node("Gemm", x, self.constant(W[l]), self.constant(b[l]))
            if l < len(W) - 1 and network.activations[l] != "identity":
                x = getattr(self, network.activations[l])(x)
        return x

    def _above(self, z: str) -> str:
        """Whether z is above 0."""
        return self.node("Greater", z, self.constant(0))

    def _number(self, name: str) -> str:
        return self.constant(_number(name, self.dtype))

    # Operators that runtimes lack in float64, or whose parameters are float32 in ONNX,
    # are made of others, for both types.

    def logistic(self, z: str) -> str:
        return self.node("Sigmoid", z)

    def tanh(self, z: str) -> str:
        return self.node("Tanh", z)

    def relu(self, z: str) -> str:
        return self.node("Relu", z)

    def leaky_relu(self, z: str) -> str:
        leak = self.node("Mul", z, self._number("LEAKY_SLOPE"))
        return self.node("Where", self._above(z), z, leak)

    def _expm1(self, z: str) -> str:
        """e^z - 1 where z is below 0."""
        e = self.node("Exp", self.node("Min", z, self.constant(0)))
        return self.node("Sub", e, self.constant(1))

    def elu(self, z: str) -> str:
        return self.node("Where", self._above(z), z, self._expm1(z))

    def selu(self, z: str) -> str:
        scaled = self.node("Mul", z, self._number("SELU_SCALE"))
        bent = self.node("Mul", self._expm1(z), self._number("SELU_BELOW"))
        return self.node("Where", self._above(z), scaled, bent)

    def softplus(self, z: str) -> str:
        e = self.node("Exp", self.node("Neg", self.node("Abs", z)))
        log = self.node("Log", self.node("Add", e, self.constant(1)))
        return self.node("Add", self.node("Max", z, self.constant(0)), log)

    def gelu(self, z: str) -> str:
        return self.node("Mul", z, self.normal(z))

    def silu(self, z: str) -> str:
        return self.node("Mul", z, self.node("Sigmoid", z))

    def mish(self, z: str) -> str:
        two = self.constant(2)
        n = self.node("Exp", self.node("Min", z, self._number("MISH_BENDS")))
        w = self.node("Mul", n, self.node("Add", n, two))
        return self.node("Mul", z, self.node("Div", w, self.node("Add", w, two)))

    def normal(self, z: str) -> str:
        """The normal distribution."""
        half, one = self.constant(0.5), self.constant(1)
        if self.dtype == np.float32:
            erf = self.node("Erf", self.node("Mul", z, self.constant(np.sqrt(0.5))))
            return self.node("Mul", self.node("Add", erf, one), half)
        # As src_c/vmath.h has it, for there is no Erf of float64.
        t = self.node("Mul", self.node("Abs", z), self._number("NORMAL_T"))
        t = self.node("Div", one, self.node("Add", t, one))
        u = self.node("Sub", t, self._number("NORMAL_MID"))
        coefficients = [float.fromhex(c) for c in TABLES["NORMAL_Q"][1].split()]
        q = self.constant(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            q = self.node("Add", self.node("Mul", q, u), self.constant(c))
        bell = self.node("Mul", self.node("Mul", z, z), self.constant(-0.5))
        tail = self.node("Mul", self.node("Exp", bell), self.node("Mul", t, q))
        return self.node("Where", self._above(z), self.node("Sub", one, tail), tail)


def _number(name: str, dtype: np.dtype) -> float:
    text = CONSTANTS[name][dtype == np.float64].strip("()").rstrip("f")
    return float.fromhex(text) if "0x" in text else float(text)


# ---- what is shown

# (name, value, (dtype, shape)) each; of a sequence of tensors ("sequence", dtype,
# shape), of maps from such a dtype to numbers ("maps", dtype, None).
_Outputs = list[tuple[str, str, tuple]]


def _outputs(graph: _Graph, fitted: Fitted, z: str) -> _Outputs:
    """The outputs of the graph from the logits."""
    network, labels = fitted._network, labels_of(fitted)
    if labels is None:
        y = graph.node("Exp", z) if network.output == "exp" else z
        if n_answers(network.loss_parameters) is not None:
            n = graph.constant([network.n_outputs], np.int64)
            y, _ = graph.node("TopK", y, n, n=2, axis=1, largest=0, sorted=1)
        return [("variable", y, (network.dtype, [None, network.n_outputs]))]
    if isinstance(labels, LabelColumns):
        return _of_columns(graph, network, labels, z)
    if labels.multilabel:
        n = len(labels.classes)
        above = graph.node("Greater", z, graph.constant(0))
        label = graph.node("Cast", above, to=graph.type_of(np.int64))
        p = graph.node("Sigmoid", z)
        kinds = (np.int64, [None, n]), (network.dtype, [None, n])
    else:
        index, p = _exclusive(graph, network, len(labels.classes), z)
        classes, kind = _classes(graph, labels.classes)
        label = graph.node("Gather", classes, index)
        kinds = (kind, [None]), (network.dtype, [None, len(labels.classes)])
    return [("label", label, kinds[0]), ("probabilities", p, kinds[1])]


def _exclusive(graph: _Graph, network: Network, n: int, z: str) -> tuple[str, str]:
    """The index of the class, and the probabilities of n classes."""
    if n == 1:
        zero, one = graph.constant(0), graph.constant(1)
        p = graph.node("Add", graph.node("Mul", z, zero), one)
        return graph.node("ArgMax", p, axis=1, keepdims=0), p
    if n == 2 and network.output == "logistic":
        above = graph.node("Greater", z, graph.constant(0))
        index = graph.node("Cast", above, to=graph.type_of(np.int64))
        flat = graph.constant([-1], np.int64)
        both = graph.node("Concat", graph.node("Neg", z), z, axis=1)
        return graph.node("Reshape", index, flat), graph.node("Sigmoid", both)
    index = graph.node("ArgMax", z, axis=1, keepdims=0)
    if network.output == "logistic":  # divided by their sum, by way of logarithms
        z = graph.node("Neg", graph.softplus(graph.node("Neg", z)))
    return index, graph.node("Softmax", z, axis=1)


def _of_columns(
    graph: _Graph, network: Network, labels: LabelColumns, z: str
) -> _Outputs:
    sizes = labels.groups
    ends = np.cumsum([0, *sizes])
    indices, shares = [], []
    axis = graph.constant([1], np.int64)
    for (start, end), n in zip(pairwise(ends), sizes, strict=True):
        bounds = [graph.constant([at], np.int64) for at in (start, end)]
        part = graph.node("Slice", z, *bounds, axis)
        index, p = _exclusive(graph, network, n, part)
        indices.append(index)
        shares.append(p)
    found = [_classes(graph, column.classes) for column in labels.columns]
    kinds = {np.dtype(kind) for _, kind in found}
    if len(kinds) > 1:
        raise ValueError(
            "The columns of labels have several types, and a tensor of ONNX has one; "
            "give columns of one type to fit, for example all strings."
        )
    columns = [
        graph.node("Unsqueeze", graph.node("Gather", classes, index), axis)
        for (classes, _), index in zip(found, indices, strict=True)
    ]
    label = graph.node("Concat", *columns, axis=1)
    p = graph.node("SequenceConstruct", *shares)
    return [
        ("label", label, (kinds.pop(), [None, len(sizes)])),
        ("probabilities", p, ("sequence", network.dtype, [None, None])),
    ]


def _classes(graph: _Graph, classes: NDArray) -> tuple[str, Any]:
    """The labels as a constant, and their type."""
    kind = classes.dtype.kind
    if kind in "OU":
        return graph.constant(classes.tolist(), "string"), np.dtype(object)
    if kind in "iu":
        if int(classes.max()) >= 2**63:
            raise ValueError("A class is a number beyond int64, ONNX's for labels.")
        return graph.constant(classes, np.int64), np.dtype(np.int64)
    return graph.constant(classes, classes.dtype), classes.dtype


def _zipped(graph: _Graph, fitted: Fitted, outputs: _Outputs) -> _Outputs:
    """The same with a map for each row's probabilities."""
    labels: AnyLabels | None = labels_of(fitted)
    one_each = labels is not None and not labels.multilabel and not labels.groups
    if not one_each or labels.classes.dtype.kind not in "iuOU":
        raise ValueError(
            "zipmap=True needs a classifier with one label in each row, out of whole "
            "numbers or strings."
        )
    (_, label, kind), (_, p, _) = outputs
    if labels.classes.dtype.kind in "OU":
        keys = {"classlabels_strings": [str(c) for c in labels.classes]}
    else:
        keys = {"classlabels_int64s": labels.classes.tolist()}
    p = graph.node("Cast", p, to=graph.type_of(np.float32))
    maps = graph.node("ZipMap", p, domain="ai.onnx.ml", **keys)
    shown = ("maps", kind[0], None)
    return [("output_label", label, kind), ("output_probability", maps, shown)]


# ---- skl2onnx


def _by_skl2onnx(model: Any, zipmap: bool) -> Any:
    """A pipeline, or whatever else holds a network."""
    if isinstance(model, type) or not hasattr(model, "get_params"):
        given = f"the class {model.__name__}" if isinstance(model, type) else model
        raise TypeError(f"to_onnx takes a fitted estimator, got {given!r}.")
    from sklearn.utils.validation import check_is_fitted

    skl2onnx = _package("skl2onnx")
    types = importlib.import_module("skl2onnx.common.data_types")
    register()
    check_is_fitted(model)
    single = any(n.dtype == np.float32 for n in _networks_in(model))
    tensor = types.FloatTensorType if single else types.DoubleTensorType
    options = None
    if hasattr(model, "classes_"):
        options = {"zipmap": zipmap}
    return skl2onnx.convert_sklearn(
        model,
        initial_types=[("X", tensor([None, model.n_features_in_]))],
        options=None if options is None else {id(model): options},
    )


def _networks_in(model: Any) -> list[Network]:
    """The networks of a pipeline, or of the best model of a search."""
    if isinstance(model, BaseBP):
        return [network_of(model)]
    parts = [step for _, step in getattr(model, "steps", [])]
    parts += [model.best_estimator_] if hasattr(model, "best_estimator_") else []
    return [network for part in parts for network in _networks_in(part)]


def _shape_of_classifier(operator: Any) -> None:
    types = importlib.import_module("skl2onnx.common.data_types")
    fitted = operator.raw_operator._model()
    network, labels = fitted._network, labels_of(fitted)
    if isinstance(labels, LabelColumns):
        raise ValueError(
            "skl2onnx cannot convert a BPClassifier with several columns of labels; "
            "cbp.to_onnx converts the network alone."
        )
    rows, n = operator.inputs[0].get_first_dimension(), len(labels.classes)
    kind = "i" if labels.multilabel else labels.classes.dtype.kind
    named = {"O": "String", "U": "String", "b": "Boolean", "f": "Double"}
    label = getattr(types, f"{named.get(kind, 'Int64')}TensorType")
    operator.outputs[0].set_type(label([rows, n] if labels.multilabel else [rows]))
    operator.outputs[1].set_type(_tensor(types, network)([rows, n]))


def _shape_of_regressor(operator: Any) -> None:
    types = importlib.import_module("skl2onnx.common.data_types")
    network = network_of(operator.raw_operator)
    shape = [operator.inputs[0].get_first_dimension(), network.n_outputs]
    operator.outputs[0].set_type(_tensor(types, network)(shape))


def _tensor(types: Any, network: Network) -> Any:
    single = network.dtype == np.float32
    return types.FloatTensorType if single else types.DoubleTensorType


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """Put the nodes of a network into skl2onnx's graph."""
    fitted = operator.raw_operator._model()
    graph = _Graph(fitted._network.dtype, f"{scope.get_unique_variable_name('cbp')}_")
    x = graph.node("Cast", operator.inputs[0].full_name, to=graph.type_of(graph.dtype))
    outputs = _outputs(graph, fitted, graph.logits(fitted, x))
    for variable, (_, value, _) in zip(operator.outputs, outputs, strict=True):
        graph.rename(value, variable.full_name)
    container.initializers.extend(graph.initializers)
    for node in graph.nodes:
        attributes = {
            a.name: graph.onnx.helper.get_attribute_value(a) for a in node.attribute
        }
        container.add_node(
            node.op_type,
            list(node.input),
            list(node.output),
            name=node.name,
            **attributes,
        )
