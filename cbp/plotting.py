"""Pictures of a fit, in the style of scikit-learn's Display classes.

GradientFlowDisplay draws what the fit recorded of its gradients, LossCurveDisplay what it
gained by them, ActivationDisplay what the units do on given rows. What the records mean
is said in gradient_flow.py. The only module that knows matplotlib, and only from the
first picture on: importing this module does not import it. Layers are counted from 1,
epochs from 0 as in `gradient_flow_.epoch`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import is_classifier, is_regressor
from sklearn.utils.validation import check_is_fitted, validate_data

from cbp.gradient_flow import GradientFlow

if TYPE_CHECKING:
    from typing import Self

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Floats = NDArray[np.floating[Any]]

# One scale for all pictures, so that any two compare: a millionth to a million times the
# output layer's gradient. The colours go from blue by grey to yellow, for colour-blind
# readers, and brighten all the way: printed in grey, vanishing (dark) and exploding
# (bright) stay apart, which they would not on a map with a white middle.
DECADES = 6
GRADIENT_COLORS = "cividis"
SHARE_COLORS = "Blues"

# Okabe and Ito's colours for colour-blind readers; printed in grey, dashes tell apart.
LINE_COLORS = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]
LINE_STYLES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (9, 3))]

# Update/weight per batch. The rule of thumb is 1/1000; a decade to each side.
HEALTHY_RATIOS = (1e-4, 1e-2)
RATIO_RANGE = (1e-7, 1.0)

# Largest derivative of each activation, and the derivative as a function of a.
DERIVATIVES = {
    "identity": (1.0, np.ones_like),
    "logistic": (0.25, lambda a: a * (1 - a)),
    "tanh": (1.0, lambda a: 1 - a * a),
    "relu": (1.0, lambda a: (a > 0).astype(a.dtype)),
}
ACTIVATIONS = {
    "identity": lambda z: z,
    "logistic": expit,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
}


def _pyplot():
    """matplotlib.pyplot, imported on first use."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'Pictures need matplotlib. Install it with: pip install "cbp-learn[plot]"'
        ) from error
    return plt


def _check_estimator(estimator, needs: str = "coefs_") -> None:
    """Refuse what is not a fitted network of this package, and say what to pass."""
    name = type(estimator).__name__
    if hasattr(estimator, "steps"):
        raise TypeError(f"Got a {name}: pass its last step, for example pipeline[-1].")
    if hasattr(estimator, "best_estimator_"):
        raise TypeError(f"Got a {name}: pass its best_estimator_.")
    if isinstance(estimator, type) or not hasattr(estimator, "fit"):
        what = estimator.__name__ if isinstance(estimator, type) else name
        raise TypeError(
            f"estimator must be a fitted BPClassifier or BPRegressor, got {what}."
        )
    check_is_fitted(estimator)
    if not hasattr(estimator, needs):
        raise TypeError(
            f"estimator must be a fitted BPClassifier or BPRegressor; this {name} has "
            f"no {needs}."
        )


def _check_fits(fits) -> None:
    if not isinstance(fits, Mapping) or not fits:
        raise TypeError(
            "fits must be a dictionary of names and fitted estimators, for example "
            "{'sigmoid': a, 'relu': b}."
        )


def _flow_of(fit) -> GradientFlow:
    """The records of an estimator's last fit, a failed one included, or of a flow."""
    if isinstance(fit, GradientFlow):
        flow = fit
    else:
        flow = getattr(fit, "_failed_flow", None)
        if flow is None:
            _check_estimator(fit)
            flow = getattr(fit, "gradient_flow_", None)
        if flow is None:
            raise ValueError(
                f"This {type(fit).__name__} has no gradient_flow_: it was fitted with "
                "monitor=False. Set monitor=True and fit it again."
            )
    if len(flow.epoch) == 0:
        raise ValueError("This gradient flow has no records: nothing was trained.")
    return flow


