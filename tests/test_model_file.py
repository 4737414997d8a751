"""Model files: what is saved is loaded with the same bits, and nothing else is."""

import copy
import errno
import hashlib
import json
import os
import pickle
import stat
import struct
import sys
import warnings

import numpy as np
import pytest
from child import run_python
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import cbp
from cbp import (
    BPClassifier,
    BPRegressor,
    ModelFileError,
    NetworkFeatures,
    _records,
    _whole_file,
    load,
    save,
)
from cbp._catalog import ACTIVATIONS, LOSSES
from cbp._safetensors import MOST_HEADER, pack
from cbp.gradient_flow import FailedFlow, GradientFlow
from cbp.model_file import ESTIMATORS, loads

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

rng = np.random.RandomState(0)
X = rng.randint(-24, 25, (40, 3)) / 16
CODES = rng.randint(0, 3, 40)
NUMBERS = X @ [1.0, -2.0, 1.0] + 8
SEVERAL = np.column_stack(
    [np.array(["a", "b", "c"])[CODES], (CODES > 0).astype(object)]
)
COMMON = {"max_iter": 3, "random_state": 0}


def fitted(model, y=CODES, X=X, **options):
    return model.set_params(**COMMON | options).fit(X, y)


def classifier(y=CODES, **options):
    return fitted(BPClassifier((4, 3)), y, **options)


def regressor(y=NUMBERS, **options):
    return fitted(BPRegressor(hidden_layer_sizes=4), y, **options)


def again(model, tmp_path, **options):
    """The model saved and loaded."""
    save(model, tmp_path / "model.cbp", **options)
    return load(tmp_path / "model.cbp")


