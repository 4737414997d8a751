"""One hash over what training and prediction come to, to compare builds and machines.

    python tools/bits.py               one line for all
    python tools/bits.py -v            and one for each configuration
    python tools/bits.py -v --random 500  so many configurations drawn by a fixed seed

Equal lines mean equal bits: every compiler, operating system, kind of CPU (CBP_ISA) and
number of threads must print the same. Data are fractions of random integers, so that
neither libm nor BLAS has a say in them. L-BFGS, whose steps are SciPy's, by a BLAS of
its own, has a second hash, which may differ from machine to machine. Needs NumPy, SciPy
and an installed cbp; run it from outside the source tree.
"""

import argparse
import hashlib
import platform
import warnings
from functools import partial

import numpy as np
from scipy.sparse import csr_matrix

from cbp import BPClassifier, BPRegressor, _kernels

N_ROWS, N_COLUMNS = 397, 37


def data(kind, dtype, n_outputs=1):
    """X and y; X dense, sixteenths of integers; a third of "csr" is not zero."""
    random = np.random.RandomState(7)
    shape = (N_ROWS, N_COLUMNS)
    X = (random.randint(-32, 33, shape) / 16.0).astype(dtype)
    if kind == "csr":
        X[random.randint(0, 3, shape) > 0] = 0
    signs = np.where(random.randint(0, 2, (N_COLUMNS, max(n_outputs, 2))), 1, -1)
    # Sums of sixteenths are exact in any order, so this product is nobody's business.
    scores = X.astype(np.float64) @ signs
    return (csr_matrix(X) if kind == "csr" else X), scores, random


def classifier(kind="dense", dtype="float64", n_classes=3, **parameters):
    X, scores, random = data(kind, dtype, n_classes)
    y = scores.argmax(1)
    return BPClassifier(**parameters), X, y, random


def regressor(kind="dense", dtype="float64", n_outputs=1, counts=False, **parameters):
    X, scores, random = data(kind, dtype, n_outputs)
    y = np.abs(np.round(scores)) if counts else scores / 8.0
    y = y[:, :n_outputs]
    return BPRegressor(**parameters), X, y[:, 0] if n_outputs == 1 else y, random


F32 = {"dtype": "float32"}
DEEP = ("tanh", "relu", "logistic")
CONFIGURATIONS = {
    "adam": lambda: classifier(),
    "adam, float32": lambda: classifier(**F32),
    "sgd, nesterov": lambda: classifier(solver="sgd", learning_rate_init=0.05),
    "sgd, plain, float32": lambda: classifier(
        **F32, solver="sgd", momentum=0.0, learning_rate="invscaling"
    ),
    "sgd, adaptive": lambda: classifier(
        solver="sgd", learning_rate="adaptive", nesterovs_momentum=False, max_iter=40
    ),
    "two classes": lambda: classifier(n_classes=2),
    "two classes, float32, logistic": lambda: classifier(
        **F32, n_classes=2, activation="logistic"
    ),
    "deep": lambda: classifier(activation=DEEP, hidden_layer_sizes=(33, 17, 9)),
    "deep, float32": lambda: classifier(
        **F32, activation=DEEP, hidden_layer_sizes=(33, 17, 9), alpha=0.1
    ),
    "wide, float32": lambda: classifier(**F32, hidden_layer_sizes=(300,), max_iter=5),
    "csr": lambda: classifier("csr"),
    "csr, float32, tanh": lambda: classifier("csr", **F32, activation="tanh"),
    "early stopping": lambda: classifier(early_stopping=True, max_iter=60),
    "early stopping, csr, float32": lambda: regressor(
        "csr", **F32, early_stopping=True
    ),
    "batch 1": lambda: classifier(batch_size=1, max_iter=3),
    "batch 1, float32, sgd": lambda: regressor(
        **F32, batch_size=1, solver="sgd", learning_rate_init=0.001, max_iter=3
    ),
    "one batch": lambda: regressor(batch_size=N_ROWS),
    "two threads": lambda: classifier(n_jobs=2, hidden_layer_sizes=(200,), max_iter=8),
    "two threads, deep, float32": lambda: classifier(
        **F32, n_jobs=2, hidden_layer_sizes=(80, 70), max_iter=8
    ),
    "regression": lambda: regressor(),
    "regression, four outputs": lambda: regressor(n_outputs=4, activation="tanh"),
    "regression, poisson": lambda: regressor(counts=True, loss="poisson"),
    "regression, poisson, float32": lambda: regressor(
        **F32, counts=True, loss="poisson", activation="logistic"
    ),
}
LBFGS = {
    "lbfgs": lambda: classifier(solver="lbfgs", max_iter=10),
    "lbfgs, float32": lambda: regressor(**F32, solver="lbfgs", max_iter=10),
}


