"""The network inside a model: in a pipeline, a search, or another meta-estimator.

`find_network` walks over fitted attributes, which meta-estimators of scikit-learn have
by convention, and keeps the way. It says what of given rows and targets reaches the
network. What happens to the findings is said in diagnosis.py; advice is written for the
model that was passed in _paste.py.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils import _safe_indexing

from cbp._fitted import Fitted

# Models within models; nobody nests more, and a circle must end.
_DEPTH = 10
# Networks that a sentence lists.
_LISTED = 3

_EXPECTED = (
    "Pass a fitted BPClassifier or BPRegressor, or a pipeline, search or other model "
    "that holds one"
)


@dataclass(frozen=True)
class Link:
    """From a model to one that it holds.

    Parameters
    ----------
    outer : estimator
        The model that holds.
    path, given : str
        Python to write behind `outer`: for what it has fitted, and for what it was
        given, which is the same or not fitted.
    words : str
    name : str or None
        The parameter of `outer` that stands for what it holds. None if there is none,
        or if `fit` does not train what is given.
    inputs, targets : callable or None
        What reaches the inner model of X, of y. None: all, as it is.
    columns : callable or None
        The names of the columns of `inputs(X)`, from those of X. None: nobody knows, or
        they stay.
    """

    outer: Any
    path: str
    given: str
    words: str
    name: str | None
    inputs: Callable[[Any], Any] | None = None
    targets: Callable[[Any], Any] | None = None
    columns: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Inside:
    """A network, and the way to it.

    Parameters
    ----------
    model : estimator
        What was passed.
    estimator : BPClassifier or BPRegressor
        The network to diagnose.
    links : tuple of Link
        The way, from the outside; empty if `model` is the network.
    paths : tuple of str
        All trained networks that `model` holds, as Python.
    """

    model: Any
    estimator: Any
    links: tuple[Link, ...] = ()
    paths: tuple[str, ...] = ("model",)

    @property
    def path(self) -> str:
        """The network as Python, from `model`."""
        return path_of(self.links)

    @property
    def words(self) -> str:
        """The way in words, from the inside; empty if `model` is the network."""
        return ", in ".join(link.words for link in reversed(self.links))

    @property
    def note(self) -> str:
        """Which network this is about, if there are several; else nothing."""
        n = len(self.paths)
        if n == 1:
            return ""
        listed = ", ".join(self.paths[:_LISTED]) + (", ..." if n > _LISTED else "")
        return (
            f"The {type(self.model).__name__} holds {n} networks ({listed}). This is "
            f"about {self.path}, whose training ended worst."
        )

    @property
    def name(self) -> str | None:
        """The parameter of `model` that stands for the network: `estimator__mlp`.

        None if `set_params` and `fit` of `model` do not reach the network.
        """
        names = [link.name for link in self.links]
        if None in names:
            return None
        name = "__".join(map(str, names))
        try:
            known = self.model.get_params(deep=True)
        except Exception:  # of a class that a user wrote
            return None
        return name if f"{name}__monitor" in known else None

    def inputs(self, X: Any) -> Any:
        """What of X reaches the network.

        Parameters
        ----------
        X : {array-like, data frame, sparse matrix}
            Rows as `model.predict` takes them.

        Returns
        -------
        X : {array-like, data frame, sparse matrix}

        Raises
        ------
        ValueError
            If that cannot be said, or is not what the network was trained on.
        """
        for link in self.links:
            if link.inputs is not None:
                X = link.inputs(X)
        if not self.links:
            return X
        if hasattr(X, "columns") and not hasattr(self.estimator, "feature_names_in_"):
            X = np.asarray(X)  # the model has done the same on the way
        known = getattr(self.estimator, "n_features_in_", None)
        shape = np.shape(X)
        if known is not None and len(shape) == 2 and shape[1] != known:
            raise ValueError(
                f"X has {shape[1]} columns where it reaches the network, {self.path}, "
                f"which was trained on {known}. Pass that network and its own rows."
            )
        return X

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that reach the network; empty if nobody knows."""
        known = self.estimator._fitted.get("feature_names_in_")
        if known is None:
            known = _attribute(self.model, "feature_names_in_")
            for link in self.links:
                if link.columns is not None:
                    known = _names_after(link.columns, known)
                elif link.inputs is not None:
                    known = None
        return () if known is None else tuple(map(str, known))

    def original(self, column: int, value: float) -> float | None:
        """A number as X has it, of one that has reached the network in a column.

        None if that cannot be said: columns were mixed, or no step can go back.
        """
        # Two rows, that differ in all other columns: they must not matter.
        rows = np.outer([0.0, 1.0], np.ones(self.estimator._fitted.n_features_in_))
        rows[:, column] = value
        try:
            with warnings.catch_warnings(action="ignore"):  # of names of columns
                for link in reversed(self.links):
                    for step in reversed(_steps_of(link)):
                        rows = np.asarray(step.inverse_transform(rows), np.float64)
                alike = np.isclose(*rows[:, column])
                rows[:, column] = given = float(f"{rows[0, column]:.6g}")
                again = float(np.asarray(self.inputs(rows))[0, column])
        except Exception:  # transformers raise whatever they like
            return None
        return given if alike and np.isclose(again, value, rtol=1e-5) else None

    def targets(self, y: Any) -> Any:
        """What the network is asked for where the model is asked for y.

        Parameters
        ----------
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)

        Returns
        -------
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)

        Raises
        ------
        ValueError
            If that cannot be said, or if `model` does not know a label.
        """
        for link in self.links:
            if link.targets is not None:
                y = link.targets(y)
        return y


