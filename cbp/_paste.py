"""Advice for a network, written for the model that holds it, and what it imports.

Advice is Python to paste: `name=value, ...` for set_params, or an expression with
`model`. Which advice a finding has is decided in _advice.py; how a network lies in a
model is found in _inside.py.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

from sklearn.base import is_regressor

from cbp._inside import Inside, Link, path_of

# Names that advice may use, by the module that has them.
_MODULES = {
    "sklearn.preprocessing": "FunctionTransformer MaxAbsScaler MinMaxScaler Normalizer "
    "OneHotEncoder OrdinalEncoder PowerTransformer QuantileTransformer RobustScaler "
    "StandardScaler",
    "sklearn.impute": "SimpleImputer",
    "sklearn.feature_selection": "VarianceThreshold",
    "sklearn.pipeline": "make_pipeline make_union",
    "sklearn.compose": "ColumnTransformer TransformedTargetRegressor "
    "make_column_selector make_column_transformer",
    "sklearn.linear_model": "LogisticRegression LogisticRegressionCV Ridge RidgeCV",
    "sklearn.ensemble": "HistGradientBoostingClassifier HistGradientBoostingRegressor",
    "sklearn.base": "clone",
    "sklearn.utils": "shuffle",
    "cbp": "BPClassifier BPRegressor NetworkFeatures",
}
_MODULE_OF = {name: module for module in _MODULES for name in _MODULES[module].split()}
# Transformers that set the scale of columns: one of them takes the place of another.
_SCALERS = {name for name in _MODULES["sklearn.preprocessing"].split()}
_SCALERS -= {"FunctionTransformer", "OneHotEncoder", "OrdinalEncoder", "Normalizer"}
_GRIDS = ("param_grid", "param_distributions", "search_spaces")


class Pasted(NamedTuple):
    """Advice for the model that was passed, and a sentence about it, or ''."""

    advice: str
    remark: str = ""


def imports(advice: str) -> tuple[str, ...]:
    """The lines that import what an advice names.

    Parameters
    ----------
    advice : str

    Returns
    -------
    lines : tuple of str
        Without those for `model`, `X`, `y` and `w`, which the user has.

    Examples
    --------
    >>> from cbp._paste import imports
    >>> imports("make_pipeline(StandardScaler(), model)")
    ('from sklearn.pipeline import make_pipeline', \
'from sklearn.preprocessing import StandardScaler')
    """
    tree = _parsed(advice)
    if tree is None:
        return ()
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    lines = ["import numpy as np"] if "np" in names else []
    modules: dict[str, list[str]] = {}
    for name in sorted(names & set(_MODULE_OF)):
        modules.setdefault(_MODULE_OF[name], []).append(name)
    # The package comes last, as sorted imports have it.
    for module in sorted(modules, key=lambda m: (m == "cbp", m)):
        lines.append(f"from {module} import {', '.join(modules[module])}")
    return tuple(lines)


def rewrite(advice: str, inside: Inside) -> Pasted:
    """An advice for a network, for the model that holds it.

    Parameters
    ----------
    advice : str
        `name=value, ...` or an expression, in which `model` is the network.
    inside : Inside

    Returns
    -------
    pasted : Pasted
        An advice of one of the two kinds, in which `model` is what was passed.
    """
    tree = _parsed(advice)
    if not inside.links or tree is None:
        return Pasted(advice)
    if inside.name is None:
        return _for_network(advice, inside)
    if isinstance(tree, ast.Dict):  # parameters
        return _parameters(_keywords(tree, advice), inside)
    if isinstance(tree, ast.Call):
        arguments = [ast.unparse(node) for node in tree.args]
        function = ast.unparse(tree.func)
        if function == "make_pipeline" and arguments and arguments[-1] == "model":
            return Pasted(_before_network(tree.args[:-1], advice, inside))
        target = function == "TransformedTargetRegressor" and arguments == ["model"]
        if target and is_regressor(inside.model):
            return Pasted(_on_target(tree, advice, inside.links))
        if function == "model.fit":
            return Pasted(_fit(tree, inside))
        if function == "model.set_callbacks().fit":
            network = _given(inside.links)
            setting = f"model.set_params({inside.name}={network}.set_callbacks())"
            return Pasted(f"{setting}.fit({_call_arguments(tree, inside)})")
        if function == "model.partial_fit":
            return _partial_fit(tree, inside)
    return _for_network(advice, inside)


# ---- Reading advice


def _parsed(advice: str) -> ast.expr | None:
    """Its expression; of parameters a Dict of names and values; None if it is none."""
    try:
        call = ast.parse(f"f({advice})", mode="eval").body
        if isinstance(call, ast.Call) and call.keywords and not call.args:
            names: list[ast.expr | None] = [ast.Constant(k.arg) for k in call.keywords]
            return ast.Dict(names, [keyword.value for keyword in call.keywords])
        return ast.parse(advice, mode="eval").body
    except SyntaxError:
        return None


def _keywords(tree: ast.Dict, advice: str) -> dict[str, str]:
    names = [key.value for key in tree.keys if isinstance(key, ast.Constant)]
    texts = [_text(value, f"f({advice})") for value in tree.values]
    return dict(zip(names, texts, strict=True))


def _text(node: ast.expr, source: str) -> str:
    """As it was written."""
    return ast.get_source_segment(source, node) or ast.unparse(node)


def _given(links: Sequence[Link]) -> str:
    """What a model was given to fit, as Python."""
    return "model" + "".join(link.given for link in links)


def _prefix(links: Sequence[Link]) -> str:
    return "".join(f"{link.name}__" for link in links)


# ---- Writing it


def _for_network(advice: str, inside: Inside) -> Pasted:
    """Where the model cannot be told: for the network alone."""
    tree = _parsed(advice)
    if tree is not None and not isinstance(tree, ast.Dict):
        path = ast.parse(inside.path, mode="eval").body
        advice = ast.unparse(_Replaced(path).visit(copy.deepcopy(tree)))
    remark = f"This advice is for the network itself, {inside.path}."
    if any(map(_keeps_what_it_is_given, (link.outer for link in inside.links))):
        remark += (
            f" Fit of the {type(inside.model).__name__} does not train it again. Train "
            "a new one and put it in the same place."
        )
    return Pasted(advice, remark)


def _keeps_what_it_is_given(model: Any) -> bool:
    own = getattr(model, "__dict__", {})
    frozen = type(model).__name__ == "FrozenEstimator"
    return frozen or own.get("cv") == "prefit" or own.get("prefit") is True


class _Replaced(ast.NodeTransformer):
    """`model` replaced by another expression."""

    def __init__(self, path: ast.expr):
        self.path = path

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.path if node.id == "model" else node


def _parameters(values: dict[str, str], inside: Inside) -> Pasted:
    """With their prefixes; those that a search chooses join its grid."""
    if _is_chosen(inside.links):
        pasted = _for_network(", ".join(f"{p}={v}" for p, v in values.items()), inside)
        more = " It is one that the search chose: change it where the grid lists it."
        return Pasted(pasted.advice, pasted.remark + more)
    written, remarks = [], []
    for k, link in enumerate(inside.links):
        inner = _prefix(inside.links[k:])[len(f"{link.name}__") :]
        chosen = {p: v for p, v in values.items() if _in_grid(link.outer, inner + p)}
        if not chosen:
            continue
        values = {p: v for p, v in values.items() if p not in chosen}
        more = {inner + p: v for p, v in chosen.items()}
        attribute, grid = _larger_grid(link.outer, _given(inside.links[:k]), more)
        written.append(f"{_prefix(inside.links[:k])}{attribute}={grid}")
        names = " and ".join(chosen)
        remarks.append(
            f"The search chooses {names}: what is in its {attribute} wins over what "
            "set_params sets. So the advice is to search there, too."
        )
    prefix = _prefix(inside.links)
    written = [*(f"{prefix}{p}={v}" for p, v in values.items()), *written]
    return Pasted(", ".join(written), " ".join(remarks))


def _grid_of(search: Any) -> tuple[str, Any]:
    for attribute in _GRIDS:
        grid = getattr(search, "__dict__", {}).get(attribute)
        if grid is not None:
            return attribute, grid
    return "", {}


def _in_grid(search: Any, name: str) -> bool:
    _, grid = _grid_of(search)
    grids = [grid] if isinstance(grid, dict) else grid
    return any(isinstance(one, dict) and name in one for one in grids)


def _is_chosen(links: Sequence[Link], *more: str) -> bool:
    """Whether a search chooses what the links lead to, or `more` of it."""
    names = [*(str(link.name) for link in links), *more]
    ends = [len(names)] if more else range(len(links) + 1)
    return any(
        _in_grid(link.outer, "__".join(names[k + 1 : end]))
        for k, link in enumerate(links)
        for end in ends
    )


def _larger_grid(search: Any, path: str, more: dict[str, str]) -> tuple[str, str]:
    attribute, grid = _grid_of(search)
    whole = f"{path}.{attribute}"
    if not isinstance(grid, dict):
        items = ", ".join(f"{name!r}: [{value}]" for name, value in more.items())
        return attribute, f"[{{**grid, {items}}} for grid in {whole}]"
    items = ""
    for name, value in more.items():
        # A distribution is drawn from, and has no list.
        former = "" if hasattr(grid[name], "rvs") else f"*{whole}[{name!r}], "
        items += f", {name!r}: [{former}{value}]"
    return attribute, f"{{**{whole}{items}}}"


def _is_pipeline(model: Any) -> bool:
    return any(base.__name__ == "Pipeline" for base in type(model).__mro__)


def _before_network(steps: Sequence[ast.expr], advice: str, inside: Inside) -> str:
    """Transformers that X passes just before the network, or where X is the same."""
    links = inside.links
    texts = [_text(step, advice) for step in steps]
    k = len(links)
    while k and not _is_pipeline(links[k - 1].outer) and links[k - 1].inputs is None:
        k -= 1
    if not k:
        return advice
    outer = links[k - 1].outer
    if _is_pipeline(outer):
        return _in_pipeline(steps, texts, links[:k])
    name = "__".join(str(link.name) for link in links[:k])
    return f"{name}=make_pipeline({', '.join(texts)}, {_given(links[:k])})"


def _in_pipeline(
    steps: Sequence[ast.expr], texts: list[str], links: Sequence[Link]
) -> str:
    """Steps for the pipeline of the last link, before what the link leads to."""
    pipeline, outer = links[-1].outer, links[:-1]
    names = [name for name, _ in pipeline.steps]
    k = names.index(links[-1].name)
    prefix, path = _prefix(outer), _given(outer)
    new = [_step_name(step) for step in steps]
    former = pipeline.steps[k - 1][1] if k else None
    is_scaler = len(new) == 1 and _function(steps[0]) in _SCALERS
    is_scaler = is_scaler and type(former).__name__ in _SCALERS
    if is_scaler and not _is_chosen(outer, names[k - 1]):
        return f"{prefix}{names[k - 1]}={texts[0]}"
    last = k == len(names) - 1
    if not outer and last and _is_as_made(pipeline):
        before = ["*model[:-1]"] if k else []
        return f"make_pipeline({', '.join([*before, *texts, 'model[-1]'])})"
    items = [f"*{path}.steps[:{-1 if last else k}]"] if k else []
    for name, text in zip(new, texts, strict=True):
        free = name
        while free in names:
            free += "-2"
        names.append(free)
        items.append(f"({free!r}, {text})")
    items.append(
        f"{path}.steps[-1]"
        if last
        else f"*{path}.steps[{k}:]"
        if k
        else f"*{path}.steps"
    )
    return f"{prefix}steps=[{', '.join(items)}]"


def _is_as_made(pipeline: Any) -> bool:
    """Whether make_pipeline would give the same names and parameters."""
    usual = all(name == type(step).__name__.lower() for name, step in pipeline.steps)
    foreign = type(pipeline).__module__.split(".")[0] != "sklearn"
    return usual and pipeline.memory is None and not foreign


def _function(step: ast.expr) -> str:
    return ast.unparse(step.func) if isinstance(step, ast.Call) else ""


def _step_name(step: ast.expr) -> str:
    name = _function(step).removeprefix("make_").replace("_", "")
    return name.lower() if name.isidentifier() else "step"


def _on_target(tree: ast.Call, advice: str, links: Sequence[Link]) -> str:
    """A transformer of y: round the model, or in the one that it has."""
    title = "TransformedTargetRegressor"
    k = next((k for k, n in enumerate(links) if type(n.outer).__name__ == title), None)
    if k is None:
        return advice
    values = {str(word.arg): _text(word.value, advice) for word in tree.keywords}
    outer, path, prefix = links[k].outer, _given(links[:k]), _prefix(links[:k])
    text = values.get("transformer", "")
    if not text:
        functions = [values.get(name, "None") for name in ("func", "inverse_func")]
        text = f"FunctionTransformer({', '.join(functions)})"
    parts = [text]
    if outer.transformer is not None:
        scales = _SCALERS >= {text.split("(")[0], type(outer.transformer).__name__}
        if "transformer" not in values:  # logarithms come before any scale
            parts = [text, f"{path}.transformer"]
        elif not scales:
            parts = [f"{path}.transformer", text]
    elif outer.func is not None:
        former = f"FunctionTransformer({path}.func, {path}.inverse_func)"
        parts = [former, text] if "transformer" in values else [text]
    whole = parts[0] if len(parts) == 1 else f"make_pipeline({', '.join(parts)})"
    off = "func inverse_func".split() if outer.func is not None else []
    written = [
        *(f"{prefix}{name}=None" for name in off),
        f"{prefix}transformer={whole}",
    ]
    return ", ".join(written)


def _fit(tree: ast.Call, inside: Inside) -> str:
    return f"model.fit({_call_arguments(tree, inside)})"


def _call_arguments(tree: ast.Call, inside: Inside) -> str:
    """Those of fit. Pipelines ask for the step's name before a fit parameter's."""
    steps = [link.name for link in inside.links if _is_pipeline(link.outer)]
    prefix = "".join(f"{name}__" for name in steps)
    texts = [ast.unparse(node) for node in tree.args]
    texts += [f"{prefix}{word.arg}={ast.unparse(word.value)}" for word in tree.keywords]
    return ", ".join(texts)


def _partial_fit(tree: ast.Call, inside: Inside) -> Pasted:
    """Only the network has it, so its rows have to be made."""
    links, rows = inside.links, "X"
    for k, link in enumerate(links):
        if link.targets is not None:
            return _for_network(ast.unparse(tree), inside)
        if link.inputs is None:
            continue
        if not _is_pipeline(link.outer):
            return _for_network(ast.unparse(tree), inside)
        at = [name for name, _ in link.outer.steps].index(link.name)
        at -= len(link.outer.steps) if link.path == "[-1]" else 0
        rows = f"{path_of(links[:k])}[:{at}].transform({rows})"
    texts = [rows if ast.unparse(n) == "X" else ast.unparse(n) for n in tree.args]
    texts += [f"{word.arg}={ast.unparse(word.value)}" for word in tree.keywords]
    return Pasted(f"{inside.path}.partial_fit({', '.join(texts)})")
