"""Several columns of labels: what they are read as, learned, predicted and scored."""

import copy
import pickle

import numpy as np
import pytest
import reference
import scipy.sparse as sp
from problem import make_trainer
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils.class_weight import compute_sample_weight

from cbp import (
    BPClassifier,
    NetworkFeatures,
    backpropagate,
    check_gradient,
)
from cbp._data import Data
from cbp._network import Network
from cbp._targets import read_labels

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, species = load_iris(return_X_y=True)
X = scale(X)
NAMES = np.array(["setosa", "versicolor", "virginica"])[species]
WIDE = np.where(X[:, 1] > 0, 7, 3)
STEPS = np.digitize(X[:, 2], [-1, -0.5, 0, 0.5, 1])
# One class, two, three and six: strings and numbers.
Y = np.column_stack([NAMES, np.full(150, "all")])
NUMBERS = np.column_stack([species, WIDE, np.full(150, 4), STEPS])
MIXED = np.empty((150, 3), object)
MIXED[:, 0], MIXED[:, 1], MIXED[:, 2] = NAMES, WIDE, X[:, 0] > 0
W = np.linspace(0.5, 1.5, 150)
W[::7] = 0


def classifier(**options):
    options = {"max_iter": 40, "learning_rate_init": 0.02, "random_state": 0} | options
    return BPClassifier((8,), **options)


def same(a, b):
    np.testing.assert_array_equal(a._theta, b._theta)
    assert a.loss_curve_ == b.loss_curve_
    assert a.validation_scores_ == b.validation_scores_


# -------------------------------------------------------------------------- the network


SETTINGS = {
    "sgd": {"solver": "sgd", "learning_rate_init": 0.1, "batch_size": 32},
    "adam": {"solver": "adam", "learning_rate_init": 0.01, "batch_size": 32},
    "one row": {"solver": "sgd", "learning_rate_init": 0.05, "batch_size": 1},
}


class Problem:
    """Columns of labels for the engine and for the NumPy twin."""

    def __init__(self, output, loss, groups, dtype=np.float64):
        rng = np.random.RandomState(len(groups))
        sizes = (5, 7, sum(groups))
        parameters = reference.loss_parameters(output, loss, sum(groups))
        self.network = Network(
            sizes, ("tanh",), output, loss, dtype, parameters, groups
        )
        self.twin = reference.Network(sizes, ("tanh",), output, loss, groups)
        theta = rng.uniform(-0.4, 0.4, self.network.n_params)
        self.theta = theta.astype(dtype)
        self.X = rng.standard_normal((83, 5)).astype(dtype)
        columns = [rng.randint(n, size=83) for n in groups]
        self.target = np.column_stack(columns).astype(np.int32)
        # A softmax of one class is 1, a single logistic output is to be the label, 0.
        ones = [
            reference.fill_targets(column, n, np.float64)
            if output == "logistic" or n > 1
            else np.ones((83, 1))
            for column, n in zip(columns, groups, strict=True)
        ]
        self.T = np.hstack(ones)
        self.weight = rng.uniform(0.2, 2, 83).astype(dtype)
        self.weight[::9] = 0

    def trainer(self, X=None, **settings):
        return make_trainer(
            self.network,
            self.theta.copy(),
            self.X if X is None else X,
            self.target,
            sample_weight=self.weight,
            random_state=np.random.RandomState(3),
            **settings,
        )


every_groups = pytest.mark.parametrize("groups", [(3, 2), (1, 2, 4), (17, 3, 1, 15)])
every_loss = pytest.mark.parametrize(
    "output, loss",
    [
        ("softmax", "log_loss"),
        ("softmax", "focal_log_loss"),
        ("logistic", "squared_error"),
    ],
)