def find_network(model: Any) -> Inside:
    """The trained network inside a model; of several the one that ended worst.

    Parameters
    ----------
    model : estimator
        A BPClassifier or BPRegressor, or a model that holds one or several.

    Returns
    -------
    inside : Inside

    Raises
    ------
    TypeError
        If there is no network in it.
    NotFittedError
        If there is one but it was not trained.
    ValueError
        If it is a search with ``refit=False``, which keeps no model.
    """
    if is_network(model):  # trained or not: that is for its records to say
        return Inside(model, model)
    visited: dict[int, Any] = {}
    found = list(_walk(model, (), visited))
    trained = [(est, links) for est, links in found if _is_trained(est)]
    if not trained:
        raise _nothing_found(model, bool(found), visited)
    estimator, links = max(trained, key=lambda item: _badness(item[0]))
    paths = tuple(path_of(links) for _, links in trained)
    return Inside(model, estimator, links, paths)


def path_of(links: Sequence[Link]) -> str:
    """What a model has fitted, as Python."""
    return "model" + "".join(link.path for link in links)


def _walk(
    model: Any, links: tuple[Link, ...], visited: dict[int, Any]
) -> Iterator[tuple[Any, tuple[Link, ...]]]:
    if id(model) in visited or len(links) > _DEPTH:
        return
    visited[id(model)] = model
    if is_network(model):
        yield model, links
        return
    for child, link in _children(model):
        # Nothing else follows the conventions, and much else has any attribute.
        if isinstance(child, BaseEstimator):
            yield from _walk(child, (*links, link), visited)


def is_network(model: Any) -> bool:
    """Whether it is a BPClassifier, a BPRegressor, or of a class made from them."""
    if isinstance(model, type):
        return False
    own = getattr(model, "__dict__", {})  # not what a wrapper passes on
    return isinstance(own.get("_fitted", getattr(type(model), "_fitted", 0)), Fitted)


def _is_trained(estimator: Any) -> bool:
    # Training that diverged leaves records, and no model.
    failed = getattr(estimator, "_failed_flow", None) is not None
    return failed or estimator._fitted.is_model


