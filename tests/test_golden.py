"""Pickles of earlier versions load, predict the same bits and say the same.

The files are in tests/golden, made once by make.py there. A class that moves to another
module must still be found where they name it.
"""

import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import InconsistentVersionWarning

FOLDER = Path(__file__).parent / "golden"
PICKLES = sorted(FOLDER.glob("*.pickle"))
# Those of version 0.2; later ones may join them.
FIRST = ["classifier_adam", "classifier_partial_fit", "diagnosis"]
FIRST += ["regressor_diverged", "regressor_lbfgs"]
MODELS = [path for path in PICKLES if path.stem != "diagnosis"]


def load(path):
    """What is in a pickle, and what was noted of it."""
    with warnings.catch_warnings():
        # scikit-learn warns of pickles that another version of it has made.
        warnings.simplefilter("ignore", InconsistentVersionWarning)
        thing = pickle.loads(path.read_bytes())
    return thing, json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))


def bits(array):
    return array.astype(array.dtype.newbyteorder("<")).tobytes().hex()


def prediction(model, X):
    predict = model.predict_proba if hasattr(model, "classes_") else model.predict
    return bits(predict(X))


def test_there_is_a_pickle_of_each_kind():
    assert {path.stem for path in PICKLES} >= set(FIRST)


@pytest.mark.parametrize("name", FIRST)
def test_the_first_pickles_were_not_made_again(name):
    """They are of the time when all of the diagnosis stood in gradient_flow.py."""
    held = (FOLDER / f"{name}.pickle").read_bytes()
    assert b"cbp.gradient_flow" in held
    assert b"cbp._fit_summary" not in held and b"cbp.diagnosis" not in held


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_an_old_model_predicts_the_same_bits(path):
    model, said = load(path)
    X = np.array(said["X"])
    assert prediction(model, X) == said["prediction"]
    if said["labels"] is not None:
        assert model.predict(X).tolist() == said["labels"]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_an_old_model_has_the_same_diagnosis(path):
    model, said = load(path)
    assert str(model.diagnose()) == said["diagnosis"]


def test_an_old_model_goes_on_with_its_optimizer():
    path = next(path for path in MODELS if path.stem == "classifier_partial_fit")
    model, said = load(path)
    model.partial_fit(np.array(said["X"]), np.array(said["y"]))
    assert prediction(model, np.array(said["X"])) == said["after_another_call"]


def test_an_old_diagnosis_says_the_same():
    path = next(path for path in PICKLES if path.stem == "diagnosis")
    diagnosis, said = load(path)
    assert str(diagnosis) == said["diagnosis"]
    assert not diagnosis.healthy


def test_a_model_that_is_saved_again_stays_the_same():
    for path in MODELS:
        model, said = load(path)
        again = pickle.loads(pickle.dumps(model))
        assert prediction(again, np.array(said["X"])) == said["prediction"]
        assert str(again.diagnose()) == said["diagnosis"]
