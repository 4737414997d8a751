"""Pictures of a fit, in the style of scikit-learn's Display classes.

GradientFlowDisplay draws the gradients that a fit recorded, LossCurveDisplay draws what
the fit gained, and ActivationDisplay draws what the units do on given rows.
gradient_flow.py says what the records mean. Only this module uses matplotlib, and it
imports matplotlib only for the first picture. Layers and epochs are counted from 1, as
in the sentences of `diagnose`; `gradient_flow_.epoch` begins at 0. With L-BFGS an epoch
is an iteration.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_regressor
from sklearn.utils.validation import check_is_fitted

from cbp._base import hidden_outputs, network_of
from cbp._evidence import MOVED, STEP_LATER
from cbp.gradient_flow import FailedFlow, GradientFlow

if TYPE_CHECKING:
    from typing import Self

    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure, SubFigure

    Floats = NDArray[np.floating[Any]]

# All pictures have the same scale, so you can compare any two: from a millionth to a
# million times the output layer's gradient. The colours go from blue through grey to
# yellow, for readers who are colour-blind. They become brighter all the way: printed in
# grey, vanishing is dark and exploding is bright. With a white middle both would look
# the same.
DECADES = 6
GRADIENT_COLORS = [
    (0.0, "#0b1a4a"),
    (0.25, "#2f6fb5"),
    (0.5, "#a8a8a8"),
    (0.7, "#f7d02f"),
    (1.0, "#ffffb0"),
]
SHARE_COLORS = "Blues"
SHARE_RANGE = (1e-3, 1.0)
HISTOGRAM_BINS = 60
WIDE = 10.0  # activations beyond this are drawn on a symmetric logarithmic axis

# Okabe and Ito's colours for colour-blind readers; printed in grey, the dashes differ.
# Six colours and five dashes make thirty lines before a pair comes again.
LINE_COLORS = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]
LINE_STYLES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1))]
TITLE_SIZE = 10

# Update/weight of one step. Below this range, a thousand steps do not move the weights
# by a tenth. Above it, diagnose calls a step too large.
HEALTHY_RATIOS = (MOVED / 1000, STEP_LATER)
RATIO_RANGE = (1e-7, 1.0)


def _pyplot():
    """matplotlib.pyplot, imported on first use."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'Pictures need matplotlib. Install it with: pip install "cbp-learn[plot]"'
        ) from error
    return plt


def _gradient_colors():
    """The colour map of gradients."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("cbp_gradient", GRADIENT_COLORS)


def _check_estimator(estimator) -> None:
    """Raise an error if this is not a fitted network of this package."""
    if not (
        hasattr(estimator, "hidden_layer_sizes") and hasattr(estimator, "diagnose")
    ):
        raise TypeError(
            f"estimator must be a fitted BPClassifier or BPRegressor, got "
            f"{type(estimator).__name__}. Of a pipeline pass the last step, model[-1]; "
            "of a search best_estimator_; of a TransformedTargetRegressor regressor_."
        )
    check_is_fitted(estimator)


def _check_fits(fits) -> None:
    if not isinstance(fits, Mapping) or not fits:
        raise TypeError(
            "fits must be a dictionary of names and fitted estimators, for example "
            "{'sigmoid': a, 'relu': b}."
        )


def _check_axes(name: str, ax) -> None:
    """Refuse all but a single Axes, for example the array that `subplots` returns."""
    if isinstance(ax, _pyplot().Axes):
        return
    if isinstance(ax, np.ndarray):
        got = f"an array of shape {ax.shape}"
    elif isinstance(ax, list | tuple):
        got = f"a {type(ax).__name__} of length {len(ax)}"
    else:
        got = f"a {type(ax).__name__}"
    raise ValueError(
        f"{name} must be one matplotlib Axes, got {got}. Pass a single Axes, for "
        "example of figure.add_subplot(): all parts of a picture share its room. Or "
        "pass None for a new figure."
    )


def _failed_flow(estimator) -> FailedFlow | None:
    """The records of the last fit, if it diverged."""
    flow = getattr(estimator, "_failed_flow", None)
    return flow if isinstance(flow, FailedFlow) else None


def _flow_of(fit) -> GradientFlow:
    """The records of an estimator's last fit, even a failed one, or of a flow."""
    flow = fit if isinstance(fit, GradientFlow) else _failed_flow(fit)
    if flow is None:
        _check_estimator(fit)
        flow = getattr(fit, "gradient_flow_", None)
        if flow is None:
            raise ValueError(
                f"This {type(fit).__name__} has no gradient_flow_: it was fitted with "
                "monitor=False, or never. Set monitor=True and fit it again."
            )
    if len(flow.epoch) == 0:
        raise ValueError(
            "This gradient flow has no records: training ended before its first epoch "
            "did. Fit again, for at least one epoch."
        )
    return flow