def _badness(estimator: Any) -> float:
    """How badly training ended: its cost, in costs of a constant answer."""
    if getattr(estimator, "_failed_flow", None) is not None:
        return math.inf
    summary = estimator._fitted.get("_fit_summary")  # what it knows so far is enough
    if summary is None or not summary.constant_cost > 0:
        return -math.inf  # nothing is known of it, or there was nothing to learn
    reached = (estimator.loss_ - summary.least_cost) / summary.constant_cost
    return reached if reached == reached else math.inf


# ---- Why there is nothing to diagnose


def _nothing_found(model: Any, untrained: bool, visited: dict[int, Any]) -> Exception:
    name = type(model).__name__
    searches = [m for m in visited.values() if _is_search_without_model(m)]
    if searches and (untrained or _has_network(searches[0])):
        return ValueError(
            f"The {type(searches[0]).__name__} was made with refit=False: it keeps no "
            "fitted model that could be diagnosed. Pass refit=True and fit it again, "
            "or fit a model with its best_params_ and pass that."
        )
    if untrained or _has_network(model):
        return NotFittedError(
            f"This {name} holds a network that is not fitted yet, so there is nothing "
            "to diagnose. Call fit(X, y) first. If fit failed, fit the network alone "
            "and pass that."
        )
    got = name
    if isinstance(model, type):
        got = f"the class {model.__name__}"
    elif len(visited) > 1:
        inner = {type(m).__name__ for m in visited.values() if m is not model}
        listed = sorted(inner)[:_LISTED]
        got += f", which holds {', '.join(listed)}"
        got += ", ..." if len(inner) > _LISTED else ""
    return TypeError(f"{_EXPECTED}; got {got}.")


def _has_network(model: Any) -> bool:
    """Whether one of the parameters, however deep, is a network."""
    try:
        return any(map(is_network, model.get_params(deep=True).values()))
    except Exception:  # it has none, or they are not to be had
        return False


def _is_search_without_model(model: Any) -> bool:
    own = getattr(model, "__dict__", {})
    return "cv_results_" in own and own.get("refit") is False


# ---- What a model holds

Children = Iterator[tuple[Any, Link]]


def _children(model: Any) -> Children:
    """The fitted models that a model holds."""
    if isinstance(model, type):
        return
    for base in type(model).__mro__:
        if base.__name__ in _HOLDERS:
            yield from _HOLDERS[base.__name__](model)
            return
    yield from _by_convention(model)


def _attribute(model: Any, name: str) -> Any:
    """None if there is no such attribute; a property may raise anything."""
    try:
        return getattr(model, name, None)
    except Exception:
        return None


def _steps_of_pipeline(model: Any) -> Children:
    steps = model.steps
    for k, (name, step) in enumerate(steps):
        path = "[-1]" if k == len(steps) - 1 else f"[{name!r}]"
        before = [t for _, t in steps[:k] if hasattr(t, "transform")]
        inputs = partial(_through, before) if before else None
        words = f"step {name!r} of the Pipeline"
        columns = partial(_named_through, before) if before else None
        yield step, Link(model, path, path, words, name, inputs, columns=columns)


def _through(transformers: list[Any], X: Any) -> Any:
    for transformer in transformers:
        X = transformer.transform(X)
    return X


def _steps_of(link: Link) -> list[Any]:
    """The transformers that X goes through; an error if it is something else."""
    if link.inputs is None:
        return []
    (steps,) = link.inputs.args  # type: ignore[attr-defined]
    return list(steps)


def _named_through(transformers: list[Any], names: Any) -> Any:
    for transformer in transformers:
        names = transformer.get_feature_names_out(names)
    return names


def _names_after(columns: Callable[[Any], Any], names: Any) -> Any:
    try:
        return columns(names)
    except Exception:  # transformers that cannot tell raise whatever they like
        return None


def _frozen(model: Any) -> Children:
    # Its set_params reaches nothing, and fit trains nothing.
    path = ".estimator"
    yield model.estimator, Link(model, path, path, "a FrozenEstimator", None)


def _regressor(model: Any) -> Children:
    for child, link in _by_convention(model):
        yield child, _changed(link, targets=partial(_transformed_target, model))


