"""Configurations that hypothesis draws: parameters, kinds of data, ways to fit.

tests/properties.py compares the fits with what others say.
"""

import numpy as np
import reference
import sklearn
from hypothesis import strategies as st
from scipy import sparse
from sklearn.neural_network import MLPClassifier
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.fixes import parse_version

from cbp import BPClassifier, BPRegressor

# sample_weight and the Poisson loss came to scikit-learn's networks in 1.7.
NEWER = parse_version(sklearn.__version__) >= parse_version("1.7")

OUTPUTS = {
    "squared_error": "identity",
    "absolute_error": "identity",
    "huber": "identity",
    "quantile": "identity",
    "poisson": "exp",
    "gamma": "exp",
    "tweedie": "exp",
}
LOSS_PARAMETERS = {"huber": "huber_delta", "quantile": "quantile", "tweedie": "power"}


# ---- what is drawn


@st.composite
def cases(draw, invariants):
    """Parameters of a fit, what its data are made of, and some of the invariants."""

    def one_of(*choices):
        return draw(st.sampled_from(choices))

    def number(low, high):
        return draw(st.integers(low, high))

    wide = one_of(*9 * [False], True)  # enough work for several threads
    data = {
        "seed": number(0, 2**31 - 1),
        "rows": number(130, 300) if wide else number(6, 50),
        "features": number(30, 60) if wide else number(1, 8),
        "dtype": one_of(np.float64, np.float64, np.float32),
        "zeros": one_of(0.0, 0.0, 0.5, 0.9),
        "sparse": one_of(False, False, True),
        "weights": one_of(None, "uniform", "zeros", "equal", "tiny", "huge"),
    }
    depth = number(1, 2) if wide else one_of(0, 1, 1, 1, 2, 3)
    sizes = tuple(number(60, 130) if wide else number(1, 20) for _ in range(depth))
    names = tuple(one_of(*reference.ACTIVATIONS) for _ in range(depth))
    parameters = {
        "hidden_layer_sizes": sizes,
        "activation": one_of(names, one_of(*reference.ACTIVATIONS)),
        "solver": one_of("adam", "adam", "sgd", "sgd", "lbfgs"),
        "alpha": one_of(0.0, 1e-4, 0.1),
        "batch_size": one_of("auto", 128 if wide else 1, 7 if not wide else 100, 64),
        "max_iter": number(1, 2 if wide else 4),
        "shuffle": one_of(True, True, False),
        "init": one_of("glorot", "glorot", "he", "lecun", "orthogonal"),
        "n_iter_no_change": one_of(1, 2, 10),
        "tol": one_of(0.0, 1e-4, 0.3),
        "random_state": number(0, 2**32 - 1),
        "n_jobs": one_of(1, 2, 3),
    }
    if parameters["solver"] != "lbfgs":
        parameters |= draw_steps(one_of, parameters["solver"], depth)
    targets = draw_targets(one_of, number, parameters)
    how = one_of("fit", "fit", "fit", "partial_fit", "warm_start")
    if parameters["solver"] == "lbfgs" and how == "partial_fit":
        how = "fit"
    if one_of(False, False, True):
        be_plain(one_of, data, parameters, targets)
    if how == "partial_fit":  # which does not know when training ends, nor all labels
        known = ("constant", "invscaling", "adaptive")
        if parameters["learning_rate"] not in known:
            parameters["learning_rate"] = "constant"
        parameters |= {"average": 0.0, "warmup": 0.0}
        if targets.get("class_weight") == "balanced":
            targets["class_weight"] = None
    held_out = one_of("", "", "own", "split") if how == "fit" else ""
    if held_out == "split" and data["rows"] < 20:
        held_out = ""
    look = draw(st.sets(st.sampled_from(invariants), min_size=1, max_size=2))
    return Case(data, parameters, targets, how, held_out, sorted(look))


def be_plain(one_of, data, parameters, targets):
    """What scikit-learn has, too."""
    data["dtype"] = np.float64
    data["weights"] = data["weights"] if NEWER else None
    given = BPRegressor() if targets["kind"] == "numbers" else BPClassifier()
    known = {*MLPClassifier().get_params(), "n_jobs", "loss"}
    for name, value in given.get_params().items():
        if name in parameters and name not in known:
            parameters[name] = value
    parameters["activation"] = one_of("identity", "logistic", "tanh", "relu")
    schedules = ("constant", "invscaling", "adaptive")
    if parameters.get("learning_rate", "constant") not in schedules:
        parameters["learning_rate"] = one_of(*schedules)
    if targets["kind"] == "numbers":
        losses = ("squared_error", "squared_error", *["poisson"] * NEWER)
        parameters["loss"] = one_of(*losses)
        targets["n"], targets["flat"] = 1, True
    else:
        parameters["loss"], targets["class_weight"] = "log_loss", None
        if targets["kind"] == "columns":
            targets["kind"] = "classes"