def _split(
    ax: Axes, ratios: Sequence[float], *, below: bool = False, gap: float = 0.02
) -> Axes:
    """New axes next to ax (or below it); both share the space that ax had before."""
    spec = ax.get_subplotspec()
    if spec is None:
        box = ax.get_position()
        spec = ax.figure.add_gridspec(
            left=box.x0, right=box.x1, bottom=box.y0, top=box.y1
        )[0]
    if below:
        grid = spec.subgridspec(2, 1, height_ratios=ratios)
    else:
        grid = spec.subgridspec(1, 2, width_ratios=ratios, wspace=gap)
    ax.set_subplotspec(grid[0])
    return ax.figure.add_subplot(grid[1])


def _set_title(ax: Axes, name: str | None, text: str | None, width: float) -> None:
    """A title over ax and the axes next to it, wrapped to `width` pixels."""
    points = width / ax.figure.dpi * 72
    letters = max(int(points / (0.5 * TITLE_SIZE)), 20)  # half as wide as high
    lines = [textwrap.fill(part, letters) for part in (name, text) if part]
    ax.set_title("\n".join(lines), loc="left", fontsize=TITLE_SIZE)


def _level_titles(axes: Sequence[Axes]) -> None:
    """Make all titles equally high, and so the axes under them."""
    titles = [ax.get_title(loc="left") for ax in axes]
    most = max(title.count("\n") for title in titles)
    for ax, title in zip(axes, titles, strict=True):
        filled = title + "\n" * (most - title.count("\n"))
        ax.set_title(filled, loc="left", fontsize=TITLE_SIZE)


def _set_layers(ax: Axes, n_layers: int, output: bool) -> None:
    """Layers upwards, with a tick for each layer if there is enough space."""
    step = next(
        step for step in (1, 2, 5, 10, 20, 50, 100, n_layers) if n_layers <= 12 * step
    )
    ticks = {1, *range(step, n_layers + 1, step)}
    if output:
        ticks = {t for t in ticks if t == 1 or n_layers - t >= step / 2} | {n_layers}
    labels = {n_layers: "output"} if output else {}
    ax.set_yticks(sorted(ticks), [labels.get(t, str(t)) for t in sorted(ticks)])
    ax.set_ylim(0.5, n_layers + 0.5)
    ax.set_ylabel("layer")


def _edges(epoch) -> Floats:
    """Borders of cells around epochs: half way between two of them."""
    middle = (epoch[1:] + epoch[:-1]) / 2
    return np.concatenate([[epoch[0] - 0.5], middle, [epoch[-1] + 0.5]])