def _split(ax: Axes, ratios: Sequence[float], rows: bool = False) -> list[Axes]:
    """New axes beside ax (or below it), all in the room that ax had for itself."""
    figure, spec = ax.figure, ax.get_subplotspec()
    shape = (len(ratios), 1) if rows else (1, len(ratios))
    options = {"height_ratios" if rows else "width_ratios": ratios}
    if spec is not None:
        grid = spec.subgridspec(*shape, **options)
    else:
        box = ax.get_position()
        options.update(left=box.x0, right=box.x1, bottom=box.y0, top=box.y1)
        grid = figure.add_gridspec(*shape, **options)
    ax.set_subplotspec(grid[0])
    return [figure.add_subplot(cell) for cell in list(grid)[1:]]


def _set_title(ax: Axes, name: str | None, text: str | None, width: float) -> None:
    """A title over ax and what stands beside it, wrapped to `width` pixels."""
    title = ": ".join(part for part in (name, text) if part)
    points = width / ax.figure.dpi * 72
    # Half a font size is the mean width of a letter.
    wrapped = textwrap.fill(title, max(int(points / (0.5 * 10)), 20))
    ax.set_title(wrapped, loc="left", fontsize=10)


def _set_layers(ax: Axes, n_layers: int, output: bool) -> None:
    """Layers upwards, a tick for each where there is room."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, n_layers) if n_layers / s <= 12)
    last = n_layers if output else None
    ticks = [1, *range(step, n_layers + 1, step)] if step > 1 else range(1, n_layers + 1)
    if output:
        ticks = [t for t in ticks if t == 1 or n_layers - t >= step / 2] + [n_layers]
    ticks = sorted(set(ticks))
    ax.set_yticks(ticks, ["output" if t == last else str(t) for t in ticks])
    ax.set_ylim(0.5, n_layers + 0.5)
    ax.set_ylabel("layer")


def _edges(epoch) -> Floats:
    """Borders of the records' cells: half way between two records."""
    middle = (epoch[1:] + epoch[:-1]) / 2
    return np.concatenate([[epoch[0] - 0.5], middle, [epoch[-1] + 0.5]])


