"""Other common work, compared with scikit-learn: grid search, L-BFGS, sparse X.

    python benchmarks/search.py              half an hour, mostly for scikit-learn
    python benchmarks/search.py --quick      under half a minute: small grids and data
    python benchmarks/search.py --only lbfgs,sparse

- search: GridSearchCV over 4 activations x 3 sizes x 2 penalties, 5 folds, on digits.
  Everything else has scikit-learn's defaults. The batch size is the default or 32. cbp
  runs in float64 and with precision="float32".
- threads: the same search with joblib's threading backend, n_jobs=2 against n_jobs=1.
  Fits run without the GIL, so cbp needs no second process.
- lbfgs: L-BFGS on digits, 64-100-10, until it stops itself (or 200 iterations).
- sparse: one epoch on CSR data, 20,000 x 50,000, 0.2 % filled, 100 hidden units.

The tables show a result next to each time: the best mean score of a search, or the
training loss and accuracy of a fit. Runs of one block alternate in one process. Times
are medians of at least five runs.
Writes the section "Grid search, L-BFGS, sparse data" of results.md.
"""

import warnings
from functools import partial
from statistics import median

import joblib
import measure
import numpy as np
from report import Report, parser, times
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier

from cbp import BPClassifier, _kernels

GRID = {
    "activation": ["identity", "logistic", "tanh", "relu"],
    "hidden_layer_sizes": [(50,), (100,), (100, 50)],
    "alpha": [1e-4, 1e-2],
}
QUICK_GRID = {"activation": ["tanh", "relu"], "hidden_layer_sizes": [(50,)]}


def digits(dtype="float64"):
    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(dtype), y


def run_search(estimator, args, n_jobs=1):
    """Run one grid search; return its best mean score."""
    grid, folds = (QUICK_GRID, 3) if args.quick else (GRID, 5)
    with joblib.parallel_config(backend="threading"):
        search = GridSearchCV(estimator, grid, cv=folds, n_jobs=n_jobs)
        search.fit(*digits())
    return f"score {search.best_score_:.4f}"


def run_fit(estimator, X, y):
    """Run one fit; return its training loss, accuracy and iterations."""
    estimator.fit(X, y)
    accuracy, n = estimator.score(X, y), estimator.n_iter_
    return f"loss {estimator.loss_:.4g}, accuracy {accuracy:.4f}, {n} iterations"


def compare_search(args, report):
    for batch_size in ("auto", 32):
        options = {"batch_size": batch_size, "random_state": 0}
        if args.quick:
            options["max_iter"] = 20
        estimators = {
            "MLPClassifier": MLPClassifier(**options),
            "cbp, float64": BPClassifier(**options),
            'cbp, precision="float32"': BPClassifier(precision="float32", **options),
        }
        actions = {
            name: partial(run_search, estimator, args)
            for name, estimator in estimators.items()
        }
        compare(f"grid search, batch_size={batch_size}", actions, args, report)


def compare_threads(args, report):
    if len(measure.CORES or [0]) < 2:
        report.row(["threading backend", "left out: one usable core", "", "", ""])
        return
    measure.pin(2)
    estimator = BPClassifier(random_state=0, max_iter=20 if args.quick else 200)
    actions = {
        f"cbp, n_jobs={n}": partial(run_search, estimator, args, n) for n in (1, 2)
    }
    compare("grid search, two cores, threading backend", actions, args, report)
    measure.pin(1)


def compare_lbfgs(args, report):
    for dtype in ("float64", "float32"):
        title = f"L-BFGS, digits, 64-100-10, {dtype}"
        options = {"solver": "lbfgs", "random_state": 0}
        compare_fits(title, digits(dtype), options, args, report)


def compare_sparse(args, report):
    rows, columns = (2_000, 5_000) if args.quick else (20_000, 50_000)
    for dtype in ("float64", "float32"):
        X = sparse.random_array(
            (rows, columns),
            density=0.002,
            format="csr",
            dtype=dtype,
            rng=np.random.default_rng(0),
        )
        y = X[:, : columns // 2].sum(axis=1) > X[:, columns // 2 :].sum(axis=1)
        title = f"CSR {rows:,} x {columns:,}, 0.2 %, 100 hidden, one epoch, {dtype}"
        options = {"random_state": 0, "max_iter": 1}
        compare_fits(title, (X, y.astype(int)), options, args, report)


def compare_fits(title, data, options, args, report):
    actions = {
        "MLPClassifier": partial(run_fit, MLPClassifier(**options), *data),
        "cbp": partial(run_fit, BPClassifier(**options), *data),
    }
    compare(title, actions, args, report)


def compare(title, actions, args, report):
    """Alternate runs; one row per program, with ratios against the first."""
    results = {}

    def run(name, action):
        results[name] = action()

    seconds = measure.alternate(
        {name: partial(run, name, action) for name, action in actions.items()},
        args.rounds,
    )
    first = seconds[next(iter(actions))]
    for name, taken in seconds.items():
        ratio = times(measure.ratio(first, taken))
        report.row([title, name, f"{median(taken):.3g} s", ratio, results[name]])


SECTIONS = {
    "search": compare_search,
    "threads": compare_threads,
    "lbfgs": compare_lbfgs,
    "sparse": compare_sparse,
}


def main():
    made = parser(__doc__)
    made.add_argument("--only", help=f"of {','.join(SECTIONS)} (default: all)")
    made.add_argument("--rounds", type=int, default=5)
    args = made.parse_args()
    chosen = args.only.split(",") if args.only else list(SECTIONS)
    if unknown := set(chosen) - set(SECTIONS):
        made.error(f"{sorted(unknown)}: known are {list(SECTIONS)}")
    warnings.simplefilter("ignore", ConvergenceWarning)
    how = f"one thread, {measure.pin_single()}; medians of {args.rounds} rounds"
    report = Report(
        "Grid search, L-BFGS, sparse data",
        args,
        measure.conditions(_kernels.isa(), how, *measure.blas_kernels()),
    )
    report.head(["what", "program", "time", "times as fast", "result"])
    for name in chosen:
        SECTIONS[name](args, report)
    report.line("\nTimes as fast: against the first program of the block.")
    report.write()


if __name__ == "__main__":
    main()