class GradientFlowDisplay:
    """Map of the gradients of a fit, epoch by layer, relative to the output layer.

    Each cell is log10 of the RMS gradient of a layer's weights, divided by the output
    layer's at that epoch. 0 (grey) is the same size, -3 (dark blue) is a thousandth,
    and 3 (yellow) is a thousand times as large. Colours mean the same numbers in every
    picture. A hatched cell had a number that is not finite. In a blank cell the layer's
    gradient and the output layer's are both zero. The axes next to the map show
    update/weight of every layer: the median over the records (dot), the range from the
    least to the greatest (line), and the healthy band from 1e-4 to 0.1 (grey). An arrow
    is a median beyond the axis.

    Parameters
    ----------
    flow : GradientFlow
        Records of a fit.
    verdict : str, default=None
        Sentence for the title.
    name : str, default=None
        Name of the fit. It comes before the verdict.

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
    update_ax_: Axes | None
    colorbar_: Colorbar | None
    figure_: Figure | SubFigure

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
        """Draw the records of an estimator's last fit, even if it diverged.

        Parameters
        ----------
        estimator : BPClassifier or BPRegressor
            Fitted with ``monitor=True``. Its `diagnose` gives the title.
        name : str, default=None
            Name of the fit. It comes before the verdict.
        ax : matplotlib Axes, default=None
            Where to draw. The map and the axes next to it share this space. This works
            best in a figure made with ``layout="constrained"``. None makes a new
            figure.
        **kwargs
            Passed on to `plot`.

        Returns
        -------
        display : GradientFlowDisplay

        Raises
        ------
        ValueError
            If the fit was not monitored, or if `ax` is not an Axes.
        NotFittedError
            If the estimator is not fitted.
        TypeError
            If it is not a network of this package.
        """
        return cls._of(estimator, name).plot(ax, **kwargs)

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
        """Draw records without their estimator.

        Parameters
        ----------
        flow : GradientFlow
            For example `gradient_flow_` of a fitted estimator.
        verdict : str, default=None
            Sentence for the title.
        name : str, default=None
            Name of the fit. It comes before the verdict.
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
            If `flow` is not a GradientFlow.
        ValueError
            If `ax` is not an Axes.
        """
        if not isinstance(flow, GradientFlow):
            raise TypeError(
                f"flow must be a GradientFlow, got {type(flow).__name__}. For an "
                "estimator use from_estimator, or pass its gradient_flow_."
            )
        display = cls(flow=_flow_of(flow), verdict=verdict, name=name)
        return display.plot(ax, **kwargs)

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
            One per fit, all in the same `figure_`. Each title has the first sentence of
            the verdict.

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
        size = 4.4 * columns + 0.8, 4.1 * rows
        figure = plt.figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08)
        widths = [1.0] * columns + [0.04]
        grid = figure.add_gridspec(rows, columns + 1, width_ratios=widths)
        for i, display in enumerate(displays):
            ax = figure.add_subplot(grid[i // columns, i % columns])
            if display.verdict:  # there is space only for its first sentence
                display.verdict = display.verdict.split(". ")[0].rstrip(".") + "."
            display.plot(ax, colorbar=False, **kwargs)
        _level_titles([display.ax_ for display in displays])
        displays[0]._add_colorbar(cax=figure.add_subplot(grid[:, -1]))
        return displays

    @classmethod
    def _of(cls, fit, name: str | None) -> Self:
        flow = _flow_of(fit)
        verdict = None if fit is flow else fit.diagnose().verdict
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
            Where to draw. The map and the axes next to it share this space. This works
            best in a figure made with ``layout="constrained"``. None makes a new
            figure.
        update_ratio : bool, default=True
            Whether to draw update/weight next to the map.
        colorbar : bool, default=True
            Whether to draw the scale.
        **kwargs
            Passed on to matplotlib's `pcolormesh`. The default limits are ``vmin=-6,
            vmax=6``. With other limits you cannot compare the picture with others.

        Returns
        -------
        self : GradientFlowDisplay

        Raises
        ------
        ValueError
            If `ax` is not an Axes.
        """
        plt = _pyplot()
        if ax is None:
            _, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
        _check_axes("ax", ax)
        width = ax.get_window_extent().width
        self.ax_, self.figure_ = ax, ax.figure
        self.update_ax_ = self.colorbar_ = None
        if update_ratio:
            self.update_ax_ = _split(ax, [4, 1.3])
        self._draw_map(kwargs)
        _set_layers(ax, self.flow.n_layers, output=True)
        if self.update_ax_ is not None:
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
        # A gradient of zero is outside every scale, but it has a colour.
        decades = np.clip(decades, -99, 99)
        finite = np.isfinite(gradient) & np.isfinite(output) & (flow.nonfinite == 0)
        not_finite = ~finite
        borders = _edges(flow.epoch + 1), np.arange(flow.n_layers + 1) + 0.5
        options = {"cmap": _gradient_colors(), **kwargs}
        if "norm" not in kwargs:
            options = {"vmin": -DECADES, "vmax": DECADES, **options}
        cells = np.ma.masked_where(not_finite | np.isnan(decades), decades)
        self.mesh_ = ax.pcolormesh(*borders, cells.T, **options)
        if not_finite.any():
            self._hatch(borders[0], not_finite)
        ax.set_xlabel("epoch")
        ax.locator_params(axis="x", integer=True, min_n_ticks=1)

    def _hatch(self, borders, not_finite) -> None:
        # Neighbouring cells are joined: thousands of hatched ones take half a minute.
        steps = np.diff(np.pad(not_finite, ((1, 1), (0, 0))).astype(int), axis=0)
        for layer, step in enumerate(steps.T, 1):
            left, right = borders[step == 1], borders[step == -1]
            self.ax_.broken_barh(
                list(zip(left, right - left, strict=True)),
                (layer - 0.5, 1),
                facecolor="white",
                edgecolor="black",
                linewidth=0,
                hatch="////",
            )
        # A single record may be narrower than a pixel, so a text says it, too.
        first = int(not_finite.any(axis=1).argmax())
        edge = borders[first]
        late = edge > (borders[0] + borders[-1]) / 2
        self.ax_.annotate(
            f"not finite from epoch {self.flow.epoch[first] + 1}",
            (edge, np.flatnonzero(not_finite[first]).mean() + 1),
            xytext=(-8 if late else 8, 0),
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
        for layer, x in zip(layers, middle, strict=True):
            marker = "<" if x <= least else ">" if x >= most else "o"
            ax.plot(x, layer, marker, color="black", markersize=size, clip_on=False)
        ax.set_xscale("log")
        ax.set_xlim(least, most)
        ax.set_xticks([1e-6, 1e-3, 1])
        ax.set_xticks([], minor=True)
        ax.set_xlabel("update / weight\n(grey: healthy)")
        ax.sharey(self.ax_)
        ax.tick_params(labelleft=False)
        ax.tick_params(axis="x", labelsize="small")

    def _add_colorbar(self, **where) -> None:
        label = r"$\log_{10}$ (gradient / output layer's)"
        self.colorbar_ = self.figure_.colorbar(
            self.mesh_, extend="both", label=label, **where
        )


class LossCurveDisplay:
    """Training loss after every epoch, and the validation score if there is one.

    A circle marks the epoch with the best score, or, without scores, with the best
    loss. Several fits can share the axes; they differ in dashes and colours.

    Parameters
    ----------
    loss_curve : array-like of shape (n_epochs,)
        Training loss of every epoch.
    validation_scores : array-like of shape (n_epochs,), default=None
        Score on held-out rows after every epoch.
    name : str, default=None
        Name in the legend.
    score_name : str, default="validation score"
        Name of the score.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The loss.
    score_ax_ : matplotlib Axes or None
        The score, below the loss. None without scores.
    figure_ : matplotlib Figure
        The figure that holds both.
    line_ : matplotlib Line2D
        The loss.
    score_line_ : matplotlib Line2D or None
        The score.
    best_epoch_ : int or None
        The best epoch, counted from 1. None if no number is finite.

    See Also
    --------
    GradientFlowDisplay : What the fit recorded of its gradients.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cbp import BPClassifier
    >>> from cbp.plotting import LossCurveDisplay
    >>> model = BPClassifier([10], early_stopping=True)
    >>> model.fit(*load_iris(return_X_y=True))  # doctest: +SKIP
    >>> LossCurveDisplay.from_estimator(model)  # doctest: +SKIP
    """

    ax_: Axes
    figure_: Figure | SubFigure

    def __init__(
        self,
        *,
        loss_curve,
        validation_scores=None,
        name: str | None = None,
        score_name: str = "validation score",
    ) -> None:
        self.loss_curve = loss_curve
        self.validation_scores = validation_scores
        self.name = name
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator,
        *,
        name: str | None = None,
        ax: Axes | None = None,
        score_ax: Axes | None = None,
        **kwargs,
    ) -> Self:
        """Draw the curves of one estimator's last fit, even if it diverged.

        Parameters
        ----------
        estimator : BPClassifier or BPRegressor
            Fitted. Validation scores exist after ``early_stopping=True``.
        name : str, default=None
            Name in the legend. None takes the name of the class.
        ax, score_ax : matplotlib Axes, default=None
            As in `plot`.
        **kwargs
            Passed on to `plot`.

        Returns
        -------
        display : LossCurveDisplay

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If no epoch was finished, or if `ax` or `score_ax` is not an Axes.
        TypeError
            If it is not a network of this package.
        """
        return cls._of(estimator, name).plot(ax, score_ax=score_ax, **kwargs)

    @classmethod
    def compare(
        cls, fits: Mapping[str, Any], *, ax: Axes | None = None, **kwargs
    ) -> list[Self]:
        """Draw the curves of several fitted estimators on the same axes.

        Parameters
        ----------
        fits : dict of str to estimator
            The estimators and their names.
        ax : matplotlib Axes, default=None
            As in `plot`.
        **kwargs
            Passed on to `plot`.

        Returns
        -------
        displays : list of LossCurveDisplay
            One per estimator, all on the same axes.

        Raises
        ------
        NotFittedError, ValueError, TypeError
            As `from_estimator`.
        """
        _check_fits(fits)
        displays = [cls._of(fit, name) for name, fit in fits.items()]
        if ax is None:
            ax = _curve_axes(any(d.validation_scores is not None for d in displays))
        score_ax = None
        for display in displays:
            display.plot(ax, score_ax=score_ax, **kwargs)
            ax, score_ax = display.ax_, display.score_ax_ or score_ax
        return displays

    @classmethod
    def _of(cls, estimator, name: str | None) -> Self:
        failed = _failed_flow(estimator)
        if failed is None:
            _check_estimator(estimator)
            loss_curve = estimator.loss_curve_
            scores = getattr(estimator, "validation_scores_", None) or None
        else:
            loss_curve, scores = failed.loss_curve, None
        if len(loss_curve) == 0:
            raise ValueError(
                f"This {type(estimator).__name__} has no loss to draw: training ended "
                "before its first epoch did. Call fit(X, y)."
            )
        kind = "score"
        if is_classifier(estimator):
            kind = "accuracy"
        elif is_regressor(estimator):
            kind = "R\u00b2"
        return cls(
            loss_curve=loss_curve,
            validation_scores=scores,
            name=type(estimator).__name__ if name is None else name,
            score_name=f"validation {kind}",
        )

    def plot(
        self, ax: Axes | None = None, *, score_ax: Axes | None = None, **kwargs
    ) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        score_ax : matplotlib Axes, default=None
            Where to draw the score. None uses a part of `ax`, below the loss. To add a
            fit to the picture of another fit, pass the other's `ax_` and `score_ax_`.
        **kwargs
            Passed on to matplotlib's `plot`, for both curves.

        Returns
        -------
        self : LossCurveDisplay

        Raises
        ------
        ValueError
            If `ax` or `score_ax` is not an Axes.
        """
        loss = np.asarray(self.loss_curve, np.float64)
        scores = self.validation_scores
        scores = None if scores is None else np.asarray(scores, np.float64)
        if score_ax is not None:
            _check_axes("score_ax", score_ax)
        if ax is None:
            ax = _curve_axes(scores is not None)
        _check_axes("ax", ax)
        from matplotlib import cbook, lines

        best = _argmax(-loss if scores is None else scores)
        self.best_epoch_ = None if best is None else best + 1
        number = len(ax.get_lines())
        style = {
            "color": LINE_COLORS[number % len(LINE_COLORS)],
            "linestyle": LINE_STYLES[number % len(LINE_STYLES)],
            "marker": "o",
            "markersize": 8,
            "markerfacecolor": "white",
            "markevery": [] if best is None else [best],
            "label": self._label(loss if scores is None else scores),
            **cbook.normalize_kwargs(kwargs, lines.Line2D),
        }
        self.score_ax_ = self.score_line_ = None
        if scores is not None:
            if score_ax is None:
                score_ax = _split(ax, [1, 1], below=True)
                score_ax.sharex(ax)
            self.score_ax_ = score_ax
            (self.score_line_,) = score_ax.plot(
                np.arange(len(scores)) + 1, scores, **style
            )
            same = score_ax.get_ylabel() in ("", self.score_name)
            score_ax.set_ylabel(self.score_name if same else "validation score")
        (self.line_,) = ax.plot(np.arange(len(loss)) + 1, loss, **style)
        ax.set_ylabel("training loss")
        ax.set_xlabel("" if score_ax else "epoch")
        if score_ax:
            score_ax.set_xlabel("epoch")
        ax.locator_params(axis="x", integer=True, min_n_ticks=1)
        _set_loss_scale(ax)
        _set_legend(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _label(self, judged) -> str:
        label = "" if self.name is None else f"{self.name}, "
        if self.best_epoch_ is None:
            return f"{label}no finite number"
        return (
            f"{label}best epoch {self.best_epoch_}: {judged[self.best_epoch_ - 1]:.4g}"
        )


def _curve_axes(with_scores: bool) -> Axes:
    """Axes of a new figure, with space for the score below the loss."""
    size = (7, 5.5 if with_scores else 3.8)
    return _pyplot().subplots(figsize=size, layout="constrained")[1]


def _argmax(values: Floats) -> int | None:
    """The first place of the greatest finite value."""
    values = np.where(np.isfinite(values), values, -np.inf)
    return int(values.argmax()) if np.isfinite(values).any() else None


def _set_legend(ax: Axes) -> None:
    """A legend above the axes; inside them it would cover curves."""
    long = max(len(str(line.get_label())) for line in ax.get_lines()) > 32
    columns = 1 if long else 2
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False)


def _set_loss_scale(ax: Axes) -> None:
    """A logarithmic axis if the losses on it span more than a decade."""
    losses = np.concatenate([line.get_ydata() for line in ax.get_lines()])
    losses = losses[np.isfinite(losses)]
    if losses.size and losses.min() > 0 and losses.max() > 10 * losses.min():
        ax.set_yscale("log")


class ActivationDisplay:
    """Distribution of the hidden units' a and f'(z), layer by layer, on given rows.

    Each row of a map is a histogram over all units of a layer and all rows of X. A
    darker cell has a larger share of the values. A dot marks the root mean square. For
    f' the dot is about the factor by which the activation shrinks the error on its way
    back through the layer. For logistic units it is at most 1/4. If all values of f'
    are at the left edge, the layer passes nothing back.

    Parameters
    ----------
    activations : list of arrays of shape (n_samples, n_units)
        a of every hidden layer.
    derivatives : list of arrays of shape (n_samples, n_units)
        f'(z) of every hidden layer.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The activations a.
    derivative_ax_ : matplotlib Axes
        The derivatives f'(z).
    figure_ : matplotlib Figure
        The figure that holds both.
    mesh_, derivative_mesh_ : matplotlib QuadMesh
        The two maps.
    colorbar_ : matplotlib Colorbar or None
        The scale.

    See Also
    --------
    GradientFlowDisplay : What the fit recorded of its gradients.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from cbp import BPClassifier
    >>> from cbp.plotting import ActivationDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> model = BPClassifier([10] * 4, activation="tanh")
    >>> model.fit(X, y)  # doctest: +SKIP
    >>> ActivationDisplay.from_estimator(model, X)  # doctest: +SKIP
    """

    ax_: Axes
    colorbar_: Colorbar | None
    figure_: Figure | SubFigure

    def __init__(self, *, activations: list, derivatives: list) -> None:
        self.activations = activations
        self.derivatives = derivatives

    @classmethod
    def from_estimator(cls, estimator, X, *, ax: Axes | None = None, **kwargs) -> Self:
        """Send rows through a fitted network and draw what its hidden units do.

        Parameters
        ----------
        estimator : BPClassifier or BPRegressor
            Fitted, with at least one hidden layer.
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            The rows; a few hundred are enough. All their activations stay in memory.
        ax : matplotlib Axes, default=None
            As in `plot`.
        **kwargs
            Passed on to `plot`.

        Returns
        -------
        display : ActivationDisplay

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If X does not fit the estimator, if it overflows the network, if there is
            no hidden layer, or if `ax` is not an Axes.
        TypeError
            If the estimator is not a network of this package.
        """
        _check_estimator(estimator)
        if not network_of(estimator).activations:
            raise ValueError(
                "The network has no hidden layer, so there are no activations to draw. "
                "Set hidden_layer_sizes and fit it again."
            )
        derivatives: list = []
        activations = hidden_outputs(estimator, X, derivatives)
        for layer, a in enumerate(activations, 1):
            bad = np.flatnonzero(~np.isfinite(a).all(axis=1))
            if len(bad):
                raise ValueError(
                    f"Row {bad[0]} of X overflows layer {layer} of the network. "
                    "Scale X as for the fit."
                )
        display = cls(activations=activations, derivatives=derivatives)
        return display.plot(ax, **kwargs)

    def plot(self, ax: Axes | None = None, *, colorbar: bool = True, **kwargs) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. The two maps share this space. None makes a new figure.
        colorbar : bool, default=True
            Whether to draw the scale.
        **kwargs
            Passed on to matplotlib's `pcolormesh`, for both maps.

        Returns
        -------
        self : ActivationDisplay

        Raises
        ------
        ValueError
            If `ax` is not an Axes.
        """
        plt = _pyplot()
        if ax is None:
            _, ax = plt.subplots(figsize=(8, 3.8), layout="constrained")
        _check_axes("ax", ax)
        right = _split(ax, [1, 1], gap=0.08)
        low = min(0.0, *(a.min() for a in self.activations))
        high = max(1.0, *(a.max() for a in self.activations))
        self.mesh_ = _draw_shares(ax, self.activations, low, high, kwargs)
        self.derivative_mesh_ = _draw_shares(right, self.derivatives, 0, 1, kwargs)
        ax.set_xlabel("activation a")
        right.set_xlabel("derivative f'(z)")
        right.set_xticks([0, 0.25, 0.5, 0.75, 1])  # 1/4: the most of a logistic unit
        _set_layers(ax, len(self.activations), output=False)
        right.sharey(ax)
        right.tick_params(labelleft=False)
        self.ax_, self.derivative_ax_, self.figure_ = ax, right, ax.figure
        self.colorbar_ = None
        if colorbar:
            self.colorbar_ = self.figure_.colorbar(
                self.mesh_, ax=right, extend="min", label="share of the layer's values"
            )
        return self


