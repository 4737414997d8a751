"""How far will diabetes progress in a year? Regression on a small, noisy data set.

    python examples/regression_diabetes.py

The data has 442 patients with ten measurements each. The program uses cross-validation
to compare three things: guessing the mean, a linear model, and networks with two costs
(squared error, and half the Poisson deviance, which suits a positive target). Then it
shows predictions next to the true values.
"""

import time

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import (
    RepeatedKFold,
    cross_validate,
    train_test_split,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cbp import BPRegressor


def network(loss, solver, alpha):
    """A small network on standardised inputs; alpha is the L2 penalty."""
    return make_pipeline(
        StandardScaler(),
        BPRegressor(
            loss=loss,
            hidden_layer_sizes=(16,),
            activation="tanh",
            solver=solver,
            alpha=alpha,
            max_iter=1000,
            random_state=0,
        ),
    )


def standardised(model):
    """The model, trained on a target of mean 0 and variance 1."""
    return TransformedTargetRegressor(model, transformer=StandardScaler())


MODELS = {
    "the mean, always": DummyRegressor(),
    "linear (RidgeCV)": make_pipeline(
        StandardScaler(), RidgeCV(np.logspace(-2, 3, 20))
    ),
    "network, squared error, adam": standardised(network("squared_error", "adam", 3)),
    "network, squared error, lbfgs": standardised(
        network("squared_error", "lbfgs", 10)
    ),
    # A larger alpha, because this cost has the unscaled target, in hundreds.
    "network, poisson, lbfgs": network("poisson", "lbfgs", 1000),
}


def main():
    X, y = load_diabetes(return_X_y=True, scaled=False)
    folds = RepeatedKFold(n_splits=5, n_repeats=4, random_state=0)
    print(f"{len(X)} patients, target {y.min():.0f} to {y.max():.0f}, 20 folds\n")
    print(f"{'model':32}{'R2':>6}{'mean error':>14}{'seconds':>10}")
    best, best_error = None, np.inf
    for label, model in MODELS.items():
        start = time.perf_counter()
        scores = cross_validate(
            model, X, y, cv=folds, scoring=("r2", "neg_mean_absolute_error")
        )
        r2 = scores["test_r2"].mean()
        error = -scores["test_neg_mean_absolute_error"].mean()
        seconds = time.perf_counter() - start
        print(f"{label:32}{r2:6.3f}{error:14.1f}{seconds:10.2f}", flush=True)
        if error < best_error:
            best, best_error = label, error

    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    predicted = MODELS[best].fit(X_train, y_train).predict(X_test)
    print(f"\nTwelve patients that '{best}' never saw: o predicted, x true value\n")
    for i in np.argsort(y_test)[:: len(y_test) // 11]:
        line = [" "] * 61
        line[int(predicted[i] / 6)] = "o"
        line[int(y_test[i] / 6)] = "x"
        print(f"{y_test[i]:5.0f} |{''.join(line)}|")
    print(f"      0{'360':>61}")


if __name__ == "__main__":
    main()
