"""One hash over what training and prediction come to, to compare builds and machines.

    python tools/bits.py            one line for all
    python tools/bits.py -v         and one for each configuration

Equal lines mean equal bits: every compiler, operating system, kind of CPU (CBP_ISA) and
number of threads must print the same. Data are fractions of random integers, so that
neither libm nor BLAS has a say in them. L-BFGS, whose steps are SciPy's, by a BLAS of
its own, has a second hash, which may differ from machine to machine. Needs NumPy, SciPy
and an installed cbp; run it from outside the source tree.
"""

import hashlib
import platform
import sys
import warnings

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
    output = getattr(model, "predict_proba", model.predict)(X)
    sha = hashlib.sha256()
    for array in [*model.coefs_, *model.intercepts_, model.loss_curve_, output]:
        array = np.ascontiguousarray(array)
        sha.update(f"{array.dtype.str} {array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def main(verbose):
    print(f"# {platform.system()} {platform.machine()}, {_kernels.isa()} kernels")
    for title, configurations in ("all", CONFIGURATIONS), ("lbfgs", LBFGS):
        total = hashlib.sha256()
        for name, make in configurations.items():
            found = fingerprint(make)
            total.update(found.encode())
            if verbose:
                print(f"{found[:16]}  {name}", flush=True)
        print(f"{total.hexdigest()}  {title}", flush=True)


if __name__ == "__main__":
    main("-v" in sys.argv[1:])
