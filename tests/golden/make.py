"""Writes pickles and files of small models, and beside each what it must predict.

    python tests/golden/make.py
    python tests/golden/make.py words    # after a change of the words of a diagnosis

Users keep models for years, and a pickle names its classes by module. So these files
are made once and never again: a file that is there is left alone, and a later version
adds its own under other names. tests/test_golden.py loads them all. Data are sixteenths
of small integers, so that no other library has a say in them. With `words` what the
diagnosis of the loaded models says is noted anew, and nothing else. The first pickles
are of format 1; names of what is newer begin with its format, pickle2 or file1.
"""

import json
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
from scipy import sparse

from cbp import BPClassifier, BPRegressor, save

FOLDER = Path(__file__).parent


def data():
    """24 rows of 3 columns, their classes, and numbers."""
    rng = np.random.RandomState(5)
    X = rng.randint(-24, 25, (24, 3)) / 16
    score = X @ [1, -2, 1]
    names = np.array(["low", "middle", "top"])
    return X, names[(score > -1).astype(int) + (score > 1)], score


def fitted(model, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(X, y)


def classifier_adam():
    X, labels, _ = data()
    model = BPClassifier(
        3, "tanh", precision="float32", max_iter=30, batch_size=8, random_state=0
    )
    return fitted(model, X, labels), X, labels


def classifier_partial_fit():
    X, labels, _ = data()
    labels = labels == "top"
    model = BPClassifier(2, "relu", solver="sgd", momentum=0.5, random_state=1)
    for _ in range(3):
        model.partial_fit(X, labels, classes=[False, True])
    return model, X, labels


def regressor_lbfgs():
    X, _, score = data()
    model = BPRegressor(
        hidden_layer_sizes=2,
        activation="logistic",
        solver="lbfgs",
        max_iter=20,
        early_stopping=True,
        random_state=0,
    )
    return fitted(model, X, score), X, score


def regressor_diverged():
    """A good fit, and after it one that diverged: the model predicts as before."""
    X, _, score = data()
    model = BPRegressor(
        hidden_layer_sizes=(3, 2),
        activation="identity",
        solver="sgd",
        max_iter=50,
        random_state=0,
    )
    fitted(model, X, score)
    try:
        fitted(model.set_params(learning_rate_init=10), X, score)
    except ValueError as error:
        assert "diverged" in str(error)
        return model, X, score
    raise AssertionError("It did not diverge.")


def diagnosis():
    X, labels, _ = data()
    model = BPClassifier((2,) * 6, "logistic", max_iter=15, random_state=0)
    return fitted(model, 32 * X, labels).diagnose()


def several_kinds():
    """Names, models and data: every kind of targets, labels of several types."""
    X, labels, score = data()
    codes = (score > -1).astype(int) + (score > 1)
    small = {"max_iter": 6, "random_state": 0, "batch_size": 8}
    classes = {
        "texts": (BPClassifier((3, 2), ("relu", "gelu"), **small), labels),
        "numbers": (BPClassifier(3, "selu", **small), (codes - 1).astype(np.int8)),
        "floats": (
            BPClassifier(2, "softplus", precision="float32", **small),
            codes / 1,
        ),
        "bools": (BPClassifier(2, "elu", loss="squared_error", **small), codes > 0),
        "days": (BPClassifier((), **small), codes.astype("datetime64[D]")),
        "one": (BPClassifier(2, **small), np.zeros(24, np.uint64)),
        "several": (
            BPClassifier(3, "mish", **small),
            np.column_stack([labels.astype(object), codes > 0]),
        ),
        "multilabel": (BPClassifier(3, "silu", **small), np.eye(3, dtype=int)[codes]),
        "sparse": (
            BPClassifier(3, focal_gamma=1.5, monitor=False, **small),
            sparse.csr_matrix(np.eye(3, dtype=int)[codes]),
        ),
        "judged": (BPClassifier(4, max_iter=99, random_state=0), labels),
        "focal": (
            BPClassifier(3, "leaky_relu", label_smoothing=0.1, **small),
            labels,
        ),
    }
    numbers = {
        "one_output": (BPRegressor(hidden_layer_sizes=3, **small), score),
        "outputs": (BPRegressor(hidden_layer_sizes=(2, 2), average=0.5, **small), X),
        "quantiles": (BPRegressor("quantile", 3, quantile=(0.1, 0.5), **small), score),
        "huber": (BPRegressor("huber", 2, "tanh", huber_delta=0.25, **small), score),
        "tweedie": (BPRegressor("tweedie", 2, power=1.25, **small), score + 9),
        "held_out": (BPRegressor(early_stopping=True, solver="sgd", **small), score),
    }
    for name, (model, y) in (classes | numbers).items():
        yield name, fitted(model, X, y), X, y


def bits(array):
    """The bytes of an array, in hexadecimal digits, the lowest byte first."""
    return array.astype(array.dtype.newbyteorder("<")).tobytes().hex()


def prediction(model, X):
    predict = model.predict_proba if hasattr(model, "classes_") else model.predict
    return bits(predict(X))


def expected(model, X, y, goes_on):
    """What the loaded model must come to, and the data to see it with."""
    said = {
        "X": X.tolist(),
        "y": y.tolist(),
        "prediction": prediction(model, X),
        "labels": model.predict(X).tolist() if hasattr(model, "classes_") else None,
        "diagnosis": str(model.diagnose()),
    }
    if goes_on:  # the pickle holds the optimizer, too
        again = pickle.loads(pickle.dumps(model)).partial_fit(X, y)
        said["after_another_call"] = prediction(again, X)
    return said


def write(name, thing, said):
    path = FOLDER / f"{name}.pickle"
    if path.exists():
        print(f"{path.name} is there and stays as it is")
        return
    path.write_bytes(pickle.dumps(thing, protocol=4))
    note(path, said)
    print(f"{path.name}: {path.stat().st_size} bytes")


def note(path, said):
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(said[key])}" for key in said)
    path.with_suffix(".json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def note_words():
    """Notes what is said of the pickles that are there."""
    for path in sorted(FOLDER.glob("*.pickle")):
        thing = pickle.loads(path.read_bytes())
        found = thing.diagnose() if hasattr(thing, "diagnose") else thing
        said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if "diagnosis" not in said:
            continue
        note(path, said | {"diagnosis": str(found)})


def raw_outputs(model, X):
    """Bits of the network's own outputs, in which no other library has a say."""
    classifies = hasattr(model, "classes_")
    return bits((model.decision_function if classifies else model.predict)(X))


def outputs_and_labels(model, X):
    """What a loaded file must come to."""
    predicted = model.predict(X)
    predicted = predicted.toarray() if sparse.issparse(predicted) else predicted
    labels = [str(label) for label in np.ravel(predicted)]
    return {
        "outputs": raw_outputs(model, X),
        "labels": labels if hasattr(model, "classes_") else None,
        "parameters": {name: str(x) for name, x in model.get_params().items()},
    }


def write_file(name, model, X, y):
    path = FOLDER / f"{name}.cbp"
    if path.exists():
        print(f"{path.name} is there and stays as it is")
        return
    goes_on = model._optimizer is not None and not sparse.issparse(y)
    said = {"X": X.tolist()} | outputs_and_labels(model, X)
    save(model, path, optimizer=goes_on)
    note(path, said)
    print(f"{path.name}: {path.stat().st_size} bytes")


def main():
    models = (classifier_adam, classifier_partial_fit)
    models += (regressor_lbfgs, regressor_diverged)
    for make in models:
        model, X, y = make()
        said = expected(model, X, y, goes_on=make is classifier_partial_fit)
        write(make.__name__, model, said)
    for make in (classifier_partial_fit, regressor_diverged):
        model, X, y = make()
        said = expected(model, X, y, goes_on=make is classifier_partial_fit)
        del said["diagnosis"]  # its words may change
        write(f"pickle2_{make.__name__}", model, said)
    for name, model, X, y in several_kinds():
        write_file(f"file1_{name}", model, X, y)
    model, X, y = regressor_diverged()
    write_file("file1_diverged", model, X, y)
    found = diagnosis()
    write("diagnosis", found, {"diagnosis": str(found)})


if __name__ == "__main__":
    note_words() if "words" in sys.argv else main()
