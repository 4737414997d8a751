"""One page of C for a trained network: what it predicts, without Python.

`to_c` writes weights and the functions that the network needs. The functions are texts
of _c_text.py; which of them, and in what order they are called, is decided here.
"""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.pipeline import Pipeline

from cbp._base import BaseBP
from cbp._c_text import CONSTANTS, FMA, FUNCTIONS, TABLES
from cbp._catalog import n_answers
from cbp._label_columns import LabelColumns, labels_of
from cbp._whole_file import write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cbp._label_columns import AnyLabels
    from cbp._network import Network

    Floats = NDArray[np.floating[Any]]


def to_c(model: BaseBP, path: str | os.PathLike[str], name: str = "cbp") -> None:
    """Write a fitted network as one page of C99 that predicts the same bits.

    The page allocates nothing and calls nothing of the C library but ``memcpy``, and
    ``fma`` where the CPU has no instruction for it. All weights are constants, which
    linkers put into flash. `real` below is float or double, the type that the model
    computes in (``precision="float32"`` of the estimators makes it float):

    - ``void NAME_decision_function(const real *x, real *out)``: the logits of a
      classifier,
    - ``void NAME_predict_proba(const real *x, real *out)``: its probabilities, of
      several columns of labels those of all classes, side by side,
    - ``int NAME_predict(const real *x)``: the index of the class; for multilabel
      targets and for several columns of labels ``void NAME_predict(const real *x, int
      *out)`` with 0 or 1 for each label, or an index for each column,
    - ``void NAME_predict(const real *x, real *out)`` of a regressor.

    Each takes one row. What each number means is said at the head of the page.

    Parameters
    ----------
    model : BPClassifier or BPRegressor
        The fitted network.

    path : str or path-like
        The file to write, which is replaced if it exists. It is written whole or not at
        all.

    name : str, default="cbp"
        What the names of all functions begin with: an identifier of C.

    Raises
    ------
    TypeError
        If `model` is no estimator of this package. Of a pipeline only the network can
        be exported.
    NotFittedError
        If the model is not fitted.
    ValueError
        If `name` is no identifier.
    OSError
        If the file cannot be written; then nothing is left behind, and a file that was
        there is as it was.

    Notes
    -----
    The bits are those of a prediction of one row in the model's own type, if the
    compiler keeps to IEEE 754: without options such as ``-ffast-math``, and not on the
    x87 unit of 32-bit x86. ``NAME_same_bits`` is 1 where that is so. A fused multiply
    and add without an instruction for it is made of others, which takes 10 times as
    long or more; docs/export.md says where that is exact.
    """
    _demand_network(model)
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)):
        raise ValueError(
            "name must be an identifier of C (letters, digits and _, a letter first); "
            f"got {name!r}."
        )
    page = _Page(model, name)
    write_whole(path, ["".join(page.text()).encode("ascii")])


def _demand_network(model: Any) -> None:
    if isinstance(model, BaseBP):
        return
    given = f"got {type(model).__name__}."
    if isinstance(model, Pipeline):
        given = (
            "got a Pipeline, whose other steps have no C code here. Export its last "
            "step, cbp.to_c(pipeline[-1], ...), and give the C functions what the "
            "other steps make of a row, pipeline[:-1].transform(X). docs/export.md "
            "shows how a StandardScaler is folded into the first layer."
        )
    elif isinstance(model, type):
        given = f"got the class {model.__name__}."
    raise TypeError(f"to_c takes a fitted BPClassifier or BPRegressor; {given}")


# ---- the page


@dataclass(frozen=True)
class _Function:
    """A function of the page that others may call."""

    prototype: str
    meaning: str
    body: list[str]