@every_groups
@every_loss
@pytest.mark.parametrize("name", SETTINGS)
def test_training_is_that_of_the_numpy_twin(output, loss, groups, name):
    problem, settings = Problem(output, loss, groups), SETTINGS[name]
    trainer = problem.trainer(alpha=0.01, **settings)
    trainer.run(3)
    twin = reference.train(
        problem.twin,
        problem.theta,
        problem.X,
        problem.T,
        sample_weight=problem.weight,
        alpha=0.01,
        max_iter=3,
        random_state=np.random.RandomState(3),
        **settings,
    )
    np.testing.assert_allclose(trainer.theta, twin.theta, rtol=0, atol=1e-10)
    np.testing.assert_allclose(trainer.progress.loss_curve, twin.loss_curve, rtol=1e-12)


@every_groups
@every_loss
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix], ids=["dense", "csr"])
def test_gradients_are_those_of_the_twin_and_of_central_differences(
    output, loss, groups, form
):
    problem = Problem(output, loss, groups)
    trainer = problem.trainer(form(problem.X), solver="lbfgs", alpha=0.3)
    value, gradient = trainer.loss_gradient(problem.theta)
    expected = problem.twin.loss_gradient(
        problem.theta, problem.X, problem.T, problem.weight, 0.3
    )
    np.testing.assert_allclose(value, expected[0], rtol=1e-13)
    np.testing.assert_allclose(gradient, expected[1], rtol=0, atol=1e-14)
    for place in range(0, len(gradient), 7):
        step = np.zeros(len(gradient))
        step[place] = 1e-5
        above, below = (
            trainer.loss_gradient(problem.theta + sign * step)[0] for sign in (1, -1)
        )
        slope = (above - below) / 2e-5
        assert abs(slope - gradient[place]) < 1e-8 * max(1, abs(gradient).max())


@every_loss
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("average", [0, 0.9])
def test_batches_of_one_row_have_the_same_bits_watched_or_not(
    output, loss, dtype, average
):
    problem = Problem(output, loss, (2, 17, 1), dtype)
    runs = [
        problem.trainer(
            solver="adam",
            batch_size=1,
            monitor=monitor,
            weight_decay=0.01,
            average=average,
        )
        for monitor in (False, True)
    ]
    for trainer in runs:
        trainer.run(3)
    np.testing.assert_array_equal(runs[0].theta, runs[1].theta)
    assert runs[0].progress.loss_curve == runs[1].progress.loss_curve


def test_the_first_column_alone_learns_as_it_does_beside_others_of_one_class():
    """A column of one class costs nothing in a softmax: its delta is 0."""
    network = Network((5, 7, 3), ("tanh",), "softmax", "log_loss", np.float64)
    problem = Problem("softmax", "log_loss", (3, 1, 1))
    theta = np.zeros(network.n_params)
    W, b = network.views(theta)
    W_all, b_all = problem.network.views(problem.theta)
    for part, whole in zip([*W, *b], [*W_all, *b_all], strict=True):
        part[...] = whole[..., : part.shape[-1]]
    kwargs = {"solver": "sgd", "sample_weight": problem.weight, "batch_size": 20}
    kwargs["learning_rate_init"] = 0.1
    one = make_trainer(
        network,
        theta,
        problem.X,
        np.ascontiguousarray(problem.target[:, 0]),
        random_state=np.random.RandomState(3),
        **kwargs,
    )
    kwargs.pop("sample_weight")
    several = problem.trainer(**kwargs)
    one.run(3), several.run(3)
    assert one.progress.loss_curve == several.progress.loss_curve
    W_all, _ = problem.network.views(several.theta)
    np.testing.assert_array_equal(network.views(one.theta)[0][0], W_all[0])


