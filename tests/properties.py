"""Random configurations: a fit comes to what the reference and scikit-learn say.

    python tests/properties.py --number 10000 --seed 0

Hypothesis draws parameters and kinds of data, and makes an example that fails as small
as it can. Every example is compared with the NumPy reference, with scikit-learn if that
has the configuration, and by some of INVARIANTS. tests/test_properties.py runs a few
hundred.

Rounding differs between two right answers. How much it may: the reference is run once
more with noise of a few units in the last place in all that goes into each gradient.
What the noise moves, times FACTOR, is allowed. If it moves much, nothing can be said.
"""

import argparse
import collections
import copy
import inspect
import pickle
import sys
import tempfile
import time
import warnings
from pathlib import Path

import hypothesis
import numpy as np
import reference
from random_cases import NEWER, cases
from scipy import sparse
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.neural_network import MLPClassifier, MLPRegressor

import cbp
from cbp import BPClassifier, _look
from cbp.estimators import DivergenceError

NOISE = 8  # units in the last place
FACTOR = 30
CHAOS = 1e-2  # of the largest weight: noise that moves more proves nothing

# ---- against the reference


class Noisy(reference.Network):
    """What rounding could do: noise in all that goes into a gradient."""

    def loss_gradient(self, theta, X, target, weight=None, *rest):
        rng, eps = self.rng, self.eps

        def shaken(x):
            return x * (1 + NOISE * eps * rng.standard_normal(x.shape))

        weight = np.ones(len(X)) if weight is None else weight
        return super().loss_gradient(
            shaken(theta), shaken(X), target, shaken(weight), *rest
        )


def networks(case):
    noisy = case.network(Noisy)
    noisy.rng = np.random.RandomState(case.data["seed"])
    noisy.eps = np.finfo(case.dtype).eps / 2
    return case.network(), noisy


def assert_close(case, what, ours, clean, noisy, least=0.0):
    """Up to what rounding may do; least: the size of what they are differences of."""
    ours, clean, noisy = (np.asarray(x, float) for x in (ours, clean, noisy))
    assert ours.shape == clean.shape, (what, ours.shape, clean.shape)
    size = abs(clean).max(initial=least)
    moved = abs(noisy - clean).max(initial=0)
    if not moved <= CHAOS * size:
        seen["chaotic"] += 1
        return
    allowed = FACTOR * moved + 100 * np.finfo(case.dtype).eps * size
    error = abs(ours - clean).max(initial=0)
    assert error <= allowed, f"{what}: {error:.2g}, allowed {allowed:.2g} of {size:.2g}"


def check_gradient(case, model):
    """Cost, and its derivatives by all weights and biases."""
    flow = cbp.backpropagate(model, case.pack(case.X), case.y, case.weight)
    found = np.concatenate([g.ravel() for g in flow.dW + flow.db])
    theta, X = model._theta.astype(float), case.X.astype(float)
    given = (theta, X, case.T, case.full_weight(), case.parameters["alpha"])
    (cost, gradient), (cost_2, gradient_2) = (
        network.loss_gradient(*given) for network in networks(case)
    )
    assert_close(case, "cost", flow.cost, cost, cost_2)
    assert_close(case, "gradient", found, gradient, gradient_2)
    seen["gradients"] += 1


def run_reference(case, network, theta):
    """The fit of the reference from theta on."""
    p, n_rows = case.parameters, len(case.X)
    given = {"alpha": p["alpha"], "tol": p["tol"], "max_iter": p["max_iter"]}
    given["sample_weight"] = case.full_weight()
    X = case.X.astype(float)
    if p["solver"] == "lbfgs":
        return reference.train_lbfgs(network, theta, X, case.T, **given)
    takes = inspect.signature(reference.train).parameters
    given |= {name: value for name, value in p.items() if name in takes}
    rng = np.random.RandomState(p["random_state"])
    draw_weights(p["init"], network.layer_sizes, rng)
    size = 200 if p["batch_size"] == "auto" else p["batch_size"]
    rates = [p["input_dropout"], *(p["dropout"] for _ in p["hidden_layer_sizes"])]
    given |= {
        "batch_size": min(size, n_rows),
        "max_grad_norm": p["max_grad_norm"] or np.inf,
        "dropout": rates if any(rates) else (),
        "random_state": rng,
    }
    if case.held_out:
        given["score"] = lambda theta: score(case, network, theta)
    return reference.train(network, theta, X, case.T, **given)


