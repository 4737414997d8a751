"""Warnings point at the line that called the package."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from cbp import BPClassifier, BPRegressor, backpropagate

X = np.random.RandomState(0).normal(size=(60, 3))
y = np.arange(60) % 3
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])


def fitted(data=X, **parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return BPClassifier((4,), max_iter=2, **parameters).fit(data, y)


CALLS = {
    "max_iter, adam": (
        lambda: BPClassifier(max_iter=1).fit(X, y),
        ConvergenceWarning,
        "Maximum iterations",
    ),
    "max_iter, lbfgs": (
        lambda: BPRegressor(solver="lbfgs", max_iter=1).fit(X, y),
        ConvergenceWarning,
        "lbfgs failed to converge after 1 iteration",
    ),
    "divergence": (
        lambda: (
            BPRegressor(
                solver="sgd",
                learning_rate_init=1e3,
                early_stopping=True,
                warm_start=True,
            )
            .initialize(X, y)
            .fit(X, y)
        ),
        ConvergenceWarning,
        "best validation score are kept",
    ),
    "batch_size": (
        lambda: fitted().set_params(batch_size=100).partial_fit(X, y),
        UserWarning,
        "batch_size=100",
    ),
    "no names, predict": (
        lambda: fitted(FRAME).predict(X),
        UserWarning,
        "X does not have valid feature names, but BPClassifier was fitted with",
    ),
    "no names, partial_fit": (
        lambda: fitted(FRAME).partial_fit(X, y),
        UserWarning,
        "X does not have valid feature names",
    ),
    "names, predict": (
        lambda: fitted().predict_proba(FRAME),
        UserWarning,
        "X has feature names, but BPClassifier was fitted without feature names",
    ),
    "names, backpropagate": (
        lambda: backpropagate(fitted(), FRAME, y),
        UserWarning,
        "X has feature names",
    ),
    "a column of targets": (
        lambda: fitted().partial_fit(X, y[:, np.newaxis]),
        DataConversionWarning,
        "A column-vector y was passed",
    ),
    "many classes": (
        lambda: BPClassifier().initialize(X, np.arange(60)),
        UserWarning,
        "number of unique classes is greater than 50%",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_warning_points_at_the_line_of_the_caller(name):
    call, category, message = CALLS[name]
    with pytest.warns(category, match=message) as caught:
        call()
    found = [w for w in caught if message in str(w.message)]
    assert [w.filename for w in found] == [__file__]


def test_a_warning_in_a_pipeline_or_a_search_points_at_the_line_of_the_caller():
    model = make_pipeline(BPClassifier(max_iter=1))
    search = GridSearchCV(model, {"bpclassifier__alpha": [0, 1]}, cv=2)
    with pytest.warns(ConvergenceWarning, match="Maximum iterations") as caught:
        model.fit(X, y)
        search.fit(X, y)
    assert {w.filename for w in caught} == {__file__}
    assert len(caught) == 1 + 2 * 2 + 1


def test_names_that_match_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = fitted(FRAME)
        model.predict(FRAME)
        model.partial_fit(FRAME, y)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(FRAME[["b", "a", "c"]])