def drawn(n):
    """n configurations of all kinds of fits, by a fixed seed."""
    random = np.random.RandomState(20261128)

    def one_of(*choices):
        return choices[random.randint(len(choices))]

    found = {}
    for number in range(n):
        depth = one_of(0, 1, 1, 1, 2, 3)
        parameters = {
            "solver": one_of("adam", "adam", "sgd", "sgd", "lbfgs"),
            "hidden_layer_sizes": tuple(random.randint(1, 70, depth).tolist()),
            "activation": [
                one_of("identity", "logistic", "tanh", "relu") for _ in range(depth)
            ],
            "batch_size": one_of(1, 7, 64, 200, 397, "auto"),
            "learning_rate": one_of("constant", "invscaling", "adaptive"),
            "learning_rate_init": one_of(0.001, 0.01),
            "momentum": one_of(0.0, 0.5, 0.9),
            "nesterovs_momentum": one_of(True, False),
            "alpha": one_of(0.0, 1e-4, 0.1),
            "shuffle": one_of(True, True, False),
            "early_stopping": one_of(False, False, True),
            "n_iter_no_change": one_of(2, 10),
            "n_jobs": one_of(1, 1, 2, 3, 4),
            "max_iter": one_of(1, 3, 6),
            "random_state": int(random.randint(1000)),
        }
        parameters["warm_start"] = one_of(False, False, True)
        data = {"kind": one_of("dense", "dense", "csr"), "dtype": one_of("f4", "f8")}
        if one_of(True, False):
            make, loss = classifier, one_of("log_loss", "squared_error")
            data["n_classes"] = one_of(2, 3, 10)
        else:
            make, loss = regressor, one_of("squared_error", "poisson")
            data |= {"n_outputs": one_of(1, 1, 3), "counts": loss == "poisson"}
        how = one_of("fit", "fit", "fit", "partial_fit")
        if parameters["solver"] == "lbfgs":
            how = "fit"
        weighted = one_of(True, False)
        name = f"{number} {how} {make.__name__} {weighted=} {data} {loss} {parameters}"
        found[name] = (how, weighted, partial(make, loss=loss, **data, **parameters))
    return found


def run_drawn(how, weighted, make):
    """Hash of one of them; its error, if it raises one, is hashed as well."""
    model, X, y, random = make()
    weight = random.randint(0, 9, len(y)) / 4.0 if weighted else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if how == "partial_fit":
                is_classifier = isinstance(model, BPClassifier)
                given = {"classes": np.unique(y)} if is_classifier else {}
                for _ in range(3):
                    model.partial_fit(X, y, sample_weight=weight, **given)
            else:
                model.fit(X, y, sample_weight=weight)
                if model.warm_start:
                    model.fit(X, y, sample_weight=weight)
    except ValueError as error:
        return hashlib.sha256(str(error).encode()).hexdigest()
    return hash_of(model, X)


def hash_of(model, X):
    """Of all that a fit has made: weights, curves, records, predictions."""
    output = getattr(model, "predict_proba", model.predict)(X)
    flow = getattr(model, "gradient_flow_", None)
    records = [flow.gradient, flow.delta, flow.update] if flow is not None else []
    sha = hashlib.sha256()
    sha.update(repr((model.n_iter_, model.t_, model.validation_scores_)).encode())
    for array in [
        *model.coefs_,
        *model.intercepts_,
        model.loss_curve_,
        output,
        *records,
    ]:
        array = np.ascontiguousarray(array)
        sha.update(f"{array.dtype.str} {array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def fingerprint(make):
    """Hash of the weights, the loss curve and the predictions of one configuration."""
    model, X, y, _ = make()
    defaults = {"hidden_layer_sizes": (50,), "max_iter": 15, "random_state": 3}
    given = model.get_params()
    fresh = type(model)().get_params()
    model.set_params(**{k: v for k, v in defaults.items() if given[k] == fresh[k]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # most do not converge, nor are they to
        model.fit(X, y)
    predict = getattr(model, "predict_proba", model.predict)
    output = predict(X)
    sha = hashlib.sha256()
    for array in [*model.coefs_, *model.intercepts_, model.loss_curve_, output]:
        array = np.ascontiguousarray(array)
        sha.update(f"{array.dtype.str} {array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def main(verbose, n_drawn):
    print(f"# {platform.system()} {platform.machine()}, {_kernels.isa()} kernels")
    groups = {
        "all": {name: partial(fingerprint, f) for name, f in CONFIGURATIONS.items()},
        "lbfgs": {name: partial(fingerprint, f) for name, f in LBFGS.items()},
    }
    if n_drawn:
        chosen = drawn(n_drawn)
        groups = {"drawn": {name: partial(run_drawn, *f) for name, f in chosen.items()}}
    for title, configurations in groups.items():
        total = hashlib.sha256()
        for name, run in configurations.items():
            found = run()
            total.update(found.encode())
            if verbose:
                print(f"{found[:16]}  {name}", flush=True)
        print(f"{total.hexdigest()}  {title}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-v", action="store_true", help="a line for each configuration")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="draw N")
    given = parser.parse_args()
    main(given.v, given.random)
