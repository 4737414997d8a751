"""What a fit recorded of its gradients, and what follows from the records alone.

`GradientFlow` holds the records of a fit, `FailedFlow` those of one that diverged.
Nothing is recorded here (see _recorder.pyx), nothing drawn (see plotting.py) and
nothing judged (see diagnosis.py). Layers are counted from 1 to L, the output layer, and
the equations are those of docs/backpropagation.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

# FailedFlow holds one, and earlier pickles look for the class here.
from cbp._fit_summary import FitSummary

if TYPE_CHECKING:
    import pandas as pd

_RECORDS = ("gradient", "delta", "back", "weight", "update")
_RECORDS += ("saturated", "stuck", "floored", "nonfinite")


@dataclass(frozen=True, eq=False)
class GradientFlow:
    """The records of one fit: what watched batches showed, averaged over an epoch.

    With the solver 'lbfgs' iterations 0, 1, 2, 4, 8 and then every eighth are recorded,
    over all rows. Root mean squares are taken over all entries of a matrix.

    Parameters
    ----------
    epoch : ndarray of shape (n_records,)
        The epochs, counted from 0; short epochs are recorded only now and then.
    gradient : ndarray of shape (n_records, n_layers)
        Root mean square of dW, the gradient of the mean cost without its penalty.
    delta : ndarray of shape (n_records, n_layers)
        Root mean square of delta, the error of one row times its sample weight.
    back : ndarray of shape (n_records, n_layers)
        Root mean square of delta^{l+1} W^{l+1}T, which is delta^l before the factor
        f'(z^l); 0 in the output layer.
    weight : ndarray of shape (n_records, n_layers)
        Root mean square of W.
    update : ndarray of shape (n_records, n_layers)
        Root mean square of the change of W in one step.
    saturated : ndarray of shape (n_records, n_layers)
        Share of units times rows with f' below 1 % of its maximum; for relu the share
        of zeros. 0 in the output layer.
    stuck : ndarray of shape (n_records, n_layers)
        Share of units that are so in every row of a batch; for relu dead units.
    floored : ndarray of shape (n_records, n_layers)
        Share of weights whose step Adam's epsilon shortens to less than half, because
        the root of its second moment is smaller than epsilon; 0 with other solvers.
    nonfinite : ndarray of shape (n_records, n_layers)
        Number of watched batches with a number that is not finite.
    layer_sizes : tuple of int
        Units of all layers, the inputs first.
    activations : tuple of str
        Activations of the hidden layers.
    """

    epoch: NDArray[np.int64]
    gradient: NDArray[np.float32]
    delta: NDArray[np.float32]
    back: NDArray[np.float32]
    weight: NDArray[np.float32]
    update: NDArray[np.float32]
    saturated: NDArray[np.float32]
    stuck: NDArray[np.float32]
    floored: NDArray[np.float32]
    nonfinite: NDArray[np.float32]
    layer_sizes: tuple[int, ...]
    activations: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = (len(self.epoch), self.n_layers)
        for name in _RECORDS:
            if np.shape(getattr(self, name)) != shape:
                raise ValueError(
                    f"{name} has shape {np.shape(getattr(self, name))}, but there are "
                    f"{shape[0]} records of {shape[1]} layers. Use the records of one "
                    "fit as they are, all of them."
                )
        if len(self.activations) != self.n_layers - 1:
            raise ValueError(
                f"{len(self.activations)} activations for {self.n_layers - 1} hidden "
                "layers."
            )

    @property
    def n_layers(self) -> int:
        """Number L of layers with weights."""
        return len(self.layer_sizes) - 1

    @property
    def gain(self) -> NDArray:
        """delta^l / delta^{l+1}, shape (n_records, n_layers - 1)."""
        return ratio(self.delta[:, :-1], self.delta[:, 1:])

    @property
    def gain_weights(self) -> NDArray:
        """The part of `gain` that is due to the weights W^{l+1}."""
        return ratio(self.back[:, :-1], self.delta[:, 1:])

    @property
    def gain_activation(self) -> NDArray:
        """The part of `gain` that is due to the activation's derivative f'(z^l)."""
        return ratio(self.delta[:, :-1], self.back[:, :-1])

    @property
    def relative_error(self) -> NDArray:
        """Length of delta^l over that of delta^L, shape (n_records, n_layers).

        The length of a row of delta is its root mean square times the root of the
        layer's width: so a wide layer, which shares the error among more units, is not
        taken for one that loses it.
        """
        length = self.delta * np.sqrt(self.layer_sizes[1:])
        return ratio(length, length[:, -1:])

    @property
    def update_ratio(self) -> NDArray:
        """Update over weights of one step, shape (n_records, n_layers)."""
        return ratio(self.update, self.weight)

    def to_frame(self) -> pd.DataFrame:
        """The records as a data frame with a row for each epoch and layer.

        Returns
        -------
        pandas.DataFrame
            Columns epoch, layer (from 1), and one per record.

        Raises
        ------
        ImportError
            Without pandas.
        """
        pd = import_pandas()
        n_records = len(self.epoch)
        columns = {
            "epoch": np.repeat(self.epoch, self.n_layers),
            "layer": np.tile(np.arange(1, self.n_layers + 1), n_records),
        }
        columns |= {name: np.ravel(getattr(self, name)) for name in _RECORDS}
        return pd.DataFrame(columns)


@dataclass(frozen=True, eq=False)
class FailedFlow(GradientFlow):
    """The records of a fit that diverged, with what a fitted model has beside them.

    Parameters
    ----------
    loss_curve : tuple of float
        The cost of every finished epoch since the weights were drawn.
    summary : FitSummary
    n_iter : int, default=None
        Epochs or iterations that the call finished. None means all of `loss_curve`,
        less what it has in common with that of a model to go on from.
    """

    loss_curve: tuple[float, ...] = ()
    summary: FitSummary | None = None
    n_iter: int | None = None

    @classmethod
    def unrecorded(
        cls, layer_sizes: tuple[int, ...], activations: tuple[str, ...]
    ) -> FailedFlow:
        """What there is of a fit with ``monitor=False``: nothing but its network."""
        nothing = np.zeros((0, len(layer_sizes) - 1), np.float32)
        return cls(
            epoch=np.zeros(0, np.int64),
            **dict.fromkeys(_RECORDS, nothing),
            layer_sizes=layer_sizes,
            activations=activations,
        )


def ratio(a: NDArray, b: NDArray) -> NDArray:
    """a / b without warnings: infinite or NaN where b is 0."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return a / b


def import_pandas():
    """pandas, imported on first use."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "to_frame needs pandas. Install it with: pip install pandas"
        ) from error
    return pandas


def __getattr__(name: str) -> Any:
    """What moved to diagnosis.py, for earlier pickles and programs that name it here.

    Imported on first use, because diagnosis.py imports this module.
    """
    if name in ("Diagnosis", "Finding", "diagnose"):
        from cbp import diagnosis

        return getattr(diagnosis, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
