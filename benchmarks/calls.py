"""What a call costs besides training: short fits, and partial_fit on few rows.

    python benchmarks/calls.py             a minute
    python benchmarks/calls.py --quick     ten seconds

Training is so short here that checks, copies and attributes decide. Calls are made ten
in a row, as a stream of data makes them; programs alternate in one process, on one
core. Each number is the least of all rounds, since whatever else the machine does only
adds to it. A fit of one epoch is set against scikit-learn's own look at the same data,
`validate_data` and `type_of_target` once each; partial_fit against scikit-learn's, both
with arrays that need no conversion.
"""

import math
import time
import warnings
from functools import partial

import measure
import numpy as np
from report import Report, parser, times
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import validate_data

from cbp import BPClassifier, BPRegressor, _kernels

# What a fit of one epoch may take beyond scikit-learn's look at the data, in seconds.
PROMISED = 0.001
IN_A_ROW = 10
# (rows, how many times scikit-learn's speed partial_fit is to have).
AIMS = {1: 15, 200: 5}


def least(actions, rounds):
    """The least seconds that each call took, called in turn, some times in a row."""
    found = dict.fromkeys(actions, math.inf)
    for _ in range(rounds):
        for name, action in actions.items():
            start = time.perf_counter()
            for _ in range(IN_A_ROW):
                action()
            seconds = (time.perf_counter() - start) / IN_A_ROW
            found[name] = min(found[name], seconds)
    return found


def data(n_rows, n_columns, n_classes):
    """X, labels and numbers; every label occurs."""
    rng = np.random.RandomState(0)
    X = rng.normal(size=(n_rows, n_columns))
    y = np.arange(n_rows) % n_classes
    return X, y, rng.normal(size=(n_rows, n_classes))


def fit_once(X, y):
    BPClassifier(max_iter=1, random_state=0).fit(X, y)


def look(X, y):
    """scikit-learn's checks of the data, as its own estimators call them."""
    validate_data(BPClassifier(), X, y, multi_output=True, dtype=[np.float64])
    type_of_target(y)


def partial_fits(n_rows):
    """partial_fit of both libraries' estimators, 64-100-10."""
    X, y, numbers = data(200, 64, 10)
    options = {"hidden_layer_sizes": (100,), "max_iter": 1, "random_state": 0}
    pairs = {
        "classifier": (BPClassifier, MLPClassifier, y),
        "regressor": (BPRegressor, MLPRegressor, numbers),
    }
    actions = {}
    for name, (ours, theirs, target) in pairs.items():
        for program, estimator in (("cbp", ours), ("scikit-learn", theirs)):
            model = estimator(**options).fit(X, target)
            call = partial(model.partial_fit, X[:n_rows], target[:n_rows])
            actions[name, program] = call
    return actions


def micro(seconds):
    return f"{1e6 * seconds:.0f} µs"


def main():
    args = parser(__doc__).parse_args()
    rounds = 40 if args.quick else 300
    how = f"one thread, {measure.pin_single()}, float64; least of {rounds} rounds"
    report = Report("What a call costs", args, measure.conditions(_kernels.isa(), how))
    warnings.simplefilter("ignore")

    X, y, _ = data(100, 20, 10)
    seconds = least(
        {"fit": partial(fit_once, X, y), "look": partial(look, X, y)}, rounds
    )
    beyond = seconds["fit"] - seconds["look"]
    report.head(["100 x 20, 10 classes", "time"])
    report.row(["fit, max_iter=1", micro(seconds["fit"])])
    report.row(["scikit-learn's look at the data", micro(seconds["look"])])
    kept = "kept" if beyond <= PROMISED else "not kept"
    report.line(
        f"\nBeyond that look {micro(beyond)}; promised: at most {micro(PROMISED)}, "
        f"{kept}."
    )

    report.head(["partial_fit, 64-100-10", "rows", "cbp", "scikit-learn", "aim"])
    for n_rows, aim in AIMS.items():
        seconds = least(partial_fits(n_rows), rounds)
        for name in ("classifier", "regressor"):
            ours, theirs = seconds[name, "cbp"], seconds[name, "scikit-learn"]
            ratio = f"{micro(theirs)} / **{times(theirs / ours)}**"
            report.row([name, str(n_rows), micro(ours), ratio, times(aim)])
    report.write()


if __name__ == "__main__":
    main()