def draw_steps(one_of, solver, depth):
    """Parameters of solvers that step after every batch."""
    found = {
        "learning_rate_init": one_of(1e-3, 1e-2),
        "learning_rate": one_of(
            *3 * ["constant"],
            *("invscaling", "adaptive", "cosine", "linear", "exponential", "one_cycle"),
        ),
        "warmup": one_of(0.0, 0.0, 0.0, 0.4),
        "weight_decay": one_of(0.0, 0.0, 0.0, 0.1),
        "max_grad_norm": one_of(None, None, None, 0.5),
        "average": one_of(0.0, 0.0, 0.0, 0.7),
        "input_dropout": one_of(0.0, 0.0, 0.0, 0.0, 0.2),
        "dropout": one_of(0.0, 0.0, 0.0, 0.3) if depth else 0.0,
    }
    if solver == "sgd":
        found["momentum"] = one_of(0.0, 0.5, 0.9)
        found["nesterovs_momentum"] = one_of(True, False)
    else:
        found["beta_1"], found["beta_2"] = one_of((0.9, 0.999), (0.5, 0.9), (0.0, 0.0))
        found["epsilon"] = one_of(1e-8, 1e-3)
    return found


def draw_targets(one_of, number, parameters):
    """Kind and size of the targets; the loss is a parameter."""
    if one_of(True, False):
        kind = one_of("classes", "classes", "two", "multilabel", "columns")
        loss = parameters["loss"] = one_of("log_loss", "log_loss", "squared_error")
        if loss == "log_loss":
            parameters["label_smoothing"] = one_of(0.0, 0.0, 0.1)
            parameters["focal_gamma"] = one_of(0.0, 0.0, 0.5, 2.0)
        return {
            "kind": kind,
            "n": 2 if kind == "two" else number(3, 5),
            "labels": one_of("int", "str", "float"),
            "sparse_y": kind == "multilabel" and one_of(False, True),
            "class_weight": one_of(None, None, "balanced", "given"),
        }
    loss = parameters["loss"] = one_of(*OUTPUTS)
    n = one_of(1, 1, 2, 3)
    if loss == "huber":
        parameters["huber_delta"] = one_of(0.3, 1.0)
    if loss == "tweedie":
        parameters["power"] = one_of(1.0, 1.5, 1.9)
    if loss == "quantile":
        parameters["quantile"] = one_of(0.5, 0.9, (0.1, 0.5, 0.9))
        n = 1 if isinstance(parameters["quantile"], tuple) else n
    return {"kind": "numbers", "n": n, "flat": n == 1 and one_of(True, False)}


