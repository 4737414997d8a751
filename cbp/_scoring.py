"""The rows that a fit holds out: a validation set of the user's own, and his scorer.

Scores that the engine knows (accuracy, R2, the loss) are computed in _training.pyx, and
which rows early stopping splits off is decided in _split.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cbp._catalog import n_answers
from cbp._fitted import Weights
from cbp._validation import Checked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cbp._network import Network
    from cbp._progress import Progress

# The loss is no scorer of scikit-learn's: it is known to the engine.
LOSS = "loss"


class Given(NamedTuple):
    """A validation set as users pass it to `fit`."""

    X: Any = None
    y: Any = None
    sample_weight: Any = None

    @property
    def is_there(self) -> bool:
        """Whether there is one; half of one is refused."""
        if self.X is None and self.y is None:
            if self.sample_weight is not None:
                raise ValueError("sample_weight_val needs X_val and y_val.")
            return False
        if self.X is None or self.y is None:
            missing = "X_val" if self.X is None else "y_val"
            raise ValueError(
                f"A validation set needs X_val and y_val; {missing} is missing."
            )
        return True


@contextmanager
def named() -> Iterator[None]:
    """Errors say that they speak of the validation set."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(f"In the validation set: {error}") from error


def demand_scoring(scoring: Any) -> None:
    """Refuse the name of no scorer."""
    if not isinstance(scoring, str) or scoring == LOSS:
        return
    from sklearn.metrics import get_scorer_names  # takes a while

    if scoring not in get_scorer_names():
        names = ", ".join(map(repr, get_scorer_names()))
        raise ValueError(
            f"scoring must be None, {LOSS!r}, a callable, or the name of a scorer "
            f"({names}), got {scoring!r}."
        )


def settings_name(est: Any) -> str:
    """The engine's name for what `scoring` asks for."""
    scoring = est.scoring
    if scoring is None and est._engine_scores():
        return "accuracy_or_r2"
    return "loss" if isinstance(scoring, str) and scoring == LOSS else "told"


def _demand_plain_answers(scoring: Any, network: Network) -> None:
    """Refuse a scorer of scikit-learn's for answers that none of them was made for."""
    if not isinstance(scoring, str):
        return
    if network.groups:
        what = "several columns of labels"
    elif (n_answers(network.loss_parameters) or 1) > 1:
        what = "several quantiles"
    else:
        return
    raise ValueError(
        f"scoring={scoring!r} is a scorer of scikit-learn's, which cannot score "
        f"{what}. Valid are None, {LOSS!r} or a callable, scorer(estimator, X, y)."
    )


def make_scorer(
    est: Any, network: Network, theta: NDArray, data: Checked, rows: NDArray
) -> Callable[[Progress], float]:
    """The score of held-out rows by a scorer of scikit-learn's or of the user's.

    Parameters
    ----------
    est : BPClassifier or BPRegressor
        With the labels and the columns of the fit.
    network : Network
    theta : ndarray of shape (n_params,)
        Changed by the fit: a score is that of its present values.
    data : Checked
    rows : int64 ndarray
        Those of data that are held out.
    """
    from sklearn.metrics import check_scoring

    _demand_plain_answers(est.scoring, network)
    scorer = check_scoring(est, scoring=est.scoring)
    # Rows come without the names of columns.
    names = ("feature_names_in_", "coefs_", "intercepts_")
    weights = Weights(network, theta)
    model = est._with(
        est._fitted.changed(drop=names, _network=network, _weights=weights)
    )
    X, y = data.X[rows], data.y[rows]
    more = {}
    if data.weight is not None:
        more["sample_weight"] = data.weight[rows].astype(np.float64) * data.unit

    def score(progress: Progress) -> float:
        value = scorer(model, X, y, **more)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"scoring={est.scoring!r} must return a number, got {value!r}."
            ) from None

    return score