def draw_weights(init, sizes, rng):
    """The draws of first weights, whose sizes tests/test_init.py looks at."""
    for shape in zip(sizes[:-1], sizes[1:], strict=True):
        if init == "orthogonal":
            rng.standard_normal((max(shape), min(shape)))
            continue
        rng.uniform(size=shape)
        if init == "glorot":
            rng.uniform(size=shape[1])


def score(case, network, theta):
    """Of the validation set."""
    outputs, T = network.predict(theta, case.X_val.astype(float)), case.T_val
    if not case.is_classifier:
        return r2_score(T, outputs)
    if case.targets["kind"] in ("two", "multilabel"):
        right = ((outputs > 0.5) == (T > 0.5)).T
    else:
        right = [outputs[:, p].argmax(1) == T[:, p].argmax(1) for p in network.parts()]
    return np.average(np.all(right, axis=0), weights=case.weight_of_classes(case.y_val))


def check_training(case, model):
    """A whole fit, where the reference has it."""
    lbfgs = case.parameters["solver"] == "lbfgs"
    if case.how != "fit" or case.held_out == "split" or (lbfgs and case.held_out):
        return
    if case.held_out and case.parameters["loss"] == "quantile":  # not scored by R2
        return
    theta = first_theta(case)
    clean, noisy = (run_reference(case, network, theta) for network in networks(case))
    same = len(clean.loss_curve) == len(noisy.loss_curve)
    near = np.allclose(clean.scores, noisy.scores, rtol=0, atol=1e-4) if same else False
    if not (same and near):
        seen["chaotic"] += 1
        return
    assert len(model.loss_curve_) == len(clean.loss_curve)
    assert_close(case, "curve", model.loss_curve_, clean.loss_curve, noisy.loss_curve)
    assert_close(case, "theta", model._theta, clean.theta, noisy.theta)
    if case.held_out:
        assert_close(
            case, "scores", model.validation_scores_, clean.scores, noisy.scores, 1.0
        )
    seen["trainings"] += 1


def check_divergence(case):
    """Where a fit diverges the reference does."""
    seen["diverged"] += 1
    if case.how == "fit" and not case.held_out:
        with np.errstate(all="ignore"):
            run = run_reference(case, case.network(), first_theta(case))
        curve = np.array(run.loss_curve)
        assert not (abs(curve) < 1e6).all() or not (abs(run.theta) < 1e6).all()


def first_theta(case):
    start = case.estimator().initialize(case.pack(case.X), case.y)
    return start._theta.astype(float)


# ---- against scikit-learn


def theirs(case):
    """scikit-learn's estimator of this configuration, or None."""
    p, t = case.parameters, case.targets
    model = (MLPClassifier if case.is_classifier else MLPRegressor)()
    known = model.get_params()
    own = {name for name in p if name not in known} - {"n_jobs", "init"}
    fresh = case.estimator().__class__().get_params()
    name = p["activation"] if isinstance(p["activation"], str) else ""
    has = (
        name in ("identity", "logistic", "tanh", "relu")
        and p["init"] == "glorot"
        and all(p[name] == fresh[name] for name in own - {"loss"})
        and p["loss"] in ("log_loss", "squared_error", *["poisson"] * NEWER)
        and (p["loss"] == "log_loss") == case.is_classifier
        and t["kind"] != "columns"
        and (case.is_classifier or t["n"] == 1)
        and t.get("class_weight") is None
        and (case.weight is None or NEWER)
        and p.get("learning_rate", "constant") in ("constant", "invscaling", "adaptive")
        and case.held_out != "own"
        and not (case.held_out and p["solver"] == "lbfgs")
        # It stratifies splits of two classes only.
        and not (case.held_out and t["kind"] == "classes")
        and case.dtype == np.float64
    )
    if not has:
        return None
    given = {name: value for name, value in p.items() if name in known}
    if case.held_out:
        given |= {"early_stopping": True, "validation_fraction": 0.3}
    return model.set_params(**given)


def check_scikit_learn(case, model):
    """Differences that docs/differences.md names are left out."""
    other = theirs(case)
    if other is None:
        return
    if case.weight is not None and case.parameters["solver"] != "lbfgs":
        # Patience is by the loss of an epoch, which is another mean; a batch without
        # weight is another step.
        whole = case.parameters["batch_size"] in ("auto", 64)
        if not whole or len(case.X) > 64:
            return
    X = case.pack(case.X)
    try:
        case.train(other, X, case.y, case.weight)
    except ValueError:
        return  # of a split that it does not make
    size = max(abs(W).max() for W in other.coefs_)
    allowed = (1e-4 if case.parameters["solver"] == "lbfgs" else 1e-8) * size
    pairs = zip(
        model.coefs_ + model.intercepts_, other.coefs_ + other.intercepts_, strict=True
    )
    error = max(abs(ours - W).max() for ours, W in pairs)
    assert error <= allowed, f"scikit-learn: {error:.2g}, allowed {allowed:.2g}"
    seen["scikit-learn"] += 1