class Case:
    """A configuration; its data are made when they are first asked for."""

    def __init__(self, data, parameters, targets, how, held_out, look):
        self.data, self.parameters, self.targets = data, parameters, targets
        self.how, self.held_out, self.look = how, held_out, look
        self.is_classifier = targets["kind"] != "numbers"
        self.dtype = data["dtype"]
        self._make_data()

    def __repr__(self):
        return (
            f"Case(\n  {self.data},\n  {self.parameters},\n  {self.targets},\n  "
            f"{self.how!r}, {self.held_out!r}, {self.look})"
        )

    def _make_data(self):
        d, rng = self.data, np.random.RandomState(self.data["seed"])
        self.rng = rng
        n_rows, n_val = d["rows"], 11
        X = rng.standard_normal((n_rows + n_val, d["features"]))
        X[rng.uniform(size=X.shape) < d["zeros"]] = 0
        X = X.astype(self.dtype)
        make = self._make_labels if self.is_classifier else self._make_numbers
        y, T = make(rng, n_rows + n_val)
        w = rng.uniform(0.2, 2, n_rows)
        kind = d["weights"]
        if kind == "zeros":
            w[rng.uniform(size=n_rows) < 0.3] = 0
            w[0] = 1
        w = np.full(n_rows, 2.5) if kind == "equal" else w
        scale = {"tiny": 2.0**-50, "huge": 2.0**60}.get(kind, 1.0)
        self.parameters["alpha"] *= scale  # the penalty stands beside the weights
        self.weight = None if kind is None else w * scale
        self.X, self.X_val = X[:n_rows], X[n_rows:]
        self.y, self.y_val, self.T, self.T_val = (
            y[:n_rows],
            y[n_rows:],
            *np.split(T, [n_rows]),
        )
        self.pack = sparse.csr_matrix if d["sparse"] else np.asarray

    def _make_labels(self, rng, n_rows):
        t = self.targets
        names = {
            "int": np.array([-3, 0, 1, 5, 900]),
            "str": np.array(["a", "bb", "no", "x", "yes"]),
            "float": np.array([-1.0, 0.0, 2.0, 3.0, 4.0]),
        }[t["labels"]]
        if t["kind"] == "multilabel":
            T = (rng.uniform(size=(n_rows, t["n"])) < 0.5).astype(int)
            T[:2] = np.eye(2, t["n"], dtype=int)
            return (sparse.csr_matrix(T) if t["sparse_y"] else T), T.astype(float)
        sizes = (3, t["n"]) if t["kind"] == "columns" else (t["n"],)
        columns, T = [], []
        for n in sizes:
            # All classes lie in the rows that are trained on, if there are so many.
            first = rng.permutation(np.arange(self.data["rows"]) % n)
            k = np.append(first, rng.randint(n, size=n_rows - len(first)))
            columns.append(names[k])
            T.append(np.eye(n)[k] if n > 2 or len(sizes) > 1 else k[:, None] * 1.0)
        y = np.stack(columns, 1).astype(object) if len(sizes) > 1 else columns[0]
        return y, np.hstack(T)

    def _make_numbers(self, rng, n_rows):
        p, shape = self.parameters, (n_rows, self.targets["n"])
        T = reference.LOSSES[OUTPUTS[p["loss"]], p["loss"]].draw(rng, shape)
        T = T.astype(self.dtype)
        y = T[:, 0] if self.targets["flat"] else T
        if isinstance(p.get("quantile"), tuple):
            T = np.repeat(T, 3, axis=1)
        return y, T.astype(float)

    # ---- the fit

    def class_weight(self):
        """As the parameter."""
        given = self.targets.get("class_weight")
        if given != "given":
            return given
        columns = self.y.toarray() if sparse.issparse(self.y) else self.y
        columns = columns.reshape(len(self.X), -1).T
        found = [
            {label: 0.5 + i for i, label in enumerate(sorted(set(column)))}
            for column in columns.tolist()
        ]
        return found if len(found) > 1 else found[0]

    def estimator(self, **changes):
        parameters = self.parameters | changes
        if self.held_out:
            parameters["early_stopping"] = True
        if self.held_out == "split":
            parameters["validation_fraction"] = 0.3
        if not self.is_classifier:
            return BPRegressor(**parameters)
        return BPClassifier(**parameters, class_weight=self.class_weight())

    def fit(self, X=None, y=None, weight=None, **changes):
        """A model; another X, y, weight or parameters where they are given."""
        X = self.pack(self.X) if X is None else X
        y = self.y if y is None else y
        weight = self.weight if weight is None else weight
        return self.train(self.estimator(**changes), X, y, weight)

    def train(self, model, X, y, weight):
        given = {} if weight is None else {"sample_weight": weight}
        if self.how == "partial_fit":
            if isinstance(model, BPClassifier):
                given["classes"] = classes_of(y)
            for _ in range(self.parameters["max_iter"]):
                model.partial_fit(X, y, **given)
            return model
        if self.held_out == "own":
            given |= {"X_val": self.pack(self.X_val), "y_val": self.y_val}
        model.fit(X, y, **given)
        if self.how == "warm_start":
            model.set_params(warm_start=True).fit(X, y, **given)
        return model

    # ---- the same for the reference

    def full_weight(self):
        """Of rows and of classes."""
        weight = np.ones(len(self.X)) if self.weight is None else self.weight
        return weight * self.weight_of_classes(self.y)

    def weight_of_classes(self, y):
        """Of rows with these labels; classes are balanced by those trained on."""
        given = self.class_weight()
        if given is None:
            return np.ones(y.shape[0])
        y, known = (x.toarray() if sparse.issparse(x) else x for x in (y, self.y))
        if given == "balanced":
            of_columns = [
                dict(zip(*np.unique(column, return_counts=True), strict=True))
                for column in known.reshape(len(known), -1).T
            ]
            given = [
                {name: len(known) / len(counts) / n for name, n in counts.items()}
                for counts in of_columns
            ]
            given = given if y.ndim > 1 else given[0]
        return compute_sample_weight(given, y)

    def network(self, kind=reference.Network):
        p, t, n_out = self.parameters, self.targets, self.T.shape[1]
        sizes = p["hidden_layer_sizes"]
        names = p["activation"]
        names = (names,) * len(sizes) if isinstance(names, str) else names
        loss, groups = p["loss"], ()
        if self.is_classifier:
            exclusive = t["kind"] in ("classes", "columns")
            output = "softmax" if exclusive and loss == "log_loss" else "logistic"
            rows = (p.get("label_smoothing", 0.0), p.get("focal_gamma", 0.0))
            loss = "focal_log_loss" if any(rows) else loss
            rows = rows if any(rows) else ()
            groups = (3, t["n"]) if t["kind"] == "columns" else ()
        else:
            output = OUTPUTS[loss]
            rows = (p[LOSS_PARAMETERS[loss]],) if loss in LOSS_PARAMETERS else ()
        rows = tuple(np.broadcast_to(np.array(row, float), n_out) for row in rows)
        sizes = (self.X.shape[1], *sizes, n_out)
        return kind(sizes, names, output, loss, groups, rows)


def classes_of(y):
    """As the first call of partial_fit wants them."""
    if sparse.issparse(y):
        return np.arange(y.shape[1])
    if y.ndim == 1:
        return np.unique(y)
    if y.dtype == object:
        return [np.array(sorted(set(column))) for column in y.T.tolist()]
    return np.arange(y.shape[1])