def test_groups_and_labels_that_do_not_fit_are_refused():
    for groups, output in [((3, 3), "softmax"), ((5,), "softmax"), ((5, 0), "softmax")]:
        with pytest.raises(ValueError, match="groups"):
            Network((2, 5), (), output, "log_loss", np.float64, (), groups)
    with pytest.raises(ValueError, match="groups"):
        Network((2, 5), (), "identity", "squared_error", np.float64, (), (2, 3))
    problem = Problem("softmax", "log_loss", (3, 2))
    for wrong in (
        problem.target[:, :1],
        problem.target[:, [0, 1, 1]],
        problem.target + 1,
        problem.target - 1,
        problem.target[:, 0],
        problem.target[:-1],
        problem.target.astype(np.int64),
    ):
        with pytest.raises(ValueError):
            Data(problem.network, problem.X, wrong)
    kept = problem.target.copy()
    trainer = problem.trainer(solver="sgd", batch_size=20)
    problem.target[:] = 9  # Data has its own copy
    trainer.run(1)
    problem.target[:] = kept
    again = problem.trainer(solver="sgd", batch_size=20)
    again.run(1)
    np.testing.assert_array_equal(trainer.theta, again.theta)


# ------------------------------------------------------------------- as forests have it


@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
@pytest.mark.parametrize("target", [NUMBERS, Y, MIXED], ids=["int", "str", "mixed"])
def test_attributes_and_outputs_have_the_shapes_of_a_forest(target, loss):
    ours = classifier(loss=loss).fit(X, target)
    # A forest sorts all labels together, which those of several kinds do not allow.
    theirs = target.astype(str) if target is MIXED else target
    forest = RandomForestClassifier(5, random_state=0).fit(X, theirs)
    assert type(ours.classes_) is type(forest.classes_) is list
    for a, b in zip(ours.classes_, forest.classes_, strict=True):
        assert a.astype(b.dtype).tolist() == b.tolist()
    predicted, expected = ours.predict(X), forest.predict(X)
    assert predicted.shape == expected.shape == target.shape
    assert predicted.dtype.kind == target.dtype.kind
    for name in ("predict_proba", "predict_log_proba"):
        a, b = getattr(ours, name)(X), getattr(forest, name)(X)
        assert type(a) is type(b) is list
        assert [p.shape for p in a] == [p.shape for p in b]
    n = sum(map(len, ours.classes_))
    assert ours.n_outputs_ == n and ours.decision_function(X).shape == (150, n)
    for p, log_p in zip(ours.predict_proba(X), ours.predict_log_proba(X), strict=True):
        np.testing.assert_allclose(p.sum(axis=1), 1)
        np.testing.assert_allclose(np.log(p), log_p, atol=1e-6)
    for column, p in enumerate(ours.predict_proba(X)):
        chosen = ours.classes_[column][p.argmax(axis=1)]
        assert (chosen == predicted[:, column]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_every_column_is_learned(solver, loss, dtype):
    rate = {"sgd": 0.3, "adam": 0.02, "lbfgs": 1}[solver]
    model = classifier(solver=solver, loss=loss, learning_rate_init=rate, max_iter=150)
    model.fit(X.astype(dtype), MIXED)
    right = model.predict(X) == MIXED
    assert (right.mean(axis=0) > 0.9).all()
    assert model.coefs_[0].dtype == dtype
    assert model.diagnose().healthy


def test_the_score_is_that_of_MultiOutputClassifier():
    peer = MultiOutputClassifier(LogisticRegression()).fit(X, NUMBERS[:, [0, 1, 3]])
    ours = classifier(max_iter=100).fit(X, NUMBERS[:, [0, 1, 3]])

    class Same(MultiOutputClassifier):
        def predict(self, X):
            return ours.predict(X)

    peer.__class__ = Same
    expected = peer.score(X, NUMBERS[:, [0, 1, 3]])
    assert ours.score(X, NUMBERS[:, [0, 1, 3]]) == expected
    right = (ours.predict(X) == NUMBERS[:, [0, 1, 3]]).all(axis=1)
    weighted = ours.score(X, NUMBERS[:, [0, 1, 3]], sample_weight=W)
    assert 0.5 < weighted < 1 and np.isclose(weighted, np.average(right, weights=W))
    strange = NUMBERS[:, [0, 1, 3]].copy()
    strange[:30, 1] = 99  # a label that was never seen is never right
    assert ours.score(X, strange) == right[30:].sum() / 150
    for wrong in (NUMBERS[:, 0], NUMBERS, NUMBERS[:10, :3], sp.csr_matrix(NUMBERS)):
        message = r"y must have 3 columns of labels.*got (a sparse )?y of shape \(1"
        with pytest.raises(ValueError, match=message):
            ours.score(X, wrong)


@pytest.mark.parametrize("kind", ["strings", "other numbers"])
def test_a_score_of_labels_none_of_which_is_known_is_refused(kind):
    model = classifier(max_iter=2).fit(X, MIXED)
    target = MIXED.copy()
    if kind == "strings":
        target[:, 1] = WIDE.astype(str)
    else:
        target[:, 1] = WIDE + 1
    message = r"Column 1 of y holds no label that the model knows.*known are \[3, 7\]"
    with pytest.raises(ValueError, match=message):
        model.score(X, target)


def test_the_cost_is_the_sum_of_the_columns_log_losses():
    model = classifier(alpha=0, solver="lbfgs", max_iter=7).fit(X, MIXED, W)
    cost = 0
    for column, log_p in enumerate(model.predict_log_proba(X)):
        place = np.searchsorted(model.classes_[column], MIXED[:, column])
        cost -= log_p[np.arange(150), place]
    assert np.isclose(model.loss_, np.average(cost, weights=W), rtol=1e-12)


def test_smoothing_and_the_focal_loss_are_those_of_each_column():
    model = classifier(alpha=0, label_smoothing=0.1, max_iter=9).fit(X, NUMBERS)
    cost = 0
    for classes, column, log_p in zip(
        model.classes_, NUMBERS.T, model.predict_log_proba(X), strict=True
    ):
        target = 0.9 * (column[:, None] == classes) + 0.1 / len(classes)
        cost -= (target * log_p).sum(axis=1).mean()
    again = classifier(alpha=0, label_smoothing=0.1, warm_start=True, max_iter=9)
    again.set_params(solver="sgd", batch_size=150, learning_rate_init=1e-12)
    again.fit(X, NUMBERS)
    again.coefs_, again.intercepts_ = model.coefs_, model.intercepts_
    assert np.isclose(again.set_params(max_iter=1).fit(X, NUMBERS).loss_, cost)
    for options in ({"focal_gamma": 2.0}, {"focal_gamma": 1.0, "label_smoothing": 0.1}):
        model = classifier(max_iter=100, **options).fit(X, NUMBERS)
        assert model.score(X, NUMBERS) > 0.7 and model.diagnose().healthy
        assert (pickle.loads(pickle.dumps(model)).predict(X) == model.predict(X)).all()
        one_row = classifier(max_iter=2, batch_size=1, **options).fit(X, NUMBERS)
        assert np.isfinite(one_row.loss_)


def test_what_stays_multilabel_and_what_does_not():
    for target in (
        np.column_stack([species == 0, species == 1]),
        np.column_stack([species == 0, species == 1]).astype(int),
        np.column_stack([species == 0, species == 1]).astype(float),
        np.column_stack([species == 0, species == 1]).astype(object),
        np.column_stack([species == 0, species == 1]).astype(int).tolist(),
    ):
        model = classifier(max_iter=2).fit(X, target)
        assert model.classes_.tolist() == [0, 1]
        assert model.predict_proba(X).shape == (150, 2)
    words = np.where(np.column_stack([species == 0, species == 1]), "1", "0")
    assert isinstance(classifier(max_iter=2).fit(X, words).classes_, list)
    with pytest.raises(ValueError, match="must hold 0 and 1 only.*as strings"):
        classifier().fit(X, np.where(words == "1", 2, 1))
    with pytest.raises(ValueError, match="continuous"):
        classifier().fit(X, X[:, :2])


# ------------------------------------------------------------------------ what y may be


def test_frames_and_lists_of_rows_are_read_column_by_column():
    pd = pytest.importorskip("pandas")
    expected = classifier(max_iter=5).fit(X, MIXED)
    frame = pd.DataFrame({"a": NAMES, "b": WIDE, "c": X[:, 0] > 0})
    more = frame.astype({"a": "category", "b": "Int64", "c": "boolean"})
    strings = frame.astype({"a": "string"})
    rows = [[str(a), int(b), bool(c)] for a, b, c in MIXED]
    for form in (frame, more, strings, rows, list(map(tuple, rows))):
        model = classifier(max_iter=5).fit(X, form)
        same(model, expected)
        kinds = [classes.dtype.kind for classes in model.classes_]
        assert kinds == ["U", "i", "b"]
        assert [type(v) for v in model.predict(X)[0]] == [str, int, bool]
        assert model.score(X, form) == expected.score(X, MIXED)


def test_whole_numbers_of_columns_are_exact():
    pd = pytest.importorskip("pandas")
    large = 2**53 + species.astype(np.int64)
    frame = pd.DataFrame({"a": large, "b": X[:, 0].round()})
    model = classifier(max_iter=2).fit(X, frame)
    assert model.classes_[0].tolist() == [2**53, 2**53 + 1, 2**53 + 2]
    unsigned = pd.DataFrame({"a": large.astype(np.uint64), "b": WIDE})
    model = classifier(max_iter=2).fit(X, unsigned)
    assert model.classes_[0].tolist() == [2**53, 2**53 + 1, 2**53 + 2]
    assert model.predict(X)[:, 0].tolist()[0] in model.classes_[0].tolist()


def spoiled(value, column=1):
    target = MIXED.copy()
    target[5, column] = value
    return target


BAD = {
    "None": (spoiled(None), "y has missing values.*row 5"),
    "NaN": (spoiled(np.nan), "y has missing values.*row 5"),
    "a string among numbers": (spoiled("x"), "mixes labels of several types.*column 1"),
    "a number among strings": (spoiled(3, 0), "mixes labels of several types.*column"),
    "a fraction": (spoiled(0.5), r"In column 1 of y: .*continuous"),
    "a huge number": (spoiled(10**40), "64 bits in column 1"),
    "sparse": (sp.csr_matrix(NUMBERS), "Several columns of labels must be dense"),
    "three axes": (np.zeros((150, 2, 2)), "dim 3|3 dim|array"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_holds_no_labels_is_refused_and_the_model_stays(name):
    target, message = BAD[name]
    model = classifier(max_iter=2).fit(X, MIXED)
    kept = copy.deepcopy(model)
    with pytest.raises(ValueError, match=message):
        model.fit(X, target)
    same(model, kept)
    assert model.classes_[1].tolist() == [3, 7]


def test_ragged_rows_are_left_alone():
    ragged = [[1, 2], [3]]
    assert read_labels(ragged) is ragged
    assert read_labels([[1], [2]]).tolist() == [[1], [2]]


# ------------------------------------------------------------------------------ weights


@pytest.mark.parametrize(
    "class_weight", ["balanced", [{"setosa": 2.0, "virginica": 0.5}, {3: 1, 7: 4}, {}]]
)
def test_weights_of_classes_are_multiplied_over_the_columns(class_weight):
    rows = compute_sample_weight(class_weight, MIXED)
    weighted = classifier(class_weight=class_weight, max_iter=5)
    same(
        weighted.fit(X, MIXED, W),
        classifier(max_iter=5).fit(X, MIXED, W * rows),
    )


def test_weights_of_classes_must_be_a_dict_for_each_column():
    for wrong in ({3: 1}, [{3: 1}], [{}, {}, None]):
        with pytest.raises(ValueError, match="class_weight must be 'balanced' or a li"):
            classifier(class_weight=wrong).fit(X, MIXED)


# ----------------------------------------------------------------- rows that are scored


@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix], ids=["dense", "csr"])
def test_the_score_of_early_stopping_is_the_share_of_rows_that_are_all_right(
    form, loss
):
    some = slice(0, None, 3)
    data = form(X)
    model = classifier(early_stopping=True, loss=loss, max_iter=60)
    model.fit(
        data,
        MIXED,
        W,
        X_val=data[some],
        y_val=MIXED[some],
        sample_weight_val=W[some],
    )
    best = model.score(data[some], MIXED[some], W[some])
    assert np.isclose(model.best_validation_score_, best)
    assert len(set(model.validation_scores_)) > 3


def test_early_stopping_holds_out_the_rows_that_it_would_of_a_multilabel_y():
    """Neither split is stratified; both networks have eleven outputs."""
    held_out = []

    def scorer(estimator, X, y):
        held_out.append(X)
        return 0.0

    model = classifier(early_stopping=True, scoring=scorer, max_iter=1)
    many = np.random.RandomState(0).randint(2, size=(150, 11))
    for target in (NUMBERS, many):
        assert model.fit(X, target).n_outputs_ == 11
    np.testing.assert_array_equal(*held_out)
    assert len(held_out[0]) == 15


def test_scoring_takes_the_loss_or_a_scorer_of_ones_own():
    model = classifier(early_stopping=True, scoring="loss").fit(X, MIXED)
    assert model.best_validation_score_ == -min(model.validation_loss_curve_)

    def first_column(estimator, X, y):
        return f1_score(y[:, 0], estimator.predict(X)[:, 0], average="macro")

    model.set_params(scoring=first_column).fit(X, MIXED)
    assert model.best_validation_score_ > 0.8


def test_a_validation_set_may_lack_classes_but_has_no_others():
    model = classifier(max_iter=3)
    model.fit(X, NUMBERS, X_val=X[:2], y_val=NUMBERS[:2])
    assert len(model.validation_scores_) == 3
    strange = NUMBERS.copy()
    strange[0, 3] = 77
    with pytest.raises(ValueError, match="(?s)validation set: In column 3 of y:.*77"):
        model.fit(X, NUMBERS, X_val=X, y_val=strange)
    with pytest.raises(ValueError, match="must keep its 4 columns"):
        model.fit(X, NUMBERS, X_val=X, y_val=NUMBERS[:, :3])


# --------------------------------------------------------------------- training goes on


CLASSES = [np.unique(column) for column in NUMBERS.T]


def test_partial_fit_is_told_the_classes_of_every_column():
    model = classifier()
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(X, NUMBERS)
    order = np.random.RandomState(1).permutation(150)
    for _ in range(30):
        for start in range(0, 150, 25):
            some = order[start : start + 25]
            model.partial_fit(X[some], NUMBERS[some], classes=CLASSES)
    assert model.score(X, NUMBERS) > 0.8
    assert [c.tolist() for c in model.classes_] == [c.tolist() for c in CLASSES]
    kept = model._theta.copy()
    for classes, target, message in (
        (CLASSES[::-1], NUMBERS, "not the same as on last call"),
        (CLASSES[0], NUMBERS, "classes must be a list of arrays"),
        (None, NUMBERS + 1, "In column 0 of y: `y` has classes not in"),
        (None, NUMBERS[:, :2], "must keep its 4 columns of labels"),
        (None, species, "must keep its 4 columns of labels"),
        (None, sp.csr_matrix(NUMBERS), "must keep its 4 columns.*sparse"),
    ):
        with pytest.raises(ValueError, match=message):
            model.partial_fit(X, target, classes=classes)
    np.testing.assert_array_equal(model._theta, kept)


@pytest.mark.parametrize("size", [1, 10])
def test_partial_fit_of_few_rows_has_the_bits_of_any_form_of_them(size):
    ready, checked = classifier(), classifier()
    for start in range(0, 150, size):
        some = slice(start, start + size)
        ready.partial_fit(X[some], NUMBERS[some], classes=CLASSES)
        checked.partial_fit(
            X[some].tolist(), NUMBERS[some].astype(object), classes=CLASSES
        )
    np.testing.assert_array_equal(ready._theta, checked._theta)


@pytest.mark.parametrize("dtype", [int, float])
def test_columns_of_two_numbers_are_refused_until_partial_fit_is_told_them(dtype):
    pair = np.column_stack([np.where(species > 0, 2, 1), np.where(X[:, 0] > 0, 1, 2)])
    told = [[1, 2], [1, 2]]
    with pytest.raises(ValueError, match=r"as strings, or tell them to partial_fit"):
        classifier().fit(X, pair.astype(dtype))
    model = classifier(warm_start=True).partial_fit(X, pair.astype(dtype), classes=told)
    assert [each.tolist() for each in model.classes_] == told
    model.partial_fit(X, pair.astype(dtype)).fit(X, pair.astype(dtype))
    assert model.score(X, pair) > 0.8 and set(model.predict(X).flat) == {1, 2}


def test_rows_of_zeros_and_ones_are_what_the_classes_say():
    zero_one = np.column_stack([species == 0, X[:, 0] > 0]).astype(int)
    columns = classifier().partial_fit(X, zero_one, classes=[[0, 1], [0, 1]])
    assert isinstance(columns.classes_, list) and columns.n_outputs_ == 4
    labels = classifier().partial_fit(X, zero_one, classes=[0, 1])
    assert labels.classes_.tolist() == [0, 1] and labels.n_outputs_ == 2
    for model, target, classes in (
        (columns, species, None),
        (labels, NUMBERS[:, :2], None),
        (labels, zero_one, [[0, 1], [0, 1]]),
        (classifier().fit(X, species), NUMBERS, None),
        (classifier().fit(X, species), NUMBERS, CLASSES),
    ):
        with pytest.raises(ValueError, match="columns of labels|not the same as"):
            model.partial_fit(X, target, classes=classes)


def test_warm_start_goes_on_and_demands_the_same_classes():
    model = classifier(warm_start=True, max_iter=3).fit(X, MIXED)
    first = model.loss_
    model.fit(X, MIXED)
    assert model.loss_ < first and len(model.loss_curve_) == 6
    fewer = MIXED.copy()
    fewer[:, 1] = 7
    with pytest.raises(ValueError, match="(?s)In column 1 of y: .*same classes"):
        model.fit(X, fewer)
    with pytest.raises(ValueError, match="must keep its 3 columns"):
        model.fit(X, species)
    assert model.set_params(warm_start=False).fit(X, species).classes_.shape == (3,)


@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_the_bits_are_the_same_for_every_n_jobs_and_for_csr(solver):
    models = [
        BPClassifier((150,), solver=solver, max_iter=4, n_jobs=n_jobs, random_state=0)
        for n_jobs in (1, 2)
    ]
    big = np.tile(X, (4, 4))
    target = np.tile(MIXED, (4, 1))
    expected = models[0].fit(big, target)._theta.copy()
    np.testing.assert_array_equal(models[1].fit(big, target)._theta, expected)
    np.testing.assert_array_equal(
        models[1].fit(sp.csr_matrix(big), target)._theta, expected
    )


# --------------------------------------------------------------------- what comes after


def test_pickles_copies_and_clones_predict_the_same():
    model = classifier().fit(X, MIXED)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert (twin.predict(X) == model.predict(X)).all()
        for a, b in zip(twin.predict_proba(X), model.predict_proba(X), strict=True):
            np.testing.assert_array_equal(a, b)
        assert [c.tolist() for c in twin.classes_] == [
            c.tolist() for c in model.classes_
        ]
    same(clone(model).fit(X, MIXED), model)
    twin = pickle.loads(
        pickle.dumps(classifier().partial_fit(X, NUMBERS, None, CLASSES))
    )
    twin.partial_fit(X, NUMBERS)
    assert twin.t_ == 300


def test_a_pickle_whose_columns_were_changed_is_refused():
    state = classifier(max_iter=2).fit(X, MIXED).__getstate__()
    BPClassifier().__setstate__(state)
    a, b, c = state["classes_"]
    for wrong in (
        [a, b],
        [a, b, c, c],
        [b, a, c],
        [a[::-1], b, c],
        [a, np.append(b, 9), c],
        [a, b[:1], c],
        [a, b, c[:0]],
        [a, b[:, None], c],
        [a, b.tolist(), c],
        [],
        a,
    ):
        with pytest.raises(ValueError, match="damaged or was changed"):
            BPClassifier().__setstate__({**state, "classes_": wrong})
    with pytest.raises(ValueError, match="damaged or was changed"):
        BPClassifier().__setstate__({**state, "_multilabel": True})


def test_inspection_and_features_take_columns_of_labels():
    model = classifier(precision="float32").fit(X, MIXED)
    flow = backpropagate(model, X, MIXED)
    assert flow.delta[-1].shape == (150, 7)
    p = np.hstack(model.predict_proba(X))
    np.testing.assert_allclose(flow.a[-1], p, atol=1e-6)
    for start, end in ((0, 3), (3, 5), (5, 7)):  # softmax - one_hot
        sums = flow.delta[-1][:, start:end].sum(axis=1)
        np.testing.assert_allclose(sums, 0, atol=1e-6)
    assert check_gradient(model, X, MIXED).agrees
    assert model.hidden_activations(X).shape == (150, 8)
    assert NetworkFeatures(classifier()).fit(X, MIXED).transform(X).shape == (150, 8)
    assert model.initialize(X, MIXED).n_outputs_ == 7


def test_pipelines_and_searches_take_columns_of_labels():
    pipe = make_pipeline(StandardScaler(), classifier())
    assert pipe.fit(X, MIXED).score(X, MIXED) > 0.7
    folds = KFold(3, shuffle=True, random_state=0)
    search = GridSearchCV(classifier(), {"alpha": [1e-4, 1.0]}, cv=folds)
    assert search.fit(X, NUMBERS).best_score_ > 0.5

    def first_column(estimator, X, y):
        return (estimator.predict(X)[:, 0] == y[:, 0]).mean()

    search = GridSearchCV(
        classifier(), {"alpha": [1e-4, 1e3]}, scoring=first_column, cv=folds
    )
    assert search.fit(X, NUMBERS).best_params_ == {"alpha": 1e-4}


def test_a_diagnosis_compares_with_the_best_constants_of_all_columns():
    for loss in ("log_loss", "squared_error"):
        model = classifier(loss=loss, max_iter=2).fit(X, MIXED)
        constant = 0
        for column in MIXED.T:
            p = np.unique(column.astype(str), return_counts=True)[1] / 150
            if loss == "log_loss":
                constant -= (p * np.log(p)).sum()
            else:
                constant += (p * (1 - p)).sum() / 2
        assert np.isclose(model._fit_summary.constant_cost, constant)
    flat = classifier(max_iter=2, solver="sgd", learning_rate_init=1e-6)
    flat.fit(X, MIXED)
    assert not flat.diagnose().healthy
    alone = classifier(max_iter=2).fit(X, Y[:, [1, 1]])
    assert alone._fit_summary.constant_cost == 0 and alone.score(X, Y[:, [1, 1]]) == 1


def test_probabilities_too_small_for_the_type_are_ordered_in_every_column():
    model = classifier(max_iter=100).fit(X, NUMBERS)
    for p, log_p in zip(
        model.predict_proba(1e5 * X), model.predict_log_proba(1e5 * X), strict=True
    ):
        assert (p > 0).all() and np.isfinite(log_p).all()
        if p.shape[1] > 1:
            assert (p < 1).all()
            assert (p.argsort(axis=1) == log_p.argsort(axis=1)).all()