class GradientFlowDisplay:
    """Map of the gradients of a fit: epoch by layer, beside the output layer's.

    Each cell is log10 of the RMS gradient of a layer's weights, relative to the output
    layer's at that epoch: 0 (grey) is as large, -3 (dark blue) a thousandth, 3 (yellow)
    a thousand times as large. Colours stand for the same numbers in every picture.
    Hatched cells held a number that is not finite; blank ones have no gradient at all,
    the output layer's included. Beside the map stands update/weight of every layer: the
    median over the records (dot), least to greatest (line), the healthy band (grey);
    an arrow lies beyond the axis.

    Parameters
    ----------
    flow : GradientFlow
        Records of a fit.
    verdict : str, default=None
        Sentence for the title.
    name : str, default=None
        Name of the fit, put before the verdict.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The map.
    update_ax_ : matplotlib Axes or None
        The update/weight ratios.
    figure_ : matplotlib Figure
        The figure that holds both.
    mesh_ : matplotlib QuadMesh
        The cells.
    colorbar_ : matplotlib Colorbar or None
        The scale.

    See Also
    --------
    LossCurveDisplay : What the fit gained.
    ActivationDisplay : What the units do on given rows.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cbp import BPClassifier
    >>> from cbp.plotting import GradientFlowDisplay
    >>> model = BPClassifier([10] * 4, activation="sigmoid", max_iter=20)
    >>> model.fit(*load_iris(return_X_y=True))  # doctest: +SKIP
    >>> GradientFlowDisplay.from_estimator(model)  # doctest: +SKIP
    """

    ax_: Axes
    figure_: Figure

    def __init__(
        self,
        *,
        flow: GradientFlow,
        verdict: str | None = None,
        name: str | None = None,
    ) -> None:
        self.flow = flow
        self.verdict = verdict
        self.name = name

    @classmethod
    def from_estimator(
        cls, estimator, *, name: str | None = None, ax: Axes | None = None, **kwargs
    ) -> Self:
        """Draw the records of an estimator's last fit, also of one that diverged.

        Parameters
        ----------
        estimator : BPClassifier or BPRegressor
            Fitted with ``monitor=True``. Its `diagnose` gives the title.
        name : str, default=None
            Name of the fit, put before the verdict.
        ax : matplotlib Axes, default=None
            Where to draw; the room is shared with what stands beside the map. None
            makes a new figure.
        **kwargs
            Passed on to `plot`.

        Returns
        -------
        display : GradientFlowDisplay

        Raises
        ------
        ValueError
            If the fit was not monitored.
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it is no network of this package.
        """
        return cls._of(estimator, name).plot(ax=ax, **kwargs)

    @classmethod
    def from_flow(
        cls,
        flow: GradientFlow,
        *,
        verdict: str | None = None,
        name: str | None = None,
        ax: Axes | None = None,
        **kwargs,
    ) -> Self:
        """Draw records that are at hand, without their estimator.

        Parameters
        ----------
        flow : GradientFlow
            For example `gradient_flow_` of a fitted estimator.
        verdict : str, default=None
            Sentence for the title.
        name : str, default=None
            Name of the fit, put before the verdict.
        ax : matplotlib Axes, default=None
            As in `from_estimator`.
        **kwargs
            Passed on to `plot`.

        Returns
        -------
        display : GradientFlowDisplay

        Raises
        ------
        TypeError
            If `flow` is no GradientFlow.
        """
        if not isinstance(flow, GradientFlow):
            raise TypeError(
                f"flow must be a GradientFlow, got {type(flow).__name__}. For an "
                "estimator use from_estimator, or pass its gradient_flow_."
            )
        return cls(flow=_flow_of(flow), verdict=verdict, name=name).plot(ax=ax, **kwargs)

    @classmethod
    def compare(cls, fits: Mapping[str, Any], **kwargs) -> list[Self]:
        """Draw several fits side by side on one scale.

        Parameters
        ----------
        fits : dict of str to estimator or GradientFlow
            The fits and their names, for example ``{"sigmoid": a, "relu": b}``.
        **kwargs
            Passed on to `plot`.

        Returns
        -------
        displays : list of GradientFlowDisplay
            One per fit, all in the same `figure_`.

        Raises
        ------
        TypeError, ValueError, NotFittedError
            As `from_estimator`.
        """
        _check_fits(fits)
        plt = _pyplot()
        displays = [cls._of(fit, name) for name, fit in fits.items()]
        columns = min(len(displays), 3)
        rows = -(-len(displays) // columns)
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(4.4 * columns + 0.8, 3.9 * rows),
            layout="constrained",
            squeeze=False,
        )
        for ax in axes.flat[len(displays) :]:
            ax.remove()
        for display, ax in zip(displays, axes.flat, strict=False):
            display.plot(ax=ax, colorbar=False, **kwargs)
        everywhere = [ax for ax in figure.axes]
        displays[-1]._add_colorbar(ax=everywhere)
        return displays

    @classmethod
    def _of(cls, fit, name: str | None) -> Self:
        flow, verdict = _flow_of(fit), None
        if hasattr(fit, "diagnose"):
            verdict = fit.diagnose().verdict
        return cls(flow=flow, verdict=verdict, name=name)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        update_ratio: bool = True,
        colorbar: bool = True,
        **kwargs,
    ) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; the room is shared with what stands beside the map. None
            makes a new figure.
        update_ratio : bool, default=True
            Whether to draw update/weight beside the map.
        colorbar : bool, default=True
            Whether to draw the scale.
        **kwargs
            Passed on to matplotlib's `pcolormesh`. Other limits than the default
            ``vmin=-6, vmax=6`` make a picture that does not compare with others.

        Returns
        -------
        self : GradientFlowDisplay
        """
        plt = _pyplot()
        if ax is None:
            _, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
        width = ax.get_window_extent().width
        self.ax_, self.figure_ = ax, ax.figure
        self.update_ax_ = self.colorbar_ = None
        if update_ratio:
            (self.update_ax_,) = _split(ax, [4, 1.3])
        self._draw_map(kwargs)
        _set_layers(ax, self.flow.n_layers, output=True)
        if update_ratio:
            self._draw_update_ratio(self.update_ax_)
        if colorbar:
            self._add_colorbar(ax=self.update_ax_ or ax)
        _set_title(ax, self.name, self.verdict, width)
        return self

    def _draw_map(self, kwargs) -> None:
        flow, ax = self.flow, self.ax_
        gradient, output = flow.gradient, flow.gradient[:, -1:]
        with np.errstate(divide="ignore", invalid="ignore"):
            decades = np.log10(gradient) - np.log10(output)
        # A gradient of zero is beyond every scale, but it has a colour.
        decades = np.clip(decades, -99, 99)
        not_finite = ~np.isfinite(gradient + output) | (flow.nonfinite > 0)
        borders = _edges(flow.epoch), np.arange(flow.n_layers + 1) + 0.5
        options = {"cmap": GRADIENT_COLORS, **kwargs}
        if "norm" not in kwargs:
            options = {"vmin": -DECADES, "vmax": DECADES, **options}
        cells = np.ma.masked_where(not_finite | np.isnan(decades), decades)
        self.mesh_ = ax.pcolormesh(*borders, cells.T, **options)
        if not_finite.any():
            self._hatch(borders, not_finite)
        ax.set_xlabel("epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)

    def _hatch(self, borders, not_finite) -> None:
        hatched = np.ma.masked_where(~not_finite, np.ones(not_finite.shape))
        self.ax_.pcolor(
            *borders,
            hatched.T,
            cmap="Greys",
            vmin=1,
            vmax=2,
            hatch="////",
            edgecolor="black",
            linewidth=0,
        )
        first = int(not_finite.any(axis=1).argmax())
        late = first > len(not_finite) / 2
        self.ax_.annotate(
            f"not finite from epoch {self.flow.epoch[first]}",
            (borders[0][first], 0.5),
            xytext=(-8 if late else 8, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="right" if late else "left",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "black"},
        )

    def _draw_update_ratio(self, ax: Axes) -> None:
        layers = np.arange(1, self.flow.n_layers + 1)
        ratio = np.array(self.flow.update_ratio, np.float64)
        known = np.isfinite(ratio).any(axis=0)
        ratio[~np.isfinite(ratio)] = np.nan
        ratio, layers = ratio[:, known], layers[known]
        low, middle, high = (
            np.clip(f(ratio, axis=0), *RATIO_RANGE)
            for f in (np.nanmin, np.nanmedian, np.nanmax)
        )
        ax.axvspan(*HEALTHY_RATIOS, color="0.85")
        ax.hlines(layers, low, high, color="black", linewidth=1)
        size = np.clip(120 / self.flow.n_layers, 2.5, 6)
        least, most = RATIO_RANGE
        for layer, ratio in zip(layers, middle, strict=True):
            marker = "<" if ratio <= least else ">" if ratio >= most else "o"
            ax.plot(ratio, layer, marker, color="black", markersize=size, clip_on=False)
        ax.set_xscale("log")
        ax.set_xlim(*RATIO_RANGE)
        ax.set_xlabel("update / weight")
        ax.sharey(self.ax_)
        ax.tick_params(labelleft=False)

    def _add_colorbar(self, ax) -> None:
        self.colorbar_ = self.figure_.colorbar(
            self.mesh_, ax=ax, extend="both", label="log10 gradient / output layer's"
        )