def demand_same(model, twin, X=X):
    """They have the same attributes and predict the same bits."""
    assert type(twin) is type(model)
    a, b = model.predict(X), twin.predict(X)
    if sparse.issparse(a):
        a, b = a.toarray(), b.toarray()
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
    assert twin._theta.dtype == model._theta.dtype
    assert twin._theta.tobytes() == model._theta.tobytes()
    if isinstance(model, BPClassifier):
        for a, b in zip(*map(listed, (model.classes_, twin.classes_)), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        np.testing.assert_equal(model.predict_proba(X), twin.predict_proba(X))
    for name in ("loss_", "loss_curve_", "n_iter_", "t_", "validation_scores_"):
        np.testing.assert_equal(getattr(twin, name), getattr(model, name))


def listed(classes):
    return classes if isinstance(classes, list) else [classes]


# -------------------------------------------------------------------- all that is kept


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("output, loss", [k for k in LOSSES if "focal" not in k[1]])
def test_every_loss_and_type_is_kept(output, loss, dtype, tmp_path):
    if output == "softmax":
        model = classifier(precision=dtype)
    elif output == "logistic":
        model = classifier(CODES > 0, precision=dtype, loss=loss)
    else:
        model = regressor(precision=dtype, loss=loss)
    assert model._network.output == output and model._network.loss == loss
    demand_same(model, again(model, tmp_path))


@pytest.mark.parametrize(
    "make",
    [
        lambda: classifier(label_smoothing=0.1, focal_gamma=2),
        lambda: classifier(CODES > 0, focal_gamma=2.5),
        lambda: regressor(loss="huber", huber_delta=0.3),
        lambda: regressor(loss="quantile", quantile=(0.1, 0.5, 0.9)),
        lambda: regressor(loss="quantile", quantile=[0.25]),
        lambda: regressor(loss="tweedie", power=1.2),
        lambda: regressor(X),
        lambda: classifier(np.zeros(40, int)),
        lambda: classifier(hidden_layer_sizes=()),
        lambda: regressor(solver="lbfgs", max_iter=20),
    ],
)
def test_every_kind_of_output_is_kept(make, tmp_path):
    model = make()
    demand_same(model, again(model, tmp_path))


def test_every_activation_is_kept(tmp_path):
    names = [*ACTIVATIONS, "sigmoid", "swish"]
    model = classifier(hidden_layer_sizes=(2,) * len(names), activation=names)
    twin = again(model, tmp_path)
    demand_same(model, twin)
    assert twin.activation == names


LABELS = {
    **{
        dtype: CODES.astype(dtype)
        for dtype in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
    },
    "uint64": np.array([0, 2**63, 2**64 - 1], "uint64")[CODES],
    **{dtype: CODES.astype(dtype) - 1 for dtype in ("float16", "float32", "float64")},
    "bool": CODES > 0,
    "str": np.array(["", "low", "высоко \U0001f600"])[CODES],
    "objects": np.array(["a", "b", "cc"], object)[CODES],
    "surrogates": np.array(["a", "\ud800", "\udcff"])[CODES],
    "wide": np.array(["a", "b", "c"], "U50")[CODES],
    "days": CODES.astype("datetime64[D]"),
    "several": SEVERAL,
    "several numbers": np.column_stack([CODES, CODES % 2 + 5]),
    "multilabel": np.eye(3, dtype=int)[CODES],
    "sparse": sparse.csr_matrix(np.eye(3, dtype=int)[CODES]),
}


@pytest.mark.parametrize("labels", LABELS)
def test_every_type_of_labels_is_kept(labels, tmp_path):
    model = classifier(LABELS[labels])
    demand_same(model, again(model, tmp_path))


@pytest.mark.parametrize("kind", [str, bytes])
def test_labels_that_are_objects_are_kept(kind, tmp_path):
    """scikit-learn makes arrays of strings of them, but some versions did not."""
    model = classifier(CODES)
    model.classes_ = np.array([kind(c) if kind is str else c for c in b"abc"], object)
    if kind is bytes:
        model.classes_ = np.array([b"a", b"b\0", b"\xff"], object)
    twin = again(model, tmp_path)
    assert twin.classes_.dtype == object
    assert twin.classes_.tolist() == model.classes_.tolist()


def test_labels_of_no_type_that_files_know_are_refused(tmp_path):
    model = classifier(CODES.astype(np.longdouble))
    if model.classes_.dtype == np.float64:
        pytest.skip("longdouble is float64 here")
    with pytest.raises(TypeError, match="float128|longdouble"):
        save(model, tmp_path / "model.cbp")
    assert not os.listdir(tmp_path)


def test_names_of_columns_are_kept(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=["length", "größe", "\u4e2d, [x]"])
    for model in (classifier(X=frame), regressor(X=frame)):
        twin = again(model, tmp_path)
        demand_same(model, twin, frame)
        assert twin.feature_names_in_.dtype == object
        assert twin.feature_names_in_.tolist() == model.feature_names_in_.tolist()


OTHER = {
    "hidden_layer_sizes": np.array([4, 3]),
    "activation": ["tanh", "swish"],
    "loss": "quantile",
    "solver": "sgd",
    "alpha": np.float32(0.1),
    "batch_size": 7,
    "learning_rate": "invscaling",
    "learning_rate_init": 0.02,
    "power_t": 0.1,
    "max_iter": np.int64(4),
    "shuffle": False,
    "random_state": np.random.RandomState(3),
    "tol": 1e-300,
    "verbose": 0,
    "warm_start": np.True_,
    "momentum": 1,
    "nesterovs_momentum": False,
    "early_stopping": True,
    "validation_fraction": 1 / 3,
    "beta_1": 0.5,
    "beta_2": 0.6,
    "epsilon": 5e-324,
    "n_iter_no_change": np.inf,
    "max_fun": 10**30,
    "n_jobs": -1,
    "precision": "float32",
    "monitor": False,
    "scoring": "r2",
    "weight_decay": 0.01,
    "max_grad_norm": 2.5,
    "warmup": 0.5,
    "average": 0.9,
    "init": "he",
    "dropout": [0.1, 0.2],
    "input_dropout": 0.25,
    "huber_delta": 1.5,
    "quantile": [0.25, 0.5],
    "power": 1.75,
    "class_weight": {0: 1, 1: 2.5, 2: np.float64(0.5)},
    "label_smoothing": 0.1,
    "focal_gamma": 1.0,
}


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_every_parameter_is_kept(kind, tmp_path):
    model = classifier() if kind == "BPClassifier" else regressor()
    assert model.get_params().keys() <= OTHER.keys(), "give the new ones in OTHER"
    for name in model.get_params():
        other = copy.deepcopy(model)
        value = (
            "squared_error" if name == "loss" and kind != "BPRegressor" else OTHER[name]
        )
        other.set_params(**{name: value})
        held = again(other, tmp_path).get_params()[name]
        if name == "random_state":
            assert held.randn(700).tolist() == copy.deepcopy(value).randn(700).tolist()
        else:
            np.testing.assert_equal(held, value)
            assert isinstance(held, list | dict | np.ndarray) == isinstance(
                value, list | dict | np.ndarray
            )


@pytest.mark.parametrize(
    "weight", ["balanced", {"a": 2, "b": 0.5}, {b"x": 1, True: 2, None: 3, 2.5: 1}]
)
def test_weights_of_classes_of_any_type_are_kept(weight, tmp_path):
    model = classifier().set_params(class_weight=weight)
    assert again(model, tmp_path).class_weight == weight
    model.set_params(class_weight=[{0: 1}, {"a": 2}])
    assert again(model, tmp_path).class_weight == [{0: 1}, {"a": 2}]


def test_a_generator_in_the_middle_of_its_numbers_goes_on(tmp_path):
    generator = np.random.RandomState(0)
    model = classifier(random_state=generator)
    generator.randn()  # one of a pair is left over
    twin = again(model, tmp_path)
    assert twin.random_state.randn(5).tolist() == generator.randn(5).tolist()


@pytest.mark.parametrize("name", ["learning_rate", "scoring"])
def test_a_function_is_refused_by_name_and_the_message_helps(name, tmp_path):
    model = classifier().set_params(**{name: lambda *given: 1.0})
    with pytest.raises(TypeError, match=f"{name} is a function"):
        save(model, tmp_path / "model.cbp")
    assert not os.listdir(tmp_path)


def test_what_training_recorded_is_kept_and_says_the_same(tmp_path):
    for model in (classifier(early_stopping=True), regressor(max_iter=30)):
        twin = again(model, tmp_path)
        assert str(twin.diagnose()) == str(model.diagnose())
        for field in _records.fields_of(GradientFlow):
            np.testing.assert_array_equal(
                getattr(twin.gradient_flow_, field),
                getattr(model.gradient_flow_, field),
            )
        np.testing.assert_equal(
            *[_records.to_plain(each._fit_summary) for each in (twin, model)]
        )
        assert twin.validation_loss_curve_ == model.validation_loss_curve_


def test_a_model_whose_last_fit_diverged_keeps_both(tmp_path):
    model = regressor(solver="sgd", activation="identity")
    with pytest.raises(cbp.estimators.DivergenceError):
        model.set_params(learning_rate_init=1e3, max_iter=50).fit(X, NUMBERS)
    twin = again(model, tmp_path)
    demand_same(model, twin)
    assert type(twin._failed_flow) is FailedFlow
    assert str(twin.diagnose()) == str(model.diagnose())


def test_records_may_be_left_out(tmp_path):
    model = classifier(early_stopping=True)
    twin = again(model, tmp_path, records=False)
    np.testing.assert_array_equal(twin.predict_proba(X), model.predict_proba(X))
    assert twin.loss_curve_ == [] and twin.validation_scores_ is None
    assert not hasattr(twin, "gradient_flow_")
    assert twin.best_validation_score_ == model.best_validation_score_


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("make", [classifier, regressor])
def test_the_optimizer_is_kept_on_request_and_goes_on(make, solver, tmp_path):
    model = make(solver=solver)
    y = CODES if make is classifier else NUMBERS
    model.partial_fit(X, y)
    assert again(model, tmp_path)._optimizer is None
    twin = again(model, tmp_path, optimizer=True)
    for _ in range(3):
        np.testing.assert_array_equal(
            model.partial_fit(X, y)._theta, twin.partial_fit(X, y)._theta
        )


def test_an_optimizer_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no optimizer's state.*optimizer=False"):
        save(regressor(solver="lbfgs"), tmp_path / "model.cbp", optimizer=True)


def test_a_model_with_weights_replaced_by_hand_is_saved_as_it_predicts(tmp_path):
    model = classifier()
    model.coefs_[0] = np.ones((3, 4))
    model.intercepts_[1][0] = 5
    demand_same(model, again(model, tmp_path))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("make", [classifier, regressor])
def test_features_of_a_network_are_kept(make, frozen, tmp_path):
    network = (
        make(max_iter=np.int64(3), class_weight={0: 2})
        if (make is classifier)
        else make()
    )
    y = CODES if make is classifier else NUMBERS
    given = FrozenEstimator(network) if frozen else clone(network)
    model = NetworkFeatures(given, layer=0).fit(X, y)
    for mode in (None, "r"):
        save(model, tmp_path / "features.cbp")
        twin = load(tmp_path / "features.cbp", mode)
        assert type(twin) is NetworkFeatures and twin.layer == 0
        np.testing.assert_array_equal(twin.transform(X), model.transform(X))
        assert twin.n_features_in_ == 3
        assert list(twin.get_feature_names_out()) == list(model.get_feature_names_out())
        assert type(twin.estimator) is type(given)
        inner = twin.estimator.estimator if frozen else twin.estimator
        assert inner.get_params() == network.get_params()
        np.testing.assert_array_equal(
            twin.fit(X, y).transform(X), model.fit(X, y).transform(X)
        )
    metadata, table, data = split(content_of(model, tmp_path))
    config = json.loads(metadata["config"])
    for wrong in (
        1,
        {},
        {**config["features"], "layer": 9},
        {**config["features"], "layer": [1]},
        {**config["features"], "frozen": 1},
        {**config["features"], "parameters": {"x": 1}, "frozen": False},
    ):
        metadata["config"] = json.dumps({**config, "features": wrong})
        with pytest.raises(ModelFileError):
            loads(joined(metadata, table, data))


@pytest.mark.parametrize(
    "model, error, says",
    [
        (BPClassifier(), NotFittedError, "not fitted"),
        (NetworkFeatures(BPClassifier()), NotFittedError, "not fitted"),
        (LogisticRegression(), TypeError, "BPClassifier or a BPRegressor"),
        (make_pipeline(BPClassifier()), TypeError, "got Pipeline. Save it whole"),
        (BPClassifier, TypeError, "got ABCMeta|got type"),
        ("model", TypeError, "got str"),
        (None, TypeError, "got NoneType"),
    ],
    ids=lambda x: str(x)[:20],
)
def test_what_is_no_fitted_model_is_refused(model, error, says, tmp_path):
    with pytest.raises(error, match=says):
        save(model, tmp_path / "model.cbp")
    assert not os.listdir(tmp_path)


class Own(BPClassifier):
    pass


def test_a_class_of_a_user_is_refused(tmp_path):
    with pytest.raises(TypeError, match="got Own"):
        save(fitted(Own(3)), tmp_path / "model.cbp")


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    for change, says in [
        ({"alpha": -1}, "'alpha' parameter"),
        ({"max_iter": 10**400}, "too large"),
        ({"hidden_layer_sizes": list(range(40000))}, "40000|parts"),
        ({"random_state": np.random.RandomState(np.random.PCG64(0))}, "PCG64"),
        ({"class_weight": {np.datetime64("2020-01-01"): 1}}, "datetime64"),
    ]:
        with pytest.raises((ValueError, TypeError), match=says):
            save(classifier().set_params(**change), tmp_path / "model.cbp")
    model = classifier()
    model.coefs_[0][0, 0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        save(model, tmp_path / "model.cbp")
    assert not os.listdir(tmp_path)


# --------------------------------------------------------------- written whole or not


def test_a_file_is_replaced_in_one_step_and_has_the_usual_permissions(tmp_path):
    path, model = tmp_path / "model.cbp", classifier()
    save(model, path)
    before = os.stat(path)
    with open(tmp_path / "plain", "w"):
        pass
    assert before.st_mode == os.stat(tmp_path / "plain").st_mode
    with open(path, "rb") as reader:
        save(regressor(), str(path))
        assert loads(reader.read()).classes_.tolist() == [0, 1, 2]
    assert isinstance(load(path), BPRegressor)
    assert sorted(os.listdir(tmp_path)) == ["model.cbp", "plain"]


STEPS = ["open", "write", "short", "fsync", "replace"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_an_error_of_the_disk_at_any_step_leaves_the_old_file(
    step, error, tmp_path, monkeypatch
):
    path, model = tmp_path / "model.cbp", classifier()
    save(model, path)
    before = path.read_bytes()

    def fail(*given):
        raise OSError(error, os.strerror(error))

    class Disk:
        """A file on a disk that is full at once, or after some bytes."""

        def __init__(self, file):
            self.file, self.left = file, 2000 if step == "short" else 0

        def __enter__(self):
            return self

        def __exit__(self, *given):
            self.file.close()

        def fileno(self):
            return self.file.fileno()

        def write(self, part):
            n = min(self.left, len(part), 700)
            self.left -= n
            return self.file.write(part[:n]) if n else fail()

    if step in ("write", "short"):
        real = open
        monkeypatch.setattr(
            _whole_file, "open", lambda *a, **k: Disk(real(*a, **k)), raising=False
        )
    else:
        monkeypatch.setattr(_whole_file.os, step, fail)
    with pytest.raises(OSError) as caught:
        save(regressor(), path)
    monkeypatch.undo()
    assert caught.value.errno == error
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.cbp"]


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.cbp"
    save(classifier(), path)
    before = path.read_bytes()

    def interrupt(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(_whole_file.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(regressor(), path)
    monkeypatch.undo()
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.cbp"]


@pytest.mark.skipif(
    not hasattr(os, "O_DIRECTORY"), reason="folders are not synced here"
)
def test_the_folder_is_synced_last_and_its_error_is_told(tmp_path, monkeypatch):
    path, synced, real = tmp_path / "model.cbp", [], os.fsync

    def fsync(handle):
        synced.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        if len(synced) == 4:
            raise OSError(errno.EIO, "broken")
        if len(synced) == 6:
            raise OSError(errno.EINVAL, "not known here")
        real(handle)

    monkeypatch.setattr(_whole_file.os, "fsync", fsync)
    save(classifier(), path)
    with pytest.raises(OSError, match="broken"):
        save(regressor(), path)
    assert synced == [False, True] * 2
    assert isinstance(load(path), BPRegressor) and os.listdir(tmp_path) == ["model.cbp"]
    save(classifier(), path)


def test_folders_and_missing_folders_are_errors_of_the_system(tmp_path):
    model = classifier()
    with pytest.raises(OSError):
        save(model, tmp_path)
    with pytest.raises(OSError):
        load(tmp_path)
    with pytest.raises(FileNotFoundError):
        save(model, tmp_path / "no" / "model.cbp")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.cbp")
    assert not os.listdir(tmp_path)


def test_a_path_may_be_text_bytes_or_a_path(tmp_path):
    model = classifier()
    for path in (str(tmp_path / "a"), os.fsencode(tmp_path / "b"), tmp_path / "c"):
        save(model, path)
        demand_same(model, load(path))
    for path in (3, None):
        with pytest.raises(TypeError):
            save(model, path)
        with pytest.raises(TypeError):
            load(path)
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_no_model_file_and_nobody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="it is no file"):
        load(tmp_path / "pipe")


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    os.symlink(tmp_path / "there" / "model.cbp", tmp_path / "link.cbp")
    save(classifier(), tmp_path / "link.cbp")
    assert os.path.islink(tmp_path / "link.cbp")
    assert os.listdir(tmp_path / "there") == ["model.cbp"]
    assert isinstance(load(tmp_path / "link.cbp"), BPClassifier)


# ------------------------------------------------------------------------------ mapped


def test_a_mapped_model_predicts_the_same_and_is_read_only(tmp_path):
    path, model = tmp_path / "model.cbp", classifier()
    save(model, path)
    twin = load(path, mmap_mode="r")
    demand_same(model, twin)
    assert not twin.coefs_[0].flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        twin.coefs_[0][0, 0] = 1
    twin.partial_fit(X, CODES)  # goes on with weights of its own
    assert twin.coefs_[0].flags.writeable
    demand_same(model, load(path, mmap_mode="r"))
    demand_same(model, pickle.loads(pickle.dumps(load(path, mmap_mode="r"))))
    with pytest.raises(ValueError, match="mmap_mode must be None or 'r', got 'w'"):
        load(path, mmap_mode="w")


def test_the_data_of_a_mapped_file_are_not_read(tmp_path):
    """Neither its hash nor weights that are not finite are seen, only the header's."""
    path = tmp_path / "model.cbp"
    save(classifier(), path)
    content = bytearray(path.read_bytes())
    n = 8 + struct.unpack("<Q", content[:8])[0]
    content[n : n + 8] = struct.pack("<d", np.nan)
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="its data do not have"):
        load(path)
    with pytest.raises(ValueError):
        load(path, mmap_mode="r").predict(X)
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        load(path, mmap_mode="r")


def test_weights_lie_at_multiples_of_64_bytes_in_the_file(tmp_path):
    path = tmp_path / "model.cbp"
    for dtype in ("float32", "float64"):
        save(classifier(precision=dtype), path)
        n = struct.unpack("<Q", path.read_bytes()[:8])[0]
        assert (8 + n) % 64 == 0
        assert (
            load(path, "r")._theta.ctypes.data % (4 if dtype == "float32" else 8) == 0
        )


# ---------------------------------------------------------------------- what is refused


def content_of(model, tmp_path, **options):
    save(model, tmp_path / "of.cbp", **options)
    return (tmp_path / "of.cbp").read_bytes()


def split(content):
    n = struct.unpack("<Q", content[:8])[0]
    table = json.loads(content[8 : 8 + n])
    return table.pop("__metadata__"), table, content[8 + n :]


def joined(metadata, table, data, text=bytes, align=64):
    """A file with hashes that are right again; `text` changes the header."""
    metadata = dict(metadata)
    metadata["data_blake2b"] = hashlib.blake2b(data, digest_size=32).hexdigest()
    metadata["header_blake2b"] = zeros = "0" * 64
    header = text(json.dumps({"__metadata__": metadata, **table}).encode())
    header += b" " * (-(8 + len(header)) % align)
    right = hashlib.blake2b(header, digest_size=32).hexdigest()
    header = header.replace(zeros.encode(), right.encode(), 1)
    return struct.pack("<Q", len(header)) + header + data


def test_the_parts_of_a_file_may_be_put_together_again(tmp_path):
    content = content_of(classifier(), tmp_path)
    demand_same(classifier(), loads(joined(*split(content))))
    with pytest.raises(ModelFileError, match="multiple of 64"):
        loads(joined(*split(content), text=lambda header: header + b" ", align=1))


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path):
    content = content_of(regressor(monitor=False), tmp_path)
    path = tmp_path / "cut.cbp"
    for n in [*range(0, 90), *range(90, len(content), 53), len(content) - 1]:
        with pytest.raises(ModelFileError):
            loads(content[:n])
        path.write_bytes(content[:n])
        for mode in (None, "r"):
            with pytest.raises(ModelFileError, match=r"cut\.cbp"):
                load(path, mode)
    with pytest.raises(ModelFileError, match="bytes after its tensors"):
        loads(content + b"\0")


def test_any_bit_that_is_wrong_is_noticed(tmp_path):
    content = content_of(regressor(monitor=False), tmp_path)
    for i in range(0, 8 * len(content), 97):
        changed = bytearray(content)
        changed[i // 8] ^= 1 << i % 8
        with pytest.raises(ModelFileError):
            loads(bytes(changed))


def of_table(table, name="coefs.0", **fields):
    return {**table, name: {**table[name], **fields}}


HEADERS = {
    "no tensors": lambda t: {},
    "a tensor less": lambda t: {k: v for k, v in t.items() if k != "coefs.1"},
    "a tensor twice": lambda t: t | {"coefs.1": t["coefs.0"]},
    "overlapping": lambda t: of_table(t, "coefs.1", data_offsets=[0, 96]),
    "a hole": lambda t: of_table(t, "coefs.0", data_offsets=[8, 104]),
    "beyond the end": lambda t: of_table(t, data_offsets=[0, 2**40]),
    "backwards": lambda t: of_table(t, data_offsets=[96, 0]),
    "negative": lambda t: of_table(t, data_offsets=[-96, 0]),
    "huge": lambda t: of_table(t, shape=[2**40, 2**40]),
    "overflowing": lambda t: of_table(t, shape=[2**32, 2**32, 0]),
    "other shape": lambda t: of_table(t, shape=[4, 3]),
    "a float": lambda t: of_table(t, shape=[3.0, 4]),
    "a bool": lambda t: of_table(t, shape=[True, 12]),
    "no shape": lambda t: of_table(t, shape=[]),
    "other type": lambda t: of_table(t, dtype="I64"),
    "unknown type": lambda t: of_table(t, dtype="F8_E4M3"),
    "no text": lambda t: of_table(t, dtype=8),
    "a key more": lambda t: of_table(t, more=1),
    "no dict": lambda t: t | {"coefs.0": [1]},
    "a tensor more": lambda t: (
        t | {"x": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}
    ),
    "nested": lambda t: t | {"x": json.loads("[" * 90 + "]" * 90)},
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_table_of_tensors_that_is_wrong_is_refused(name, tmp_path):
    metadata, table, data = split(content_of(classifier(), tmp_path))
    path = tmp_path / "wrong.cbp"
    for content in (data, b""):
        path.write_bytes(joined(metadata, HEADERS[name](table), content))
        with pytest.raises(ModelFileError):
            loads(path.read_bytes())
        for mode in (None, "r"):
            with pytest.raises(ModelFileError):
                load(path, mode)


TEXTS = {
    "a key twice": lambda h: h[:-1] + b',"coefs.0":1}',
    "the metadata twice": lambda h: b'{"__metadata__":{},' + h[1:],
    "NaN": lambda h: h[:-1] + b',"x":NaN}',
    "a minus": lambda h: h.replace(b"[0, ", b"[-0, ", 1),
    "no end": lambda h: h[:-1],
    "a second object": lambda h: h + b"{}",
    "a list": lambda h: b"[" + h + b"]",
    "a mark of byte order": lambda h: b"\xef\xbb\xbf" + h,
    "no ASCII": lambda h: h.replace(b"BPClass", "BPCläss".encode(), 1),
    "no UTF-8": lambda h: h.replace(b"coefs.0", b"coefs\xff0", 1),
    "half a character": lambda h: h.replace(b"coefs.0", b"\\ud80000", 1),
    "deep": lambda h: h[:-1] + b',"x":' + b"[" * 50000 + b"]" * 50000 + b"}",
    "long numbers": lambda h: h[:-1] + b',"x":' + b"9" * 5000 + b"}",
    "zeros at the end": lambda h: h + b"\0" * 8,
    "many parts": lambda h: h[:-1] + b',"x":[' + b"0," * 70000 + b"0]}",
    "too long": lambda h: h + b" " * MOST_HEADER,
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_header_that_is_no_strict_json_is_refused(name, tmp_path):
    parts = split(content_of(classifier(), tmp_path))
    with pytest.raises(ModelFileError):
        loads(joined(*parts, text=TEXTS[name]))


@pytest.mark.parametrize("n", [0, 1, 7, 2**20 + 1, 2**31, 2**63, 2**64 - 1])
def test_a_header_of_a_wrong_length_is_refused(n, tmp_path):
    content = content_of(classifier(), tmp_path)
    with pytest.raises(ModelFileError):
        loads(struct.pack("<Q", n) + content[8:])


def test_a_newer_format_is_a_clear_error(tmp_path):
    metadata, table, data = split(content_of(classifier(), tmp_path))
    metadata |= {"format_version": "2", "cbp_version": "9.1.0"}
    (tmp_path / "new.cbp").write_bytes(joined(metadata, table, data))
    says = r"new\.cbp.*newer version of cbp \(9\.1\.0\), in format 2.*Update cbp"
    with pytest.raises(ModelFileError, match=says):
        load(tmp_path / "new.cbp")
    for version in ("0", "-1", "1.0", "", "x" * 9, "01"):
        with pytest.raises(ModelFileError, match="format version"):
            loads(joined(metadata | {"format_version": version}, table, data))


def test_other_files_of_safetensors_and_other_kinds_are_refused(tmp_path):
    metadata, table, data = split(content_of(classifier(), tmp_path))
    with pytest.raises(ModelFileError, match="not of cbp"):
        loads(joined(metadata | {"format": "pt"}, table, data))
    with pytest.raises(ModelFileError, match="no model, but 'checkpoint'"):
        loads(joined(metadata | {"kind": "checkpoint"}, table, data))
    with pytest.raises(ModelFileError, match="metadata"):
        loads(joined(metadata | {"more": 1}, table, data))
    demand_same(classifier(), loads(joined(metadata | {"more": "text"}, table, data)))
    for content in (b"", b"\x80\x04", pickle.dumps(classifier()), b"PK\3\4" * 99):
        with pytest.raises(ModelFileError):
            loads(content)


def changed(value, path, new):
    """A copy of nested dicts and lists with another value at a place."""
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = changed(value[path[0]], path[1:], new)
    return value


CONFIGS = {
    ("estimator",): ["os.system", "sklearn.svm.SVC", "BPRegressor", None, ["a"], 1],
    ("parameters", "alpha"): [-1, "x", None, [1], {"float": "nan"}, {"tuple": 3}],
    ("parameters", "loss"): ["hinge", 3, {"array": "coefs.0"}],
    ("parameters", "random_state"): [
        "x",
        {"generator": {}},
        {"generator": {"key": [1], "pos": 1, "has_gauss": 0, "gauss": 0.0}},
    ],
    ("parameters", "learning_rate"): ["os.system", {"function": "os.system"}],
    ("parameters", "class_weight"): [{"dict": [[[], 1]]}, {"dict": [[1, 1], [1, 2]]}],
    ("network", "layer_sizes"): [
        None,
        [3, 4, 3, 3],
        {"tuple": []},
        {"tuple": [3, 4, 3]},
        {"tuple": [3, 4, 3, 2]},
        {"tuple": [3, 4, True, 3]},
        {"tuple": [3, 4, 3, 2**80]},
    ],
    ("network", "activations"): [{"tuple": ["relu", "os"]}, {"tuple": []}, "relu"],
    ("network", "output"): ["exp", "logistic", None],
    ("network", "loss"): ["squared_error", "poisson", []],
    ("network", "loss_parameters"): [{"tuple": [1.0]}, [], 3, {"tuple": [[1]]}],
    ("state", "classes_"): [
        None,
        [],
        {"array": "coefs.0"},
        {"array": "none"},
        {"text": ["U", 3, "classes_"]},
        {"text": ["U", 2**31 - 1, "classes_"]},
    ],
    ("state", "n_features_in_"): [0, 4, "3"],
    ("state", "loss_curve_"): [[["x"]], "abc", {"floats": "coefs.0"}, 3],
    ("state", "gradient_flow_"): [
        5,
        {"record": "subprocess.Popen", "fields": {}},
        {"record": "FitSummary", "fields": {}},
    ],
    ("state", "gradient_flow_", "fields", "layer_sizes"): [3, {"tuple": [1, 2]}],
    ("state", "gradient_flow_", "fields", "delta"): [None, {"array": "coefs.0"}],
    ("state", "_fit_summary", "fields", "n_rows"): ["x", None, 1.5],
    ("state", "_multilabel"): [True, 0, None],
    ("state", "best_loss_"): ["x", [1.0]],
}


@pytest.mark.parametrize("path", CONFIGS, ids=".".join)
def test_a_description_in_which_one_thing_is_wrong_is_refused(path, tmp_path):
    metadata, table, data = split(content_of(classifier(), tmp_path))
    config = json.loads(metadata["config"])
    for new in CONFIGS[path]:
        metadata["config"] = json.dumps(changed(config, path, new))
        with pytest.raises(ModelFileError):
            loads(joined(metadata, table, data))
            pytest.fail(f"accepted: {path} {new}")


@pytest.mark.parametrize(
    "name",
    ["_network", "_weights", "_theta", "coefs_", "_kept", "predict", "__class__"],
)
def test_a_file_sets_no_attribute_but_those_it_may(name, tmp_path):
    metadata, table, data = split(content_of(classifier(), tmp_path))
    config = json.loads(metadata["config"])
    config["state"][name] = 1
    metadata["config"] = json.dumps(config)
    with pytest.raises(ModelFileError, match="not known here"):
        loads(joined(metadata, table, data))


def test_a_parameter_of_a_newer_version_is_a_clear_error_and_a_missing_one_default(
    tmp_path,
):
    metadata, table, data = split(content_of(classifier(), tmp_path))
    config = json.loads(metadata["config"])
    config["parameters"]["polish"] = 3
    metadata["config"] = json.dumps(config)
    with pytest.raises(ModelFileError, match="'polish'.*Update cbp"):
        loads(joined(metadata, table, data))
    del config["parameters"]["polish"], config["parameters"]["max_iter"]
    metadata["config"] = json.dumps(config)
    assert loads(joined(metadata, table, data)).max_iter == 200


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    metadata, table, data = split(content_of(classifier(), tmp_path))
    data = struct.pack("<d", value) + data[8:]
    with pytest.raises(ModelFileError, match="not finite"):
        loads(joined(metadata, table, data))


def test_bytes_that_are_no_bool_are_refused(tmp_path):
    model = classifier(CODES > 0)
    metadata, table, data = split(content_of(model, tmp_path))
    start, end = table["classes_"]["data_offsets"]
    assert data[start:end] == b"\0\1"
    with pytest.raises(ModelFileError, match="0 and 1"):
        loads(joined(metadata, table, data[:start] + b"\0\2" + data[end:]))


def test_a_file_of_few_bytes_cannot_ask_for_much_memory(tmp_path):
    """A width of strings, a shape, a header: nothing is made before it is checked."""
    import tracemalloc

    model = classifier(LABELS["str"])
    metadata, table, data = split(content_of(model, tmp_path))
    config = json.loads(metadata["config"])
    config["state"]["classes_"]["text"][1] = 2**30
    metadata["config"] = json.dumps(config)
    parts = [json.dumps(config).replace("0.0001", "[" + "[]," * 9000 + "1]", 1)]
    files = [joined(metadata, table, data)]
    files += [joined(metadata | {"config": part}, table, data) for part in parts]
    files += [joined(metadata, HEADERS["huge"](table), data)]
    files += [
        joined(metadata, table, data, text=TEXTS[name])[:MOST_HEADER]
        for name in ("many parts", "deep", "too long")
    ]
    for content in files:
        tracemalloc.start()
        with pytest.raises(ModelFileError):
            loads(content)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 2 * len(content) + 2**24


# ------------------------------------------------------------- beside the reference


def test_safetensors_reads_the_file(tmp_path):
    safetensors = pytest.importorskip("safetensors")
    path, model = tmp_path / "model.cbp", classifier(LABELS["str"], precision="float32")
    save(model, path)
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata()["format"] == "cbp"
        for i, (W, b) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
            np.testing.assert_array_equal(file.get_tensor(f"coefs.{i}"), W)
            np.testing.assert_array_equal(file.get_tensor(f"intercepts.{i}"), b)


@pytest.mark.parametrize("names, is_text", [(HEADERS, False), (TEXTS, True)])
def test_what_safetensors_refuses_is_refused(names, is_text, tmp_path):
    """Their errors are a subset of ours, which the two tests above show for these."""
    safetensors = pytest.importorskip("safetensors")
    parts = split(content_of(classifier(), tmp_path))
    theirs = 0
    for name in names:
        if is_text:
            content = joined(*parts, text=names[name])
        else:
            content = joined(parts[0], names[name](parts[1]), parts[2])
        try:
            safetensors.deserialize(content)
        except safetensors.SafetensorError:
            theirs += 1
    assert theirs > len(names) / 3


def test_tensors_that_we_write_and_they_write_are_read_by_both():
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    from cbp._safetensors import DTYPES

    given = {f"x.{name}": np.ones((3, 2), dtype) for name, dtype in DTYPES.items()}
    given["empty"] = np.empty((0, 4), np.float32)
    header, data = pack({"format": "x"}, given)
    for name, array in safetensors_numpy.load(header + data.tobytes()).items():
        np.testing.assert_array_equal(array, given[name])
        assert array.dtype == given[name].dtype and array.shape == given[name].shape


# ------------------------------------------------------------------------- in programs


def test_the_package_imports_none_of_it_before_it_is_used():
    lines = (
        "import sys, cbp",
        "late = ['cbp.model_file', 'cbp._from_weights', 'cbp._model_config']",
        "assert not [name for name in late if name in sys.modules]",
        "assert {'save', 'load', 'from_weights', 'ModelFileError'} <= set(dir(cbp))",
        "cbp.load; assert 'cbp.model_file' in sys.modules",
    )
    run_python("\n".join(lines))


def test_a_model_file_error_is_a_value_error():
    assert issubclass(ModelFileError, ValueError)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no such files")
def test_a_file_of_another_kind_is_refused_and_permissions_stay(tmp_path):
    model = BPClassifier(2, max_iter=2, random_state=0)
    with warnings.catch_warnings(action="ignore"):
        model.fit([[0.0], [1.0]], [0, 1])
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for write in cbp.save, cbp.to_c:
        with pytest.raises(OSError, match="a regular file"):
            write(model, pipe)
        assert stat.S_ISFIFO(os.stat(pipe).st_mode)
        path = tmp_path / write.__name__
        write(model, path)
        os.chmod(path, 0o600)
        write(model, path)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
