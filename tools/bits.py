"""Prints hashes of what cbp computes: the same numbers on every platform and tier.

    python tools/bits.py          one line per configuration, then one of all

Training and prediction on data from a generator of its own, in all activations, losses,
solvers and schedules. It prints nothing of the platform.
"""

import hashlib
import warnings

import numpy as np

from cbp import BPClassifier, BPRegressor

CONFIGURATIONS = {
    "sgd": (BPClassifier, {"solver": "sgd", "momentum": 0.9}),
    "sgd tanh plain": (BPClassifier, {"solver": "sgd", "activation": "tanh"}),
    "sgd invscaling": (
        BPClassifier,
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
    ),
    "sgd adaptive": (BPClassifier, {"solver": "sgd", "learning_rate": "adaptive"}),
    "one row at a time": (BPClassifier, {"solver": "sgd", "batch_size": 1}),
    "adam": (BPClassifier, {"hidden_layer_sizes": (64, 32)}),
    "adam logistic": (BPClassifier, {"activation": "logistic"}),
    "adam, early stopping": (BPClassifier, {"early_stopping": True}),
    "adam, two threads": (BPClassifier, {"n_jobs": 2, "batch_size": 128}),
    "regression": (BPRegressor, {"activation": "tanh"}),
}


def data(rows, columns, dtype):
    """Rows of small integers over 64, exact in both dtypes, and their targets."""
    i = np.arange(rows * columns, dtype=np.uint64).reshape(rows, columns)
    X = ((i * i * 2654435761 + i * 40503) >> np.uint64(7)) % np.uint64(129)
    X = (X.astype(np.int64) - 64).astype(dtype) / 64
    return X, (X[:, :3] * [1, 2, -1]).sum(axis=1)


def fitted(kind, options, dtype):
    X, target = data(600, 29, dtype)
    y = np.digitize(target, [-0.7, 0.7]) if kind is BPClassifier else target
    model = kind(**{"max_iter": 12, "random_state": 0, **options})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)
    yield from model.coefs_
    yield from model.intercepts_
    yield np.array(model.loss_curve_)
    yield model.predict_proba(X) if kind is BPClassifier else model.predict(X)


def main():
    total = hashlib.sha256()
    for dtype in (np.float32, np.float64):
        for name, (kind, options) in CONFIGURATIONS.items():
            one = hashlib.sha256()
            for array in fitted(kind, options, dtype):
                one.update(np.ascontiguousarray(array).tobytes())
            total.update(one.digest())
            print(f"{one.hexdigest()[:16]}  {name}, {dtype.__name__}", flush=True)
    print(f"{total.hexdigest()[:16]}  all")


if __name__ == "__main__":
    main()
