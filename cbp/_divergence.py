"""Why training diverged and what may help, in one message: the error, or a warning.

With early stopping there are weights to go back to, and a warning is enough. What the
records of such a fit say is `diagnose`'s business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from cbp._catalog import LOSSES, is_regressors
from cbp._solvers import SOLVERS

if TYPE_CHECKING:
    from cbp._network import Network
    from cbp.gradient_flow import FailedFlow


class DivergenceError(ValueError):
    """Training diverged; `flow` has the records of it, which `diagnose` explains."""

    # Where users import it from, and where pickles look for it.
    __module__ = "cbp.estimators"

    def __init__(self, message: str, flow: FailedFlow):
        super().__init__(message)
        self.flow = flow

    def __reduce__(self) -> tuple:  # joblib's workers send it to their parent
        return type(self), (*self.args, self.flow)


def message_of_divergence(
    est: Any, network: Network, X: Any, target: Any, weight: Any, unit: float, n: int
) -> str:
    """What happened in epoch or iteration number n, its cause if known, and cures."""
    solver = SOLVERS[est.solver]
    problem, cures = _problem(est, network, X, target, weight, unit)
    settings = f"solver={str(est.solver)!r}"
    if not solver.chooses_its_steps:
        settings += f", learning_rate_init={est.learning_rate_init!r}"
        rate = est.learning_rate_init
        below = f"below {rate!r}" if rate <= 1 else "such as the default, 0.001"
        cures.insert(1, f"a learning_rate_init {below}")
        if rate * est.alpha > 1:  # the penalty alone overshoots from 2 on
            cures.insert(2, f"an alpha below {est.alpha!r}")
    return (
        "Solver produced non-finite parameter weights. The input data may contain "
        "large values and need to be preprocessed. Training diverged in "
        f"{solver.epoch} {n} with {settings}.{problem} Likely cures: "
        f"{', '.join(cures)}."
    )


def _problem(
    est: Any, network: Network, X: Any, target: Any, weight: Any, unit: float
) -> tuple[str, list[str]]:
    """What in the data may have made training diverge: a sentence, and cures."""
    entries = X.data if sparse.issparse(X) else X
    if not np.isfinite(entries).all():  # only where checks were turned off
        return " X holds NaN or infinity.", ["finite inputs"]
    problem, cures = "", ["inputs scaled by StandardScaler"]
    numbers = is_regressors(network.output, network.loss)
    loss = LOSSES[network.output, network.loss]
    largest = float(np.abs(target).max()) if target.dtype.kind == "f" else 0.0
    limits = np.finfo(X.dtype)
    if loss.squared and largest > 2.0 ** (limits.maxexp // 2 - 12):
        problem += (
            f" The targets reach {largest:.0e}; the squares of such errors, or "
            f"their sums, overflow {limits.dtype}."
        )
    if numbers:
        cures.append(
            "targets scaled to unit variance"
            if loss.unit_targets
            else "targets divided by their mean"
        )
    if weight is not None:
        mean = float(weight.mean()) * unit
        if mean < 0.1 and est.alpha > 0:
            problem += (
                f" The mean sample_weight is {mean:.0e}; the penalty alpha is "
                "divided by the sum of a batch's weights, and so is large."
            )
        cures.append("sample_weight with a mean of 1")
    return problem, cures
