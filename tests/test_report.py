"""The page of a diagnosis: what is on it, that it is whole, and that it is escaped."""

import base64
import html.parser
import pickle
import re
import sys
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning

from cbp import BPClassifier, BPRegressor
from cbp.diagnosis import Diagnosis, Finding

X, y = load_iris(return_X_y=True)
NASTY = "<script>alert('x')</script> & \"quoted\""


def fit(estimator=BPClassifier, layers=(8, 8), rows=(X, y), held_out=None, **options):
    options = {"max_iter": 15, "random_state": 0} | options
    model = estimator(hidden_layer_sizes=layers, **options)
    given = {} if held_out is None else dict(X_val=held_out[0], y_val=held_out[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(*rows, **given)


def diverged():
    model = BPClassifier((8, 8), solver="sgd", learning_rate_init=1e30)
    with pytest.raises(ValueError, match="diverged"):
        model.fit(X, y)
    return model


class Tags(html.parser.HTMLParser):
    """The tags of a page; an error if they are not closed in order."""

    EMPTY = {"meta", "img", "br", "link"}

    def __init__(self, page):
        super().__init__()
        self.seen, self.open = [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def images(page):
    return [
        base64.b64decode(text, validate=True)
        for text in re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    ]


FITS = {
    "labels": lambda: fit(),
    "a regression": lambda: fit(BPRegressor),
    "no hidden layer": lambda: fit(layers=()),
    "one epoch": lambda: fit(max_iter=1),
    "early stopping": lambda: fit(early_stopping=True),
    "held-out rows": lambda: fit(held_out=(X[::3], y[::3])),
    "L-BFGS": lambda: fit(solver="lbfgs"),
    "diverged": diverged,
    "several labels": lambda: fit(rows=(X, np.c_[y, y > 0])),
    "thirty layers": lambda: fit(layers=(4,) * 30, activation="logistic"),
    "equal targets": lambda: fit(BPRegressor, rows=(X, np.ones(150))),
}


@pytest.mark.parametrize("name", FITS)
def test_a_page_is_whole_and_loads_nothing(name):
    pytest.importorskip("matplotlib")
    model = FITS[name]()
    diagnosis = model.diagnose()
    page = diagnosis.to_html()
    tags = Tags(page).seen
    assert page.startswith("<!DOCTYPE html>") and '<meta charset="utf-8">' in page
    names = {tag for tag, _ in tags}
    assert not names & {"script", "link", "iframe", "object", "base", "form"}
    addresses = [a[key] for _, a in tags for key in ("src", "href") if key in a]
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert "url(" not in page and "@import" not in page and "http" not in page
    assert not any(key.startswith("on") for _, a in tags for key in a)
    assert all(a["alt"] for tag, a in tags if tag == "img")
    assert len(images(page)) == len(addresses) >= (1 if name == "diverged" else 2)
    assert all(image.startswith(b"\x89PNG") for image in images(page))


def test_a_page_has_verdict_findings_parameters_and_data():
    model = fit(activation="logistic", layers=(8,) * 6, learning_rate_init=0.002)
    diagnosis = model.diagnose()
    text = re.sub(
        r"\s+", " ", html.unescape(re.sub("<[^>]*>", " ", diagnosis.to_html()))
    )
    assert diagnosis.verdict in text
    for finding in diagnosis.findings:
        assert finding.code in text and finding.message in text
        assert finding.advice in text
    assert text.count("Try this first:") == 1
    for name, value in model.get_params().items():
        assert f"{name} {value!r}" in text
    assert (
        "rows trained on 150" in text and "layers 4 - 8 - 8 - 8 - 8 - 8 - 8 - 3" in text
    )
    changed = diagnosis.record.changed
    assert {"activation", "learning_rate_init", "max_iter"} < set(changed)
    assert "alpha" not in changed


def test_everything_on_a_page_is_escaped():
    model = fit()
    record = model.diagnose().record
    dirty = {name: NASTY for name in ("score_name", "score", "unit", "estimator")}
    dirty["changed"] = ()
    record = type(record)(
        **vars(record) | dirty | {"parameters": {NASTY: NASTY}, "data": {NASTY: NASTY}}
    )
    finding = Finding(NASTY, 1, NASTY, {}, NASTY)
    for one in (record, None):
        diagnosis = Diagnosis(NASTY, (finding,), one)
        for page in (diagnosis.to_html(), diagnosis._repr_html_()):
            Tags(page)
            assert "<script" not in page and "alert('x')" not in page
            assert "&lt;script&gt;" in page


def test_a_notebook_shows_what_the_page_has():
    diagnosis = fit().diagnose()
    page, cell = diagnosis.to_html(), diagnosis._repr_html_()
    assert cell in page
    assert "<html" not in cell and "<body" not in cell


def test_a_page_is_written_to_a_file_as_it_is_returned(tmp_path):
    diagnosis = fit().diagnose()
    for path in (tmp_path / "a.html", str(tmp_path / "b.html")):
        assert diagnosis.to_html(path) is None
        with open(path, encoding="utf-8") as file:
            assert file.read() == diagnosis.to_html()


@pytest.mark.thread_unsafe(reason="replaces modules of the process")
def test_without_matplotlib_the_page_says_what_to_install(monkeypatch):
    diagnosis = fit().diagnose()
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = diagnosis.to_html()
    assert "cbp-learn[plot]" in page and not images(page)
    assert "hidden_layer_sizes" in page


@pytest.mark.thread_unsafe(reason="counts the figures of the process")
def test_no_figure_stays_behind():
    plt = pytest.importorskip("matplotlib.pyplot")
    before = plt.get_fignums()
    fit().diagnose().to_html()
    assert plt.get_fignums() == before


def test_the_record_of_a_fit_changes_neither_equality_nor_hash_nor_repr():
    diagnosis = fit().diagnose()
    bare = Diagnosis(diagnosis.verdict, diagnosis.findings)
    assert bare == diagnosis and hash(bare) == hash(diagnosis)
    assert repr(bare) == repr(diagnosis) and str(bare) == str(diagnosis)


def test_a_diagnosis_can_be_pickled_and_an_old_one_has_a_page_without_pictures():
    diagnosis = fit().diagnose()
    copy = pickle.loads(pickle.dumps(diagnosis))
    assert copy == diagnosis and copy.to_html() == diagnosis.to_html()
    old = Diagnosis.__new__(Diagnosis)
    old.__dict__.update(verdict="It learns.", findings=())
    old = pickle.loads(pickle.dumps(old))
    assert old == Diagnosis("It learns.")
    page = old.to_html()
    assert "It learns." in page and not images(page) and "<table>" not in page


def test_the_page_of_a_diagnosis_is_the_same_each_time():
    pytest.importorskip("matplotlib")
    assert fit().diagnose().to_html() == fit().diagnose().to_html()


def test_a_record_takes_curves_of_its_own_fit_only():
    model = fit(warm_start=True, max_iter=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y)
    record = model.diagnose().record
    assert list(record.loss_curve) == model.loss_curve_[-5:]
    # What diverged has no held-out rows of an earlier fit.
    model = fit(early_stopping=True)
    model.set_params(solver="sgd", learning_rate_init=1e30, early_stopping=False)
    with pytest.raises(ValueError, match="diverged"):
        model.fit(X, y)
    record = model.diagnose().record
    assert record.validation_scores is None and record.validation_loss_curve is None


def test_what_scores_are_called_follows_from_scoring():
    options = {"early_stopping": True}
    for scoring, name in [
        (None, "validation accuracy"),
        ("loss", "minus validation loss"),
        ("balanced_accuracy", "validation balanced_accuracy"),
    ]:
        assert fit(scoring=scoring, **options).diagnose().record.score_name == name
    assert fit(BPRegressor).diagnose().record.score_name == "validation R²"