# ---- what must hold of any fit


def state(model):
    """All that has the same bits whenever a fit is the same."""
    return (
        model._theta.tobytes(),
        tuple(model.loss_curve_),
        model.n_iter_,
        model.t_,
        tuple(model.validation_scores_ or ()),
    )


def outputs(model, X):
    """Predictions of all kinds, as bytes."""
    found = [model.predict(X)]
    if isinstance(model, BPClassifier):
        found += [model.decision_function(X), model.predict_log_proba(X)]
        found += [model.predict_proba(X)]
    flat = []
    for array in found:
        flat += array if isinstance(array, list) else [array]
    return [x.toarray() if sparse.issparse(x) else np.asarray(x) for x in flat]


def assert_same(a, b):
    for one, other in zip(a, b, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def copies_predict_the_same(case, model):
    X = case.pack(case.X)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        cbp.save(model, path)
        loaded = cbp.load(path)
    for other in (loaded, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert_same(outputs(other, X), outputs(model, X))


def a_clone_fits_the_same(case, model):
    again = clone(model).set_params(warm_start=False)
    again = case.train(again, case.pack(case.X), case.y, case.weight)
    assert state(again) == state(model)


def threads_change_no_bit(case, model):
    for n_jobs in (1, 2):
        assert state(case.fit(n_jobs=n_jobs)) == state(model)


def a_sparse_X_changes_no_bit(case, model):
    for pack in (np.asarray, sparse.csr_matrix, sparse.csc_array):
        other = copy.copy(case)
        other.pack = pack
        assert state(other.fit()) == state(model)


def shapes_and_types_are_those_of_the_data(case, model):
    sizes = (case.X.shape[1], *case.parameters["hidden_layer_sizes"], case.T.shape[1])
    assert [W.shape for W in model.coefs_] == [*zip(sizes[:-1], sizes[1:], strict=True)]
    assert [b.shape for b in model.intercepts_] == [(n,) for n in sizes[1:]]
    assert {a.dtype for a in model.coefs_ + model.intercepts_} == {np.dtype(case.dtype)}
    for dtype in (np.float32, np.float64):
        X = case.pack(case.X.astype(dtype))
        predicted = model.predict(X)
        if case.is_classifier:
            assert predicted.shape == case.y.shape
            # Strings may be shorter if the longest is that of no class.
            if case.targets["kind"] != "columns":
                assert predicted.dtype.kind == case.y.dtype.kind
            p = model.predict_proba(X)
            for part in p if isinstance(p, list) else [p]:
                assert part.dtype == np.result_type(dtype, case.dtype)
                assert (part > 0).all()
                assert (part <= 1).all()
        else:
            several = isinstance(case.parameters.get("quantile"), tuple)
            n = (len(case.X), 3) if several else case.y.shape
            assert predicted.shape == (n if n[1:] != (1,) else n[:1])
            assert predicted.dtype == np.result_type(dtype, case.dtype)


def other_names_of_classes_change_no_bit(case, model):
    if case.targets["kind"] not in ("classes", "two"):
        return
    classes = model.classes_
    names = np.array([f"class {i}" for i in range(len(classes))])
    other = copy.copy(case)
    other.y, other.y_val = (
        names[np.searchsorted(classes, y)] for y in (case.y, case.y_val)
    )
    renamed = other.fit()
    assert state(renamed) == state(model)
    X = case.pack(case.X)
    found = names[np.searchsorted(classes, model.predict(X))]
    np.testing.assert_array_equal(renamed.predict(X), found)


def chunks_predict_as_all_rows(case, model):
    cut = case.data["seed"] % (len(case.X) - 1) + 1
    parts = [outputs(model, case.pack(X)) for X in (case.X[:cut], case.X[cut:])]
    both = [np.concatenate(pair) for pair in zip(*parts, strict=True)]
    assert_same(both, outputs(model, case.pack(case.X)))


def a_call_that_fails_changes_nothing(case, model):
    X, y = case.X.copy(), case.y
    X[-1, 0] = np.nan
    before, kept = state(model), outputs(model, case.pack(case.X))
    calls = [
        lambda: model.fit(case.pack(X), y),
        lambda: model.fit(case.pack(case.X[:-1]), y),
        lambda: model.fit(case.pack(case.X), y, sample_weight=np.full(len(X), -1.0)),
        lambda: model.predict(case.pack(np.hstack([case.X, case.X]))),
        lambda: model.predict(case.pack(X)),
        lambda: copy.copy(model).set_params(alpha=-1.0).fit(case.pack(case.X), y),
    ]
    if case.parameters["solver"] != "lbfgs":
        wide = case.pack(np.hstack([case.X, case.X]))
        calls += [
            lambda: model.partial_fit(case.pack(X), y),
            lambda: model.partial_fit(wide, y),
        ]
    for call in calls:
        try:
            call()
        except ValueError:
            assert state(model) == before
        else:
            raise AssertionError("no error")
    assert_same(outputs(model, case.pack(case.X)), kept)


def rows_of_weight_zero_are_not_there(case, model):
    p = case.parameters
    if case.held_out or case.targets.get("class_weight") or case.how == "partial_fit":
        return
    if p.get("learning_rate") == "invscaling":  # counts them, as scikit-learn does
        return
    drops = p.get("dropout") or p.get("input_dropout")
    if drops and case.how == "warm_start":  # draws go by the rows seen so far
        return
    whole = {"shuffle": False}
    if p["solver"] != "lbfgs":
        whole["batch_size"] = len(case.X)
    some = case.rng.uniform(size=len(case.X)) < 0.7
    some[:5] = True  # a row of every class
    if case.is_classifier:
        known = [case.T[some][:, j].any() for j in range(case.T.shape[1])]
        if not all(known) or case.T[some].all(axis=0).any():
            return
    weight = np.ones(len(case.X)) if case.weight is None else case.weight
    if not (weight * some).any():
        return
    other = case.fit(weight=weight * some, **whole)
    without = case.fit(case.pack(case.X[some]), case.y[some], weight[some], **whole)
    assert other._theta.tobytes() == without._theta.tobytes()
    assert other.loss_curve_ == without.loss_curve_


def calls_of_partial_fit_are_epochs(case, model):
    p = case.parameters
    plain = {"shuffle": False, "n_iter_no_change": 1000, "learning_rate": "constant"}
    plain |= {"warmup": 0.0, "dropout": 0.0, "input_dropout": 0.0, "average": 0.0}
    if p["solver"] == "lbfgs" or case.held_out:
        return
    if case.targets.get("class_weight") == "balanced":
        return
    theta = {}
    for how in ("fit", "partial_fit"):
        other = copy.copy(case)
        other.how = how
        theta[how] = other.fit(**plain)._theta.tobytes()
    assert theta["fit"] == theta["partial_fit"]


INVARIANTS = {
    f.__name__: f
    for f in (
        copies_predict_the_same,
        a_clone_fits_the_same,
        threads_change_no_bit,
        a_sparse_X_changes_no_bit,
        shapes_and_types_are_those_of_the_data,
        other_names_of_classes_change_no_bit,
        chunks_predict_as_all_rows,
        a_call_that_fails_changes_nothing,
        rows_of_weight_zero_are_not_there,
        calls_of_partial_fit_are_epochs,
    )
}

# ---- running them

# What was compared, and how often nothing could be said.
seen = collections.Counter()


def check(case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen["configurations"] += 1
        try:
            model = case.fit()
        except DivergenceError:
            return check_divergence(case)
        assert np.isfinite(model._theta).all()
        check_gradient(case, model)
        check_training(case, model)
        check_scikit_learn(case, model)
        for name in case.look:
            seen["invariants"] += 1
            INVARIANTS[name](case, model)


def run(number, seed, say=None):
    """Checks so many configurations, the same ones for the same seed and number."""
    began = time.monotonic()
    seen.clear()

    def one(case):
        check(case)
        n = seen["configurations"]
        if say and n % 200 == 0:
            say(f"{n} of {number}, {time.monotonic() - began:.0f} s")

    settings = hypothesis.settings(
        max_examples=number,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=[*hypothesis.HealthCheck],
    )
    test = settings(hypothesis.given(cases(sorted(INVARIANTS)))(one))
    hypothesis.seed(seed)(test)()
    seen["seconds"] = round(time.monotonic() - began)
    return seen


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    _look.GUARDED = False  # what goes wrong in a look at a fit is seen, too
    print(f"{given.number} configurations, seed {given.seed}", flush=True)
    n = run(given.number, given.seed, lambda text: print(text, flush=True))
    print(", ".join(f"{name} {count}" for name, count in n.items()))


if __name__ == "__main__":
    main()
    sys.exit(0)
