"""What one call of partial_fit keeps for the next: checked layers, settings, buffers.

On few rows all of that takes longer than training. It is used again only if the next
call would make the same: that is compared here, and whatever else a call needs is never
taken from here. Weights, optimizer and data are the call's own.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cbp._batch import fit_bytes
from cbp._parameters import n_threads
from cbp._training import Trainer

if TYPE_CHECKING:
    from cbp._validation import Checked

# Bytes that are kept, at most: they are not free between calls. One row of 64-100-10
# takes 0.67 times as long if its buffers are kept, of 256-256-10 0.77 times.
_MOST_BYTES = 1 << 22


class Kept(NamedTuple):
    """A trainer that has let go of its data, and what it was made of."""

    trainer: Trainer
    layers: tuple[list[int], list[str]]
    parameters: list  # as the estimator holds those that it has checked
    n_rows: int

    def fits(self, est: Any, data: Checked) -> bool:
        """Whether a new trainer would be the same but for its data."""
        network, settings = self.trainer.network, self.trainer.settings
        return (
            network is est._fitted.get("_network")
            and type(data.X) is np.ndarray
            and data.X.dtype == network.dtype
            and data.X.shape == (self.n_rows, network.layer_sizes[0])
            and data.unit == 1
            and data.n_outputs == network.n_outputs
            and est._output_activation(data.n_outputs) == network.output
            # joblib's context may have changed.
            and (
                self.trainer.most_threads == 1
                or n_threads(est.n_jobs) == settings.n_threads
            )
        )


def take(est: Any) -> Kept | None:
    """What the last call has kept, if parameters are unchanged.

    Copies of a model share it, in any number of threads. The first that takes it has it
    alone; for all others nothing is kept.
    """
    try:
        kept = est._fitted.get("_kept", []).pop()
    except IndexError:
        return None
    # The list of checked parameters is made anew when one of them changes.
    return kept if kept.parameters is est._checked_parameters else None


def keep(est: Any, trainer: Trainer, layers: tuple, data: Checked) -> list[Kept]:
    """What a call leaves for the next one; an empty list if nothing is worth it."""
    n_rows = data.X.shape[0]
    network, settings = trainer.network, trainer.settings
    batch = min(settings.batch_size, n_rows)
    # Of a user's class nobody knows which parameters are checked. Sequences other than
    # tuples may change without notice.
    fixed = (
        type(est).__module__ == "cbp.estimators"
        and isinstance(est.hidden_layer_sizes, Integral | tuple)
        and isinstance(est.activation, str | tuple)
        and isinstance(getattr(est, "quantile", 0.5), Real | tuple)
        and isinstance(est.dropout, Real | tuple)
    )
    if not fixed or type(data.X) is not np.ndarray or data.unit != 1:
        return []
    if settings.alpha > 1:  # what a step bears of it depends on the weights
        return []
    drops = bool(settings.dropout)
    n_bytes = fit_bytes(network, batch, settings.solver, drops=drops)
    if n_bytes + 8 * n_rows > _MOST_BYTES:
        return []
    trainer.let_go()
    return [Kept(trainer, layers, est._checked_parameters, n_rows)]
