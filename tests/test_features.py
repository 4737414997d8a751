"""NetworkFeatures and hidden_activations: hidden units, for users and for pipelines."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from cbp import BPClassifier, BPRegressor, NetworkFeatures, backpropagate

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)


def network(estimator=BPClassifier, **options):
    options = {"hidden_layer_sizes": (7, 4), "max_iter": 5, "random_state": 0} | options
    return estimator(**options)


@pytest.mark.parametrize("estimator", [BPClassifier, BPRegressor])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_units_are_those_of_the_forward_pass(estimator, dtype):
    data = X.astype(dtype)
    model = network(estimator, activation=("tanh", "relu")).fit(data, y)
    W, b = model.coefs_, model.intercepts_
    first = np.tanh(data @ W[0] + b[0])
    second = np.maximum(first @ W[1] + b[1], 0)
    for layer, units in ((0, first), (-2, first), (1, second), (-1, second)):
        got = model.hidden_activations(data, layer)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, units, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        model.hidden_activations(data), model.hidden_activations(csr_matrix(data))
    )
    shown = backpropagate(model, data, y)
    np.testing.assert_array_equal(shown.a[0], model.hidden_activations(data, 0))


@pytest.mark.parametrize("layer", [2, -3, 0.5, "last", True, None])
def test_a_layer_that_is_not_there_is_refused(layer):
    model = network().fit(X, y)
    with pytest.raises(ValueError, match=r"layer must be an int in \[-2, 2\)"):
        model.hidden_activations(X, layer)
    with pytest.raises(ValueError, match="layer must be"):
        NetworkFeatures(network(), layer).fit(X, y)
    flat = network(hidden_layer_sizes=()).fit(X, y)
    with pytest.raises(ValueError, match="no hidden layer; got layer=-1"):
        flat.hidden_activations(X)


def test_an_unfitted_network_has_no_units():
    with pytest.raises(NotFittedError):
        network().hidden_activations(X)
    with pytest.raises(NotFittedError):
        NetworkFeatures(network()).transform(X)


def test_no_other_estimator_is_taken():
    with pytest.raises(TypeError, match="got MLPClassifier"):
        NetworkFeatures(MLPClassifier()).fit(X, y)


def test_a_pipeline_is_searched_over_layers_and_networks():
    pipe = make_pipeline(
        StandardScaler(), NetworkFeatures(network()), LogisticRegression(max_iter=500)
    )
    grid = {
        "networkfeatures__layer": [0, 1],
        "networkfeatures__estimator__activation": ["relu", "tanh"],
    }
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(X, y)
    assert search.best_score_ > 0.6


def test_features_have_names_and_frames():
    frame = pd.DataFrame(X, columns=list("abcd"))
    features = NetworkFeatures(network()).set_output(transform="pandas").fit(frame, y)
    assert list(features.feature_names_in_) == list("abcd")
    out = features.transform(frame)
    assert list(out.columns) == [f"networkfeatures{i}" for i in range(4)]
    np.testing.assert_array_equal(
        out.to_numpy(), features.estimator_.hidden_activations(frame)
    )


def test_a_trained_network_is_not_trained_again():
    frozen = pytest.importorskip("sklearn.frozen")
    model = network().fit(X, y)
    features = NetworkFeatures(frozen.FrozenEstimator(model)).fit(X, y)
    np.testing.assert_array_equal(features.transform(X), model.hidden_activations(X))


def test_estimator_checks_pass():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(NetworkFeatures(network(max_iter=3)))