def _transformed_target(model: Any, y: Any) -> Any:
    """As TransformedTargetRegressor does in fit."""
    y = np.asarray(y)
    Y = model.transformer_.transform(y.reshape(-1, 1) if y.ndim == 1 else y)
    return Y[:, 0] if Y.ndim == 2 and Y.shape[1] == 1 else Y


def _calibrated(model: Any) -> Children:
    prefit = getattr(model, "cv", None) == "prefit"
    name = None if prefit else _parameter_for(model, "estimator")
    for i, pair in enumerate(getattr(model, "calibrated_classifiers_", ())):
        path = f".calibrated_classifiers_[{i}].estimator"
        words = f"calibrated classifier {i} of the {type(model).__name__}"
        yield pair.estimator, Link(model, path, f".{name}", words, name)


def _named(model: Any) -> Children:
    """Voting and stacking, which number the classes before they train."""
    encode = _encoder(model)
    prefit = getattr(model, "cv", None) == "prefit"  # the user trained the estimators
    title = type(model).__name__
    for name, child in getattr(model, "named_estimators_", {}).items():
        path, given = f".named_estimators_[{name!r}]", f".named_estimators[{name!r}]"
        words = f"estimator {name!r} of the {title}"
        targets = None if prefit else encode
        parameter = None if prefit else name
        yield child, Link(model, path, given, words, parameter, None, targets)
    if (final := getattr(model, "final_estimator_", None)) is not None:
        path, name = ".final_estimator_", "final_estimator"
        words = f"the final estimator of the {title}"
        link = Link(model, path, f".{name}", words, name, model.transform, encode)
        yield final, link


def _bagged(model: Any) -> Children:
    columns = getattr(model, "estimators_features_", None)
    encode = _encoder(model)
    for i, (child, link) in enumerate(_listed(model)):
        inputs = None
        if columns is not None:
            some = np.arange(model.n_features_in_)[columns[i]]
            if not np.array_equal(some, np.arange(model.n_features_in_)):
                inputs = partial(_columns_of, some)
        yield child, _changed(link, inputs=inputs, targets=encode)


def _columns_of(columns: Any, X: Any) -> Any:
    X = np.asarray(X) if isinstance(X, list | tuple) else X
    return _safe_indexing(X, columns, axis=1)


def _one_per_output(model: Any) -> Children:
    for i, (child, link) in enumerate(_listed(model)):
        yield child, _changed(link, targets=partial(_output, i))


def _output(i: int, Y: Any) -> Any:
    return np.asarray(Y)[:, i]


def _one_per_class(model: Any) -> Children:
    for i, (child, link) in enumerate(_listed(model)):
        yield child, _changed(link, targets=partial(_is_class, model, i))


def _is_class(model: Any, i: int, y: Any) -> Any:
    """1 for the rows of a class, as OneVsRestClassifier does in fit."""
    return model.label_binarizer_.transform(y).tocsc()[:, [i]].toarray().ravel()


def _part_of_task(model: Any) -> Children:
    """Networks that saw rows, columns or labels of their own."""

    def refuse(_: Any) -> Any:
        raise ValueError(
            f"Of X and y it cannot be said what reaches a network inside a "
            f"{type(model).__name__}. Call diagnose without X_val and y_val, or pass "
            "the network and its own rows."
        )

    for child, link in _listed(model):
        yield child, _changed(link, inputs=refuse, targets=refuse)


def _of_columns(model: Any) -> Children:
    names = [name for name, _, _ in model.transformers]
    for name, child, columns in getattr(model, "transformers_", ()):
        if name not in names:  # the remainder
            continue
        path = f".named_transformers_[{name!r}]"
        given = f".transformers[{names.index(name)}][1]"
        words = f"transformer {name!r} of the ColumnTransformer"
        yield (
            child,
            Link(model, path, given, words, name, partial(_columns_of, columns)),
        )


def _side_by_side(model: Any) -> Children:
    for k, (name, child) in enumerate(model.transformer_list):
        path = f".transformer_list[{k}][1]"
        words = f"transformer {name!r} of the FeatureUnion"
        yield child, Link(model, path, path, words, name)