class _Page:
    """The parts of a page of C, in the order in which they are written."""

    def __init__(self, model: BaseBP, name: str):
        self.name, self.estimator = name, type(model).__name__
        fitted = model._model()
        self.network: Network = fitted._network
        self.labels: AnyLabels | None = labels_of(fitted)
        self.theta = fitted.theta()
        self.feature_names = fitted.get("feature_names_in_")
        self.double = self.network.dtype == np.float64
        self.needs: set[str] = {"layer"}
        if self.labels is None:
            self.functions = [self._predict_numbers()]
        else:
            self.functions = [
                self._decision_function(),
                self._predict_proba(),
                self._predict_labels(),
            ]

    @property
    def n_outputs(self) -> int:
        return self.network.n_outputs

    def text(self) -> Iterator[str]:
        """The page, in pieces."""
        forward = self._forward()
        yield self._head()
        yield self._typed(f"{self._prototypes()}\n{self._fma()}\n{self._helpers()}")
        yield from self._weights()
        for function in [forward, *self.functions]:
            body = "".join(f"    {line}\n" if line else "\n" for line in function.body)
            text = f"\n/* {function.meaning} */\n{function.prototype} {{\n{body}}}\n"
            yield self._typed(text)

    # ------------------------------------------------------------ what is computed

    def _call(self, function: str) -> str:
        self.needs.add(function)
        return f"NAME_{function}"

    def _forward(self) -> _Function:
        """All layers, without the activation of the last one."""
        sizes = self.network.layer_sizes
        body, source = [], "x"
        if len(sizes) > 2:
            rooms = [f"a{i}[{n}]" for i, n in enumerate(self._rooms())]
            body.append(f"real_t {', '.join(rooms)};")
            if any(f != "identity" for f in self.network.activations):
                body.append("int j;")
        for l, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            last = l == len(sizes) - 2
            target = "out" if last else f"a{l % 2}"
            body.append(
                f"NAME_layer({source}, {n_in}, NAME_W{l + 1}, NAME_b{l + 1}, {n_out}, "
                f"{target});"
            )
            if not last and self.network.activations[l] != "identity":
                f = self._call(self.network.activations[l])
                body.append(
                    f"for (j = 0; j < {n_out}; j++) {target}[j] = {f}({target}[j]);"
                )
            source = target
        return _Function(
            "static void NAME_forward(const real_t *x, real_t *out)",
            "Weighted inputs of the output layer.",
            body,
        )

    def _decision_function(self) -> _Function:
        return _Function(
            "void NAME_decision_function(const real_t *x, real_t *out)",
            f"The logits: out has {_counted(self.n_outputs, 'number')}.",
            ["NAME_forward(x, out);"],
        )

    def _predict_proba(self) -> _Function:
        n, labels = self.n_outputs, self.labels
        each = f"for (j = 0; j < {n}; j++) out[j] ="
        body, shown = ["NAME_forward(x, out);"], n
        if isinstance(labels, LabelColumns):
            start = 0
            for size in labels.groups:
                body.append(self._exclusive(f"out + {start}", size))
                start += size
        elif labels.multilabel:
            f = self._call("probability")
            body = ["int j;", *body, f"{each} {f}(out[j]);"]
        elif n == 1 and len(labels.classes) == 2:
            f, shown = self._call("probability"), 2
            body = [
                "real_t z;",
                "NAME_forward(x, &z);",
                f"out[0] = {f}(-z);",
                f"out[1] = {f}(z);",
            ]
        else:
            body.append(self._exclusive("out", len(labels.classes)))
        if body[-1] == "out[0] = R(1);" and len(body) == 2:
            body = ["(void)x;", body[-1]]
        return _Function(
            "void NAME_predict_proba(const real_t *x, real_t *out)",
            f"Probabilities: out has {_counted(shown, 'number')}.",
            body,
        )

    def _exclusive(self, where: str, n: int) -> str:
        """The statement that turns n logits into probabilities whose sum is 1."""
        if n == 1:
            place = where.partition(" + ")[2] or "0"
            return f"out[{place}] = R(1);"
        kind = "softmax" if self.network.output == "softmax" else "shares"
        return f"{self._call(kind)}({where}, {n});"

    def _predict_labels(self) -> _Function:
        n, labels = self.n_outputs, self.labels
        forward = [f"real_t z[{n}];", "NAME_forward(x, z);"]
        prototype = "int NAME_predict(const real_t *x)"
        if isinstance(labels, LabelColumns):
            prototype = "void NAME_predict(const real_t *x, int *out)"
            meaning = f"The index of the class in each of {len(labels.groups)} columns."
            start, body = 0, forward
            for j, size in enumerate(labels.groups):
                f = self._call("largest")
                body.append(f"out[{j}] = {f}(z + {start}, {size});")
                start += size
        elif labels.multilabel:
            prototype = "void NAME_predict(const real_t *x, int *out)"
            meaning = f"1 for each of {n} labels that the row has, else 0."
            body = ["int j;", *forward]
            body.append(f"for (j = 0; j < {n}; j++) out[j] = z[j] > R(0);")
        else:
            meaning = f"The index of the class, out of {len(labels.classes)}."
            if len(labels.classes) == 1:
                body = ["(void)x;", "return 0;"]
            elif n == 1:
                body = [*forward, "return z[0] > R(0);"]
            else:
                body = [*forward, f"return {self._call('largest')}(z, {n});"]
        return _Function(prototype, meaning, body)

    def _predict_numbers(self) -> _Function:
        n, body = self.n_outputs, ["NAME_forward(x, out);"]
        meaning = f"The prediction: out has {_counted(n, 'number')}."
        if self.network.output != "identity":
            f = self._call(self.network.output)
            body = ["int j;", *body, f"for (j = 0; j < {n}; j++) out[j] = {f}(out[j]);"]
        if n_answers(self.network.loss_parameters) is not None:
            meaning = f"{_counted(n, 'quantile')}, ascending."
            body.append(f"{self._call('sort')}(out, {n});")
        return _Function(
            "void NAME_predict(const real_t *x, real_t *out)", meaning, body
        )

    # ---------------------------------------------------------------- the text of it

    def _typed(self, text: str) -> str:
        """Text with the words of _c_text.py put into C."""
        end = "" if self.double else "f"

        def constant(match: re.Match) -> str:
            number = match[1]
            whole = re.fullmatch(r"-?\d+", number)
            return f"{number}{'.0' if whole else ''}{end}"

        text = re.sub(r"\bR\(([^()]*)\)", constant, text)
        text = re.sub(r"\breal_t\b", "double" if self.double else "float", text)
        text = re.sub(r"\bbits_t\b", f"uint{64 if self.double else 32}_t", text)
        words = "|".join([*CONSTANTS, *self._limits(), *TABLES])
        text = re.sub(rf"\b({words})(_LENGTH)?\b", r"NAME_\1\2", text)
        return text.replace("NAME_", f"{self.name}_")

    def _head(self) -> str:
        """The comment that says what this is."""
        n_in, size = self.network.layer_sizes[0], self.network.dtype.itemsize
        sizes = "-".join(map(str, self.network.layer_sizes))
        activations = ", ".join(dict.fromkeys(self.network.activations)) or "none"
        room = size * (sum(self._rooms()) + self.n_outputs) + 256
        about = (
            f"A {self.estimator} of cbp, {sizes}; hidden activations: {activations}; "
            f"outputs: {self.network.output}. Written by cbp.to_c."
        )
        use = (
            f"x is one row of {_counted(n_in, 'finite number')}. Weights take "
            f"{size * len(self.theta)} bytes of constants, a call some {room} bytes of "
            "stack. Nothing is allocated or kept: threads may call all functions."
        )
        bits = (
            f"The bits are those of the estimator where {self.name}_same_bits is 1. Do "
            "not compile with -ffast-math, nor for the x87 unit. Without an "
            "instruction for a fused multiply and add (x86: -mfma) each is made of "
            "several others, which takes 10 times as long or more."
        )
        lines = [*_wrapped(about), "", *_wrapped(use), ""]
        if self.feature_names is not None:
            lines += [*_listed("The columns of x:", self.feature_names.tolist()), ""]
        lines += [*_of_classes(self.labels), *_wrapped(bits)]
        return (
            "/*\n" + "".join(f" * {line}".rstrip() + "\n" for line in lines) + " */\n"
        )

    def _prototypes(self) -> str:
        prototypes = "".join(f"{f.prototype};\n" for f in self.functions)
        return (
            "#include <float.h>\n#include <math.h>\n#include <stdint.h>\n"
            "#include <string.h>\n\n"
            f"extern const int NAME_same_bits;\n{prototypes}"
        )

    def _rooms(self) -> list[int]:
        """The sizes of the rooms for hidden layers, which take turns."""
        hidden = self.network.layer_sizes[1:-1]
        return [max(turn) for turn in (hidden[::2], hidden[1::2]) if turn]

    def _fma(self) -> str:
        """What is asked of the compiler, and fma."""
        type_, end = ("FMA", "") if self.double else ("FMAF", "F")
        arm = " && __ARM_FP & 8" if self.double else ""
        return f"""\
#if DBL_MANT_DIG != 53
#error "double must have 64 bits"
#endif
/* No a * b + c may be fused, but where fma says so. */
#if defined __clang__
#pragma STDC FP_CONTRACT OFF
#elif defined __GNUC__
#pragma GCC optimize("fp-contract=off")
#elif defined _MSC_VER
#pragma fp_contract(off)
#endif
#if defined FP_FAST_{type_} || defined __FP_FAST_FMA{end} || defined __FMA__
#define NAME_HAS_FMA 1
#elif defined __aarch64__ || (defined __ARM_FEATURE_FMA && defined __ARM_FP{arm})
#define NAME_HAS_FMA 1
#else
#define NAME_HAS_FMA 0
#endif
#if defined __FAST_MATH__ || !defined FLT_EVAL_METHOD || FLT_EVAL_METHOD != 0
const int NAME_same_bits = 0;
#else
const int NAME_same_bits = 1;
#endif

{FMA[self.double]}"""

    def _limits(self) -> dict[str, str]:
        """What the probabilities are held within."""
        limits = np.finfo(self.network.dtype)
        return {
            "LOG_OF_MIN_NORMAL": f"({self._number(np.log(limits.tiny))})",
            "SMALLEST": self._number(limits.smallest_subnormal),
            "ALMOST_ONE": self._number(limits.dtype.type(1) - limits.epsneg),
        }

    def _helpers(self) -> str:
        """The functions that are called, with the numbers that they know."""
        needed = set(self.needs)
        for name in reversed(FUNCTIONS):
            if name in needed:
                needed.update(FUNCTIONS[name][1].split())
        text = "\n".join(FUNCTIONS[name][0] for name in FUNCTIONS if name in needed)
        numbers = {name: both[self.double] for name, both in CONSTANTS.items()}
        numbers |= self._limits()
        lines = [
            f"#define {name} {number}\n"
            for name, number in numbers.items()
            if re.search(rf"\b{name}\b", text)
        ]
        for name, both in TABLES.items():
            if name in needed:
                items = both[self.double].split()
                lines.append(f"#define {name}_LENGTH {len(items)}\n")
                lines += _array(f"static const real_t {name}", len(items), items)
        return "".join(lines) + "\n" + text

    def _number(self, x: Any) -> str:
        return _hexadecimal(float(x)) + ("" if self.double else "f")

    def _weights(self) -> Iterator[str]:
        W, b = self.network.views(self.theta)
        end = "" if self.double else "f"
        for kind, arrays in (("W", W), ("b", b)):
            for l, array in enumerate(arrays, 1):
                if kind == "W":
                    shape = map(_counted, array.shape, ("input", "output"))
                    yield f"\n/* {', '.join(shape)} */\n"
                items = (_hexadecimal(x) + end for x in _each(array))
                what = self._typed(f"static const real_t NAME_{kind}{l}")
                yield from _array(what, array.size, items)


