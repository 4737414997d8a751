"""Pickles and files of earlier versions load, predict the same bits and say the same.

They are in tests/golden, made once by make.py there. A class that moves to another
module must still be found where the first pickles name it.
"""

import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import InconsistentVersionWarning

import cbp

FOLDER = Path(__file__).parent / "golden"
PICKLES = sorted(FOLDER.glob("*.pickle"))
# Those of version 0.2; later ones may join them.
FIRST = ["classifier_adam", "classifier_partial_fit", "diagnosis"]
FIRST += ["regressor_diverged", "regressor_lbfgs"]
MODELS = [path for path in PICKLES if path.stem != "diagnosis"]
# The words of a diagnosis were noted of these only.
DIAGNOSED = [path for path in MODELS if path.stem in FIRST]
FILES = sorted(FOLDER.glob("*.cbp"))


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
    assert len([path for path in PICKLES if path.stem.startswith("pickle2_")]) >= 2
    assert len([path for path in FILES if path.stem.startswith("file1_")]) >= 18


@pytest.mark.parametrize("mmap_mode", [None, "r"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_old_file_predicts_the_same_bits(path, mmap_mode):
    model = cbp.load(path, mmap_mode)
    said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    X = np.array(said["X"])
    classifies = said["labels"] is not None
    raw = (model.decision_function if classifies else model.predict)(X)
    assert bits(raw) == said["outputs"]
    if classifies:
        predicted = model.predict(X)
        predicted = predicted.toarray() if sparse.issparse(predicted) else predicted
        assert [str(label) for label in np.ravel(predicted)] == said["labels"]
    parameters = {name: str(x) for name, x in model.get_params().items()}
    assert parameters | said["parameters"] == parameters
    if model.monitor:
        assert str(model.diagnose())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_old_file_that_is_saved_again_stays_the_same(path, tmp_path):
    model = cbp.load(path)
    cbp.save(model, tmp_path / path.name, optimizer=model._optimizer is not None)
    said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    twin = cbp.load(tmp_path / path.name)
    classifies = said["labels"] is not None
    X = np.array(said["X"])
    raw = (twin.decision_function if classifies else twin.predict)(X)
    assert bits(raw) == said["outputs"]


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


@pytest.mark.parametrize("path", DIAGNOSED, ids=lambda path: path.stem)
def test_an_old_model_has_the_same_diagnosis(path):
    model, said = load(path)
    assert str(model.diagnose()) == said["diagnosis"]


def test_an_old_model_goes_on_with_its_optimizer():
    paths = [path for path in MODELS if path.stem.endswith("classifier_partial_fit")]
    assert len(paths) == 2
    for path in paths:
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
        assert str(again.diagnose()) == str(model.diagnose())