def _selected(model: Any) -> Children:
    for child, link in _by_convention(model):
        yield child, _changed(link, inputs=model.transform)


_WORDS = {
    "best_estimator_": "the best estimator of",
    "final_estimator_": "the final estimator of",
    "regressor_": "the regressor of",
    "classifier_": "the classifier of",
    "estimator_": "the estimator of",
}


def _by_convention(model: Any) -> Children:
    """Attributes that end with an underscore: what `fit` has made.

    Those of the names that are usual may be properties.
    """
    own = [name for name in getattr(model, "__dict__", ()) if name[-1:] == "_"]
    names = dict.fromkeys([*_WORDS, *(n for n in own if not n.startswith("_"))])
    for attribute in names:
        child = _attribute(model, attribute)
        if not isinstance(child, BaseEstimator):
            continue
        begin = _WORDS.get(attribute, f"{attribute} of")
        name = _parameter_for(model, attribute[:-1].removeprefix("best_"))
        if getattr(model, "__dict__", {}).get("prefit") is True:  # SelectFromModel
            name = None
        words = f"{begin} the {type(model).__name__}"
        yield child, Link(model, f".{attribute}", f".{name}", words, name)
    yield from _listed(model)


def _listed(model: Any) -> Children:
    """The list `estimators_`."""
    children = _attribute(model, "estimators_")
    if not isinstance(children, list | tuple):
        return
    name = _parameter_for(model, "estimator")
    for i, child in enumerate(children):
        words = f"estimator {i} of the {type(model).__name__}"
        yield child, Link(model, f".estimators_[{i}]", f".{name}", words, name)


def _parameter_for(model: Any, name: str) -> str | None:
    """The parameter whose copy was fitted."""
    try:
        known = model.get_params(deep=False)
    except Exception:
        return None
    usual = (name, "estimator", "base_estimator")
    return next((p for p in usual if isinstance(known.get(p), BaseEstimator)), None)


def _changed(link: Link, **changes: Any) -> Link:
    return Link(**{**vars(link), **changes})


def _encoder(model: Any) -> Callable[[Any], Any] | None:
    """From labels to their numbers, if they are not the same."""
    classes = getattr(model, "classes_", None)
    if classes is None:
        return None
    if isinstance(classes, list):  # of several columns
        return partial(_numbers_of_columns, classes)
    if np.array_equal(classes, np.arange(len(classes))):
        return None
    return partial(_numbers, classes)


def _numbers(classes: Any, y: Any) -> Any:
    y = np.asarray(y)
    numbers = np.searchsorted(classes, y).clip(max=len(classes) - 1)
    unknown = classes[numbers] != y
    if np.any(unknown):
        label = y[unknown].tolist()[0]
        raise ValueError(f"y has a label that the model was not trained on: {label!r}.")
    return numbers


def _numbers_of_columns(classes: list[Any], Y: Any) -> Any:
    columns = zip(classes, np.asarray(Y).T, strict=True)
    return np.stack([_numbers(labels, y) for labels, y in columns], axis=1)


# Classes of scikit-learn, by name: nothing is imported that the user has not imported.
# All others follow the convention.
_HOLDERS: dict[str, Callable[[Any], Children]] = {
    "Pipeline": _steps_of_pipeline,
    "FrozenEstimator": _frozen,
    "TransformedTargetRegressor": _regressor,
    "CalibratedClassifierCV": _calibrated,
    "_BaseVoting": _named,
    "_BaseStacking": _named,
    "BaseBagging": _bagged,
    "_MultiOutputEstimator": _one_per_output,
    "OneVsRestClassifier": _one_per_class,
    "OneVsOneClassifier": _part_of_task,
    "OutputCodeClassifier": _part_of_task,
    "_BaseChain": _part_of_task,
    "ColumnTransformer": _of_columns,
    "FeatureUnion": _side_by_side,
    "RFE": _selected,
}