def _each(array: Floats) -> Iterator[float]:
    """The numbers of an array, row by row; not all of them as objects at once."""
    flat = array.reshape(-1)
    for start in range(0, len(flat), 4096):
        yield from flat[start : start + 4096].tolist()


def _hexadecimal(x: float) -> str:
    """A constant that is exactly x, as short as it may be."""
    mantissa, p, exponent = x.hex().partition("p")
    mantissa = mantissa.rstrip("0") if "." in mantissa else mantissa
    return f"{mantissa.rstrip('.')}{p}{exponent.lstrip('+')}"


def _array(what: str, n: int, items: Iterable[str]) -> Iterator[str]:
    """The lines of an array, none longer than 88."""
    yield f"{what}[{n}] = {{\n"
    line = "   "
    for item in items:
        if len(line) + len(item) + 2 > 88:
            yield f"{line}\n"
            line = "   "
        line += f" {item},"
    yield f"{line}\n}};\n"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 84, break_long_words=False)


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' if n != 1 else ''}"


def _of_classes(labels: AnyLabels | None) -> list[str]:
    """What each index stands for, in a comment."""
    if labels is None:
        return []
    if labels.multilabel:
        return ["The labels are the columns of y, in their order.", ""]
    several = len(labels.choices) > 1
    lines = []
    for j, classes in enumerate(labels.choices):
        title = f"Column {j}: the classes" if several else "The classes"
        lines += _listed(f"{title}, from index 0:", classes.tolist())
    return [*lines, ""]


def _listed(title: str, names: list[Any]) -> list[str]:
    """Lines of a comment that list names."""
    lines, line = [], title
    for name in names:
        word = f" {_in_comment(name)},"
        if len(line) + len(word) > 85:
            lines.append(line)
            line = "   "
        line += word
    return [*lines, f"{line.rstrip(',')}."]


def _in_comment(label: Any) -> str:
    """A label as JSON has it, with nothing that could end a comment or is not ASCII."""
    text = json.dumps(label) if isinstance(label, str | bool) else repr(label)
    text = text.encode("ascii", "backslashreplace").decode()
    return (
        text.replace("*/", "*\\u002f")
        .replace("/*", "/\\u002a")
        .replace("??", "?\\u003f")
    )
