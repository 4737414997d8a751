"""The records of a fit: that they fit together, and what follows from them alone."""

import pickle
import sys

import numpy as np
import pytest
from fits import RECORDS, fitted, some_flow

from cbp import BPClassifier, gradient_flow
from cbp.diagnosis import Diagnosis, diagnose


def test_a_gain_is_the_product_of_what_weights_and_activation_do(deep):
    flow = deep.gradient_flow_
    product = flow.gain_weights * flow.gain_activation
    np.testing.assert_allclose(product, flow.gain, rtol=1e-5)
    assert (flow.gain_activation <= 0.25).all()  # the derivative of a sigmoid


def test_relative_error_is_the_length_of_delta_over_that_of_the_output_layer():
    flow = some_flow()
    length = flow.delta * np.sqrt([4, 5, 2])
    np.testing.assert_allclose(flow.relative_error, length / length[:, 2:], rtol=1e-6)
    # The gains, corrected for the widths, lead from the output layer to the first.
    gains = flow.gain * np.sqrt([4 / 5, 5 / 2])
    np.testing.assert_allclose(flow.relative_error[:, 0], gains.prod(1), rtol=1e-5)


def test_update_ratio_is_update_over_weight_and_no_warning():
    weight = np.array([[1, 2, 0], [1, 1, 1]], dtype="f4")
    update = np.array([[0.1, 0.1, 0.5], [0, 0, 0]], dtype="f4")
    ratio = some_flow(weight=weight, update=update).update_ratio
    np.testing.assert_allclose(ratio[0], [0.1, 0.05, np.inf])


def test_a_flow_without_hidden_layers(moons):
    model = fitted(BPClassifier((), random_state=0), *moons)
    assert model.gradient_flow_.n_layers == 1
    assert model.gradient_flow_.gain.shape[1] == 0
    assert diagnose(model).healthy


def test_flow_as_data_frame():
    frame = some_flow().to_frame()
    assert list(frame.columns) == ["epoch", "layer", *RECORDS]
    assert frame.epoch.tolist() == [0, 0, 0, 7, 7, 7]
    assert frame.layer.tolist() == [1, 2, 3, 1, 2, 3]
    assert frame.delta[4] == some_flow().delta[1, 1]


def test_without_pandas_the_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    for table in (some_flow(), Diagnosis("fine")):
        with pytest.raises(ImportError, match="pip install pandas"):
            table.to_frame()


@pytest.mark.parametrize(
    "changes",
    [
        {"delta": np.ones((1, 3), "f4")},
        {"stuck": np.ones((2, 2), "f4")},
        {"epoch": np.array([0])},
        {"layer_sizes": (3, 4, 2)},
        {"activations": ("relu",)},
    ],
)
def test_partial_records_are_refused(changes):
    with pytest.raises(ValueError, match="records of|activations for"):
        some_flow(**changes)


def test_a_flow_survives_a_pickle(deep):
    again = pickle.loads(pickle.dumps(deep.gradient_flow_))
    for name in RECORDS:
        np.testing.assert_array_equal(
            getattr(again, name), getattr(deep.gradient_flow_, name)
        )


def test_short_calls_of_partial_fit_keep_the_last_records(moons):
    """Of the optimizer's steps, here one per call, few are watched."""
    X, y = moons
    model, watched, flow = BPClassifier(random_state=0), [], None
    for step in range(40):
        model.partial_fit(X[:20], y[:20], classes=[0, 1])
        if model.gradient_flow_ is not flow:
            watched.append(step)
        flow = model.gradient_flow_
        assert model.diagnose().verdict
    assert watched == [0, 1, 2, 4, 8, 16, 32]
    model.set_params(monitor=False).partial_fit(X[:20], y[:20])
    assert not hasattr(model, "gradient_flow_")


@pytest.mark.parametrize("name", ["Diagnosis", "Finding", "FitSummary", "diagnose"])
def test_what_moved_to_other_modules_is_still_found(name):
    """Earlier pickles and programs look for it here."""
    moved = getattr(gradient_flow, name)
    assert moved.__name__ == name
    assert moved.__module__ != "cbp.gradient_flow"


def test_what_never_was_there_is_not_found():
    with pytest.raises(AttributeError, match="gradient_flow' has no .*'diagnosed'"):
        gradient_flow.diagnosed  # noqa: B018