def _draw_shares(ax: Axes, layers, low: float, high: float, kwargs):
    """For each layer a histogram as a row of shades, and a dot at the RMS."""
    from matplotlib.colors import LogNorm

    borders = np.linspace(low, high, HISTOGRAM_BINS + 1)
    if max(-low, high) > WIDE:
        # Finer about 0: bounded and unbounded activations on one axis.
        borders = np.sinh(np.linspace(np.arcsinh(low), np.arcsinh(high), len(borders)))
        borders[[0, -1]] = low, high
        ax.set_xscale("symlog", linthresh=1)
    counts = np.array([np.histogram(layer, borders)[0] for layer in layers])
    shares = counts / [[layer.size] for layer in layers]
    options = {"cmap": SHARE_COLORS, **kwargs}
    if not {"norm", "vmin", "vmax"} & set(kwargs):
        options["norm"] = LogNorm(*SHARE_RANGE)
    mesh = ax.pcolormesh(
        borders,
        np.arange(len(layers) + 1) + 0.5,
        np.ma.masked_equal(shares, 0),
        **options,
    )
    ax.plot(
        [np.sqrt(np.mean(np.square(layer, dtype=np.float64))) for layer in layers],
        np.arange(len(layers)) + 1,
        "o",
        color="black",
        markersize=np.clip(120 / len(layers), 3.5, 6),
        markeredgecolor="white",
        markeredgewidth=0.7,
    )
    return mesh
