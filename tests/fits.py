"""Small fits and records that the tests of several rooms begin with.

The fixtures `moons` and `deep` in conftest.py are made of these.
"""

import ast
import pickle
import warnings
from dataclasses import replace

import numpy as np

from cbp._paste import imports
from cbp.gradient_flow import GradientFlow

RECORDS = ("gradient", "delta", "back", "weight", "update")
RECORDS += ("saturated", "stuck", "floored", "nonfinite")


def fitted(model, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(X, y)


def some_flow(**changes):
    """Two records of a network 3-4-5-2."""
    rng = np.random.RandomState(0)
    arrays = {name: rng.uniform(0.1, 1, (2, 3)).astype("f4") for name in RECORDS}
    arrays["back"][:, -1] = 0
    return GradientFlow(
        **{
            "epoch": np.array([0, 7]),
            **arrays,
            "layer_sizes": (3, 4, 5, 2),
            "activations": ("relu", "tanh"),
            **changes,
        }
    )


def with_records(model, **records):
    """The model with other numbers in its records."""
    model = pickle.loads(pickle.dumps(model))
    model.gradient_flow_ = replace(model.gradient_flow_, **records)
    return model


def is_call(advice):
    """Whether advice is an expression; else it is parameters and their values."""
    try:
        ast.parse(advice, mode="eval")
    except SyntaxError:
        return False
    return True


def take(advice, model, **data):
    """Does to the model what the advice says; data: X, y, and w if there are weights.

    Returns what is to be fitted now, or has been fitted by the advice itself.
    """
    if not is_call(advice):
        return model.set_params(**eval(f"dict({advice})"))
    names = {"model": model} | data
    for line in imports(advice):  # what a finding says that it needs
        exec(line, names)
    return eval(advice, names)
