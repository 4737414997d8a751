"""Settings that must be made before scikit-learn is imported, and shared fixtures.

So the fixtures import what they need themselves.
"""

import os
import signal

import pytest

# SciPy reads this at its first import. Without it scikit-learn skips its estimator
# checks of array API input, and a skipped check proves nothing.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

# A shell's background jobs ignore Ctrl-C; tests of interrupts would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def errors_of_a_look_are_seen(monkeypatch):
    """A fit survives what goes wrong while it is looked at; a test should not."""
    from cbp import _look

    monkeypatch.setattr(_look, "GUARDED", False)


@pytest.fixture(scope="module")
def moons():
    from sklearn.datasets import make_moons

    return make_moons(300, noise=0.2, random_state=0)


@pytest.fixture(scope="module")
def deep(moons):
    """A network of sigmoid layers that learns nothing."""
    from fits import fitted

    from cbp import BPClassifier

    return fitted(BPClassifier((12,) * 5, "logistic", random_state=0), *moons)
