"""The seven workloads of all tables, and their data. This file times nothing.

Hidden layers are relu unless the name says otherwise. Outputs are softmax with log loss
(two classes: one logistic output, as in scikit-learn). The solver is Adam with
scikit-learn's defaults. Real data come with scikit-learn or with Debian's package
dataset-fashion-mnist. If that is not installed, Gaussian clusters of the same shape
replace them, and `source` says that they are made up.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.preprocessing import StandardScaler

FASHION = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Workload:
    """One network on one data set.

    Attributes
    ----------
    layers : tuple of int
        Inputs, hidden units per layer, classes.
    rows : int
        Chosen for a short epoch: under a second for the slowest peer.
    epochs : int
        The loss of all programs is compared after this many epochs.
    """

    name: str
    layers: tuple[int, ...]
    batch_size: int
    rows: int
    data: str
    epochs: int
    activation: str = "relu"

    @property
    def hidden(self):
        return self.layers[1:-1]

    @property
    def n_outputs(self):
        return 1 if self.layers[-1] == 2 else self.layers[-1]

    @property
    def flops(self):
        """FLOP per sample of the products only: forward, dW, delta except the first."""
        sizes = (*self.layers[:-1], self.n_outputs)
        products = [a * b for a, b in zip(sizes, sizes[1:], strict=False)]
        return 6 * sum(products) - 2 * products[0]

    @property
    def title(self):
        hidden = "-".join(map(str, self.hidden))
        if len(set(self.hidden)) == 1 and len(self.hidden) > 2:
            hidden = f"{self.hidden[0]}×{len(self.hidden)}"
        name = f"{self.name} {self.layers[0]}-{hidden}-{self.layers[-1]}"
        kind = "" if self.activation == "relu" else f" {self.activation}"
        return f"{name}{kind}, batch {self.batch_size}"

    def load(self, dtype):
        """X (rows, features) of dtype and y (rows,), the class numbers."""
        X, y = _LOADERS[self.data](self)
        return np.ascontiguousarray(X[: self.rows], dtype), y[: self.rows]

    @property
    def source(self):
        if self.data == "fashion" and not FASHION.is_dir():
            return "made up"
        return {
            "breast_cancer": "breast cancer",
            "digits": "digits",
            "fashion": "Fashion-MNIST",
            "clusters": "made up",
        }[self.data]


WORKLOADS = {
    w.name: w
    for w in [
        Workload("W1", (30, 16, 2), 1, 569, "breast_cancer", 5),
        Workload("W2", (64, 32, 10), 32, 1797, "digits", 20),
        Workload("W3", (64, 100, 10), 200, 1797, "digits", 50),
        Workload("W4", (784, 100, 10), 200, 10_000, "fashion", 5),
        Workload("W5", (784, *[64] * 8, 10), 64, 5_000, "fashion", 5, "logistic"),
        Workload("W6", (784, 1024, 1024, 10), 256, 2_560, "fashion", 3),
        Workload("W7", (54, 256, 256, 7), 256, 10_000, "clusters", 5),
    ]
}


def clusters(n_rows, n_features, n_classes, seed=0):
    """Overlapping Gaussian clusters: made-up data that a network can partly learn."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n_rows)
    centres = rng.normal(size=(n_classes, n_features)) * (2 / n_features**0.5)
    X = rng.standard_normal((n_rows, n_features), dtype="float32")
    X += centres.astype("float32")[y]
    return X, y


def _breast_cancer(workload):
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def _digits(workload):
    X, y = load_digits(return_X_y=True)
    return X / 16, y


def _fashion(workload):
    if not FASHION.is_dir():
        return _clusters(workload)
    X = _read_idx("train-images-idx3-ubyte.gz", header=16).reshape(-1, 784)
    y = _read_idx("train-labels-idx1-ubyte.gz", header=8)
    return X[: workload.rows] / 255.0, y.astype(np.int64)


def _read_idx(name, header):
    with gzip.open(FASHION / name) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def _clusters(workload):
    return clusters(workload.rows, workload.layers[0], workload.layers[-1])


_LOADERS = {
    "breast_cancer": _breast_cancer,
    "digits": _digits,
    "fashion": _fashion,
    "clusters": _clusters,
}
