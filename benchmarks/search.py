"""The work people do round a fit, beside scikit-learn: grid search, L-BFGS, sparse X.

    python benchmarks/search.py [--quick] [--only search,threads,lbfgs,sparse]

Grid search: 4 activations x 3 sizes x 2 penalties, 5 folds, on digits, everything else
at scikit-learn's defaults, with the default batch size and with 32; the best score
stands beside each time. Every line is one process, runs alternate; medians of ratios.
The full form takes about an hour, nearly all of it scikit-learn's.
"""

import argparse
import os
import warnings
from functools import partial
from statistics import median

import joblib
import measure
import numpy as np
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


def run_search(estimator, quick, n_jobs, results, name):
    """One grid search; its best mean score goes into results[name]."""
    grid, folds = (QUICK_GRID, 3) if quick else (GRID, 5)
    search = GridSearchCV(estimator, grid, cv=folds, n_jobs=n_jobs)
    search.fit(*digits())
    results[name] = search.best_score_


def run_fit(estimator, X, y, results, name):
    """One fit; its training loss goes into results[name]."""
    results[name] = estimator.fit(X, y).loss_


def compare_search(args):
    for batch_size in ("auto", 32):
        options = {"batch_size": batch_size, "random_state": 0}
        if args.quick:
            options["max_iter"] = 20
        estimators = {
            "MLPClassifier": MLPClassifier(**options),
            "cbp, float64": BPClassifier(**options),
            "cbp, precision='float32'": BPClassifier(precision="float32", **options),
        }
        results = {}
        actions = {
            name: partial(run_search, estimator, args.quick, 1, results, name)
            for name, estimator in estimators.items()
        }
        report(f"grid search, batch_size={batch_size}", "score", actions, results, args)


def compare_threads(args):
    """n_jobs=2 with the threading backend: fits run without the GIL."""
    if (os.cpu_count() or 1) < 2:
        return
    measure.pin(2)
    options = {"random_state": 0, "max_iter": 20 if args.quick else 200}
    results = {}

    def run(n_jobs, name):
        with joblib.parallel_config(backend="threading"):
            run_search(BPClassifier(**options), args.quick, n_jobs, results, name)

    actions = {f"cbp, n_jobs={n}": partial(run, n, f"cbp, n_jobs={n}") for n in (1, 2)}
    report("grid search, threading backend", "score", actions, results, args)
    measure.pin(1)


def compare_lbfgs(args):
    for dtype in ("float64", "float32"):
        options = {"solver": "lbfgs", "random_state": 0, "max_iter": 50}
        fit_both(
            f"L-BFGS, 50 iterations, 64-100-10, {dtype}", digits(dtype), options, args
        )


def compare_sparse(args):
    rows, columns = (2_000, 5_000) if args.quick else (20_000, 50_000)
    rng = np.random.default_rng(0)
    for dtype in ("float64", "float32"):
        X = sparse.random_array(
            (rows, columns), density=0.002, format="csr", dtype=dtype, rng=rng
        )
        y = X[:, : columns // 2].sum(axis=1) > X[:, columns // 2 :].sum(axis=1)
        options = {"random_state": 0, "max_iter": 1}
        title = f"CSR {rows} x {columns}, 0.2 %, 100 hidden, one epoch, {dtype}"
        fit_both(title, (X, y.astype(int)), options, args)


def fit_both(title, data, options, args):
    results = {}
    actions = {
        "MLPClassifier": partial(
            run_fit, MLPClassifier(**options), *data, results, "MLPClassifier"
        ),
        "cbp": partial(run_fit, BPClassifier(**options), *data, results, "cbp"),
    }
    report(title, "loss", actions, results, args)


def report(title, what, actions, results, args):
    """Run in alternation; one line per program, ratios against the first."""
    seconds = measure.alternate(actions, args.rounds)
    first = seconds[next(iter(actions))]
    for name, taken in seconds.items():
        print(
            f"| {title} | {name} | {median(taken):.3g} s | {what} {results[name]:.4g} "
            f"| {measure.ratio(first, taken):.3g}× |",
            flush=True,
        )


SECTIONS = {
    "search": compare_search,
    "threads": compare_threads,
    "lbfgs": compare_lbfgs,
    "sparse": compare_sparse,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small grids and data")
    parser.add_argument("--only", help=f"of {','.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    pinned = measure.pin_single()
    warnings.simplefilter("ignore", ConvergenceWarning)
    for line in measure.conditions(_kernels.isa()):
        print(line)
    print(f"{pinned}; {'; '.join(measure.blas_kernels())}; {args.rounds} rounds\n")
    print("| what | program | time | result | times as fast |")
    print("|---|---|---|---|---|")
    for name in args.only.split(",") if args.only else SECTIONS:
        SECTIONS[name](args)


if __name__ == "__main__":
    main()
