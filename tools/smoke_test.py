"""Checks an installed cbp in a few seconds; run it from outside the source tree."""

import importlib.metadata
import sysconfig
from pathlib import Path

import sklearn
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import cbp
from cbp import BPClassifier, BPRegressor, _kernels


def main():
    where = Path(cbp.__file__).resolve()
    assert where.is_relative_to(Path(sysconfig.get_path("platlib")).resolve()), where
    assert cbp.__version__ == importlib.metadata.version("cbp-learn")
    assert (where.parent / "py.typed").exists()

    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
    classifier = BPClassifier(activation=("tanh", "relu"), hidden_layer_sizes=(64, 32))
    accuracy = classifier.fit(X_train, y_train).score(X_test, y_test)
    assert accuracy > 0.95, accuracy
    assert classifier.predict_proba(X_test).shape == (len(X_test), 10)

    X, y = load_diabetes(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    regressor = BPRegressor(
        hidden_layer_sizes=(8,), solver="lbfgs", alpha=100.0, max_iter=500
    )
    r2 = regressor.fit(X, y).score(X, y)
    assert r2 > 0.5, r2

    print(
        f"cbp {cbp.__version__} with scikit-learn {sklearn.__version__}, "
        f"{_kernels.isa()} kernels: digits {accuracy:.3f}, diabetes R2 {r2:.2f}"
    )


if __name__ == "__main__":
    main()
