"""Pictures of a fit, in the style of scikit-learn's Display classes.

GradientFlowDisplay draws the errors that a fit recorded and the sizes of its steps,
LossCurveDisplay draws what the fit gained, ActivationDisplay draws what the units do
on given rows. gradient_flow.py says what the records mean, _plots.py draws the parts of
the pictures, and _colors.py has their colours and limits. Layers and epochs are counted
from 1, as in the sentences of `diagnose`; `gradient_flow_.epoch` begins at 0. With
L-BFGS an epoch is an iteration.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from cbp import _plots
from cbp._base import hidden_outputs, network_of
from cbp._catalog import ACTIVATIONS
from cbp._colors import (
    HEALTHY_RATIOS,
    HIGHEST_COST,
    LINE_COLORS,
    LINE_STYLES,
    RATIO_RANGE,
)
from cbp._fit_record import FitRecord, score_name
from cbp._inside import find_network
from cbp.diagnosis import Diagnosis, Finding, diagnose
from cbp.gradient_flow import FailedFlow, GradientFlow

if TYPE_CHECKING:
    from typing import Self

    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure, SubFigure

    Floats = NDArray[np.floating[Any]]

__all__ = [
    "HEALTHY_RATIOS",
    "RATIO_RANGE",
    "ActivationDisplay",
    "GradientFlowDisplay",
    "LossCurveDisplay",
]

# Findings that speak of the errors that the map shows.
_OF_ERRORS = ("vanishing-gradient", "exploding-gradient")


def _check_fits(fits) -> None:
    if not isinstance(fits, Mapping) or not fits:
        raise TypeError(
            "fits must be a dictionary of names and fitted estimators, for example "
            "{'sigmoid': a, 'relu': b}."
        )


def _failed_flow(estimator) -> FailedFlow | None:
    """The records of the last fit, if it diverged; else it must have come to an end."""
    flow = getattr(estimator, "_failed_flow", None)
    if not isinstance(flow, FailedFlow):
        check_is_fitted(estimator)
        return None
    return flow


def _flow_of(fit) -> GradientFlow:
    """The records of a network's last fit, even a failed one, or of a flow."""
    flow = fit
    if not isinstance(fit, GradientFlow):
        network = find_network(fit).estimator
        flow = _failed_flow(network) or getattr(network, "gradient_flow_", None)
        if flow is None:
            raise ValueError(
                f"This {type(network).__name__} has no gradient_flow_: it was fitted "
                "with monitor=False, or never. Set monitor=True and fit it again."
            )
    if len(flow.epoch) == 0:
        raise ValueError(
            "This gradient flow has no records: training ended before its first epoch "
            "did. Fit again, for at least one epoch."
        )
    return flow


class GradientFlowDisplay:
    """Map of the errors of a fit, epoch by layer, relative to the output layer.

    Each cell is log10 of the length of a layer's delta, divided by the output layer's
    in that epoch: `relative_error` of the flow, of which `diagnose` speaks, too. Only
    errors outside the healthy limits, 1/20 and 10 times, have a colour: blue is too
    little, orange is too much, and grey is healthy. Up to 100 times orange is pale:
    when weights have grown, this is usual. Colours mean the same numbers in every
    picture. A hatched cell had a number that is not finite. In a blank cell the layer's
    error and the output layer's are both zero.

    The line to the right of the map is the error per layer, as a rule that of the
    second half of the records. A circle marks the number of the verdict. The curves
    below the map are step/weight: the root mean square of one step over that of the
    weights. Between the blue and the orange band they are fine.

    Parameters
    ----------
    flow : GradientFlow
        Records of a fit.
    verdict : str, default=None
        Sentence for the title.
    name : str, default=None
        Name of the fit. It comes before the verdict.
    finding : Finding, default=None
        The finding whose number is marked.
    n_steps : int, default=None
        Steps of the fit, from which the limit of too small steps follows. None means a
        thousand.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The map.
    error_ax_ : matplotlib Axes or None
        The error per layer.
    update_ax_ : matplotlib Axes or None
        The steps.
    figure_ : matplotlib Figure
        The figure that holds all.
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
    error_ax_: Axes | None
    update_ax_: Axes | None
    colorbar_: Colorbar | None
    figure_: Figure | SubFigure

    def __init__(
        self,
        *,
        flow: GradientFlow,
        verdict: str | None = None,
        name: str | None = None,
        finding: Finding | None = None,
        n_steps: int | None = None,
    ) -> None:
        self.flow = flow
        self.verdict = verdict
        self.name = name
        self.finding = finding
        self.n_steps = n_steps

    @classmethod
    def from_estimator(
        cls, estimator, *, name: str | None = None, ax: Axes | None = None, **kwargs
    ) -> Self:
        """Draw the records of an estimator's last fit, even if it diverged.

        Parameters
        ----------
        estimator : estimator
            A BPClassifier or BPRegressor, or a pipeline, search or other model that
            holds one; of several the one that ended worst. Fitted with
            ``monitor=True``. Its diagnosis gives the title.
        name : str, default=None
            Name of the fit. It comes before the verdict.
        ax : matplotlib Axes, default=None
            Where to draw. The map and the axes around it share this space. This works
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
            If there is no network of this package in it.
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
        """Draw several fits below each other on one scale, with what they reached.

        Parameters
        ----------
        fits : dict of str to estimator or GradientFlow
            The fits and their names, for example ``{"sigmoid": a, "relu": b}``.
        **kwargs
            Passed on to `plot`.

        Returns
        -------
        displays : list of GradientFlowDisplay
            One per fit, all in the same `figure_`. Each has a row: its map, and beside
            it the name, the verdict, the score and the worst layer.

        Raises
        ------
        TypeError, ValueError, NotFittedError
            As `from_estimator`.
        """
        _check_fits(fits)
        diagnoses = {name: _diagnosis_of(fit) for name, fit in fits.items()}
        displays = [cls._of(fit, name, diagnoses[name]) for name, fit in fits.items()]
        n = len(displays)
        figure = _plots.pyplot().figure(figsize=(9, 1.9 * n + 1), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.1)
        grid = figure.add_gridspec(
            n + 1, 2, width_ratios=[1, 1.3], height_ratios=[1.0] * n + [0.1]
        )
        options = {"update_ratio": False, "error_line": False, **kwargs}
        for i, (name, display) in enumerate(zip(fits, displays, strict=True)):
            verdict, display.verdict, display.name = display.verdict, None, None
            display.plot(figure.add_subplot(grid[i, 0]), colorbar=False, **options)
            display.verdict, display.name = verdict, name
            if i < n - 1:
                display.ax_.set_xlabel("")
            record = getattr(diagnoses[name], "record", None)
            _write_row(figure.add_subplot(grid[i, 1]), display, record)
        displays[0]._add_colorbar(
            cax=figure.add_subplot(grid[n, :]), orientation="horizontal"
        )
        return displays

    @classmethod
    def _of(cls, fit, name: str | None, diagnosis: Diagnosis | None = None) -> Self:
        flow = _flow_of(fit)
        if diagnosis is None:
            diagnosis = _diagnosis_of(fit)
        if diagnosis is None:
            return cls(flow=flow, name=name)
        return cls._of_diagnosis(flow, diagnosis, name)

    @classmethod
    def _of_diagnosis(
        cls, flow: GradientFlow, diagnosis: Diagnosis, name: str | None = None
    ) -> Self:
        """Records with the diagnosis that explains them; not yet drawn."""
        found = [each for each in diagnosis.findings if each.code in _OF_ERRORS]
        record = diagnosis.record
        return cls(
            flow=flow,
            verdict=diagnosis.verdict,
            name=name,
            finding=found[0] if found else None,
            n_steps=None if record is None else record.n_steps,
        )

    def plot(
        self,
        ax: Axes | None = None,
        *,
        update_ratio: bool = True,
        colorbar: bool = True,
        error_line: bool = True,
        **kwargs,
    ) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. The map and the axes around it share this space. This works
            best in a figure made with ``layout="constrained"``. None makes a new
            figure.
        update_ratio : bool, default=True
            Whether to draw the steps below the map.
        colorbar : bool, default=True
            Whether to draw the scale.
        error_line : bool, default=True
            Whether to draw the error per layer beside the map.
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
        if ax is None:
            size = (9, 5.8 if update_ratio else 3.8)
            _, ax = _plots.pyplot().subplots(figsize=size, layout="constrained")
        _plots.check_axes("ax", ax)
        width, height = ax.get_window_extent().size  # the box itself is about to shrink
        self.ax_, self.figure_ = ax, ax.figure
        self.update_ax_ = self.error_ax_ = self.colorbar_ = None
        beside = error_line or update_ratio
        widths, heights = [4, 1.4][: 1 + beside], [3, 2][: 1 + update_ratio]
        rooms = _plots.split(ax, widths, heights)
        self.mesh_ = _plots.draw_error_map(ax, self.flow, kwargs)
        lines = height / self.figure_.dpi * 72 / 13 * heights[0] / sum(heights)
        most = int(np.clip(lines, 2, 12))
        _plots.set_layers(ax, self.flow.n_layers, output=True, most=most)
        if error_line:
            self._draw_errors(rooms[0][1])
        elif beside:
            rooms[0][1].set_axis_off()
        if update_ratio:
            self._draw_steps(*rooms[1])
        if colorbar:
            self._add_colorbar(ax=[each for row in rooms for each in row])
        _plots.set_title(ax, self.name, self.verdict, width)
        return self

    def _draw_errors(self, ax: Axes) -> None:
        errors, marked = self._errors()
        _plots.draw_errors(ax, errors, marked)
        ax.sharey(self.ax_)
        ax.tick_params(labelleft=False)
        ax.set_xlabel("error per layer", fontsize=_plots.SMALL)
        self.error_ax_ = ax

    def _errors(self) -> tuple[Floats, int | None]:
        """The error of every layer, and the layer of which the verdict speaks."""
        errors = _plots.typical_errors(self.flow)
        if self.finding is None:
            return errors, None
        judged = np.asarray(self.finding.evidence.get("relative_error", ()), np.float64)
        if len(judged) == len(errors):
            errors = judged
        return errors, self.finding.layer

    def _draw_steps(self, ax: Axes, beside: Axes) -> None:
        lines = _plots.draw_steps(ax, self.flow, self.n_steps)
        _plots.draw_layer_names(beside, lines)
        self.ax_.tick_params(labelbottom=False)
        self.ax_.set_xlabel("")
        ax.sharex(self.ax_)
        self.update_ax_ = ax

    def _add_colorbar(self, **where) -> None:
        self.colorbar_ = _plots.add_error_scale(self.mesh_, self.figure_, **where)


def _diagnosis_of(fit) -> Diagnosis | None:
    """What `diagnose` says of a fit; None of records without their estimator."""
    _flow_of(fit)  # raises the errors that say what to pass
    return None if isinstance(fit, GradientFlow) else diagnose(fit)


def _write_row(ax: Axes, display, record: FitRecord | None) -> None:
    """What `compare` says of a fit beside its map."""
    ax.set_axis_off()
    errors, marked = display._errors()
    worst = marked or _plots.worst_layer(errors)
    if worst is None:
        known = np.isfinite(errors).any()
        layer = "none is outside the limits" if known else "unknown"
    else:
        share = _plots.share_text(float(errors[worst - 1]))
        layer = f"layer {worst}, with {share} of the output layer's error"
        if errors[worst - 1] > 1:
            layer = f"layer {worst}, with {share} the output layer's error"
    letters = _plots.letters_in(ax, ax.figure.bbox.width * 0.52, _plots.SMALL)
    lines = textwrap.wrap(display.verdict or "", letters)
    if len(lines) > 4:
        lines = [*lines[:3], lines[3][: letters - 4] + " ..."]
    if record is not None and record.score:
        lines += textwrap.wrap(f"Score: {record.score}.", letters)
    lines += textwrap.wrap(f"Worst layer: {layer}.", letters)
    style = {"va": "top", "transform": ax.transAxes, "parse_math": False}
    name = ax.text(
        0, 1, str(display.name), weight="bold", size=_plots.TITLE_SIZE, **style
    )
    text = ax.text(0, 0.86, "\n".join(lines), size=_plots.SMALL, **style)
    name.set_in_layout(False)
    text.set_in_layout(False)
    display.text_ = text


class LossCurveDisplay:
    """Loss after every epoch, and the score of held-out rows if there is one.

    The loss is that of the training rows and, if rows were held out, theirs; the gap
    between both is shaded. A dashed line is the loss of guessing the average: the best
    answer that is the same for all rows. A circle marks the best epoch of the held-out
    rows, by their score or else by their loss; without held-out rows there is no best
    epoch. Several fits can share the axes; they differ in dashes and colours.

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
    validation_loss_curve : array-like of shape (n_epochs,), default=None
        Loss on held-out rows after every epoch.
    constant_cost : float, default=None
        Loss of guessing the average.
    least_cost : float, default=0.0
        Loss of perfect answers, which is above 0 if labels are smoothed.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The loss.
    score_ax_ : matplotlib Axes or None
        The score, below the loss. None without scores.
    figure_ : matplotlib Figure
        The figure that holds both.
    line_ : matplotlib Line2D
        The training loss.
    held_out_line_ : matplotlib Line2D or None
        The loss of held-out rows.
    score_line_ : matplotlib Line2D or None
        The score.
    constant_line_ : matplotlib Line2D or None
        The loss of guessing the average.
    best_epoch_ : int or None
        The best epoch of the held-out rows, counted from 1. None without such rows, or
        if no number is finite.

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
        validation_loss_curve=None,
        constant_cost: float | None = None,
        least_cost: float = 0.0,
    ) -> None:
        self.loss_curve = loss_curve
        self.validation_scores = validation_scores
        self.name = name
        self.score_name = score_name
        self.validation_loss_curve = validation_loss_curve
        self.constant_cost = constant_cost
        self.least_cost = least_cost

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
        estimator : estimator
            A BPClassifier or BPRegressor, or a pipeline, search or other model that
            holds one; of several the one that ended worst. Fitted.
            Validation scores exist after ``early_stopping=True``.
        name : str, default=None
            Name in the legend. None: the legend says which rows a curve is of.
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
            If there is no network of this package in it.
        """
        return cls._of(estimator, name).plot(ax, score_ax=score_ax, **kwargs)

    @classmethod
    def compare(
        cls, fits: Mapping[str, Any], *, ax: Axes | None = None, **kwargs
    ) -> list[Self]:
        """Draw the curves of several fitted estimators on the same axes.

        Losses are relative to the loss of guessing the average, so that fits with
        different losses and targets can be compared. What is above 10 is drawn at 10.

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
        # Not of a fit with monitor=False: nothing is known of its data.
        relative = all(display.constant_cost for display in displays)
        kwargs = {"relative": relative} | kwargs
        for display in displays:
            display.plot(ax, score_ax=score_ax, **kwargs)
            ax, score_ax = display.ax_, display.score_ax_ or score_ax
        if score_ax is not None:
            ax.set_xlabel("")
        return displays

    @classmethod
    def _of(cls, model, name: str | None) -> Self:
        estimator = find_network(model).estimator
        failed = _failed_flow(estimator)
        scores = held_out = None
        if failed is None:
            loss_curve = estimator.loss_curve_
            scores = getattr(estimator, "validation_scores_", None) or None
            held_out = getattr(estimator, "validation_loss_curve_", None) or None
            summary = getattr(estimator, "_fit_summary", None)
        else:
            loss_curve, summary = failed.loss_curve, failed.summary
        if len(loss_curve) == 0:
            raise ValueError(
                f"This {type(estimator).__name__} has no loss to draw: training ended "
                "before its first epoch did. Call fit(X, y)."
            )
        least = 0.0 if summary is None else summary.least_cost
        constant = None if summary is None else summary.constant_cost + least
        return cls(
            loss_curve=loss_curve,
            validation_scores=scores,
            name=name,
            score_name=score_name(estimator),
            validation_loss_curve=held_out,
            constant_cost=constant,
            least_cost=least,
        )

    @classmethod
    def _of_record(cls, record: FitRecord, name: str | None = None) -> Self:
        """What a diagnosis keeps of a fit; not yet drawn."""
        return cls(
            loss_curve=record.loss_curve,
            validation_scores=record.validation_scores,
            name=name,
            score_name=record.score_name,
            validation_loss_curve=record.validation_loss_curve,
            constant_cost=record.constant_cost,
            least_cost=record.least_cost,
        )

    def plot(
        self,
        ax: Axes | None = None,
        *,
        score_ax: Axes | None = None,
        relative: bool = False,
        **kwargs,
    ) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw; None makes a new figure.
        score_ax : matplotlib Axes, default=None
            Where to draw the score. None uses a part of `ax`, below the loss. To add a
            fit to the picture of another fit, pass the other's `ax_` and `score_ax_`.
        relative : bool, default=False
            Whether to divide losses by that of guessing the average (`constant_cost`).
            What is above 10 is drawn at 10.
        **kwargs
            Passed on to matplotlib's `plot`, for all curves.

        Returns
        -------
        self : LossCurveDisplay

        Raises
        ------
        ValueError
            If `ax` or `score_ax` is not an Axes, or if losses shall be relative to a
            `constant_cost` that is not known.
        """
        if relative and not self.constant_cost:
            raise ValueError(
                "relative=True needs constant_cost, the loss of guessing the average. "
                "Give it, or fit with monitor=True."
            )
        scores = self.validation_scores
        scores = None if scores is None else np.asarray(scores, np.float64)
        if score_ax is not None:
            _plots.check_axes("score_ax", score_ax)
        if ax is None:
            ax = _curve_axes(scores is not None)
        _plots.check_axes("ax", ax)
        from matplotlib import cbook, lines

        kwargs = cbook.normalize_kwargs(kwargs, lines.Line2D)
        self.ax_, self.figure_ = ax, ax.figure
        self.score_ax_ = self.score_line_ = None
        loss, held_out = self._scaled(relative)
        best = None
        if scores is not None or held_out is not None:
            best = _plots.argmax(-held_out if scores is None else scores)
        self.best_epoch_ = None if best is None else best + 1
        drawn = {line.get_gid() for line in ax.get_lines()}
        alone = not relative and "loss" not in drawn
        words = self._best(held_out if scores is None else scores)
        style = self._style(best) | kwargs
        if scores is not None:
            self._draw_scores(score_ax, scores, style, words if alone else "")
        self._draw_losses(loss, held_out, style, words, alone)
        self._draw_constant(1.0 if relative else self.constant_cost)
        self._set_axes(relative)
        return self

    def _scaled(self, relative: bool) -> tuple[Floats, Floats | None]:
        """The losses of the training rows and of the held-out rows."""
        curves = [np.asarray(self.loss_curve, np.float64), None]
        if self.validation_loss_curve is not None:
            curves[1] = np.asarray(self.validation_loss_curve, np.float64)
        if relative:
            unit = max(self.constant_cost - self.least_cost, np.finfo(float).tiny)
            for i, curve in enumerate(curves):
                if curve is not None:
                    shares = (curve - self.least_cost) / unit
                    curves[i] = np.minimum(shares, HIGHEST_COST)
        return curves[0], curves[1]

    def _style(self, best: int | None) -> dict[str, Any]:
        number = sum(line.get_gid() == "loss" for line in self.ax_.get_lines())
        return {
            "color": LINE_COLORS[number % len(LINE_COLORS)],
            "linestyle": LINE_STYLES[number % len(LINE_STYLES)],
            "marker": "" if best is None else "o",
            "markersize": 8,
            "markerfacecolor": "white",
            "markevery": None if best is None else [best],
        }

    def _draw_scores(self, score_ax: Axes | None, scores, style, label: str) -> None:
        if score_ax is None:
            score_ax = _plots.split(self.ax_, heights=[1, 1], gap=0)[1][0]
            score_ax.sharex(self.ax_)
        epochs = np.arange(len(scores)) + 1
        style = {"label": label or "_nolegend_", **style}
        (self.score_line_,) = score_ax.plot(epochs, scores, **style)
        same = score_ax.get_ylabel() in ("", self.score_name)
        score_ax.set_ylabel(self.score_name if same else "validation score")
        score_ax.set_xlabel("epoch")
        if label:
            _plots.set_legend(score_ax)
        self.score_ax_ = score_ax

    def _draw_losses(self, loss, held_out, style, words: str, alone: bool) -> None:
        """words: the best epoch of the held-out rows; alone: whether nothing else is
        on these axes, so that there is a label for each curve."""
        ax = self.ax_
        drawn = {line.get_gid() for line in ax.get_lines()}
        label = self.name or "training rows"
        if words and not alone:
            label += f", {words}"
        if not np.isfinite(loss).any():
            label += ", no finite number"
        epochs = np.arange(len(loss)) + 1
        dot = {"marker": "o" if len(loss) == 1 else "", "markevery": None}
        plain = {"label": label, **style, **dot}
        (self.line_,) = ax.plot(epochs, loss, **plain, gid="loss")
        self.held_out_line_ = None
        if held_out is None:
            return
        if alone:
            label = "held-out rows"
            if words and self.validation_scores is None:
                label += f", {words}"
        else:
            label = "_nolegend_" if "held out" in drawn else "held-out rows: thin lines"
        look = {"linewidth": 1.2, "markersize": 6, "linestyle": (0, (2, 1))}
        style = {**style, **look, "label": label, "gid": "held out"}
        epochs = np.arange(len(held_out)) + 1
        (self.held_out_line_,) = ax.plot(epochs, held_out, **style)
        if len(held_out) == len(loss):
            shade = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
            ax.fill_between(epochs, loss, held_out, **shade)

    def _draw_constant(self, height: float | None) -> None:
        """A dashed line at the loss of guessing the average."""
        ax = self.ax_
        drawn = [line for line in ax.get_lines() if line.get_gid() == "constant"]
        self.constant_line_ = None
        if height and height not in [line.get_ydata()[0] for line in drawn]:
            self.constant_line_ = ax.axhline(
                height,
                color="0.45",
                linestyle=(0, (6, 3)),
                linewidth=1.2,
                label="_nolegend_" if drawn else "guessing the average",
                gid="constant",
            )

    def _set_axes(self, relative: bool) -> None:
        ax = self.ax_
        held_out = any(line.get_gid() == "held out" for line in ax.get_lines())
        words = "loss" if held_out else "training loss"
        ax.set_ylabel("loss / guessing the average" if relative else words)
        ax.set_xlabel("" if self.score_ax_ else "epoch")
        lines = [line for line in ax.get_lines() if line.get_gid() == "loss"]
        most = max(len(line.get_xdata()) for line in lines)
        ax.set_xlim(0.5, most + max(0.5, 0.02 * most))
        _plots.whole_numbers(ax)
        known = self.constant_cost is not None
        _plots.set_loss_scale(ax, 0.0 if relative else self.least_cost, known)
        _plots.set_legend(ax)

    def _best(self, judged) -> str:
        if self.best_epoch_ is None:
            return ""
        return f"best epoch {self.best_epoch_}: {judged[self.best_epoch_ - 1]:.3g}"


def _curve_axes(with_scores: bool) -> Axes:
    """Axes of a new figure, with space for the score below the loss."""
    size = (9, 5.6 if with_scores else 4)
    return _plots.pyplot().subplots(figsize=size, layout="constrained")[1]


class ActivationDisplay:
    """What the hidden units do on given rows, layer by layer.

    The bars are the share of units that learn nothing more. Units of relu and the like
    are dead if they pass nothing on in any row. Outputs of logistic, tanh and the like
    are saturated if f' is below 1 % of its maximum. `diagnose` may name a layer that
    passes the dashed limit.

    Each row of the two maps is a histogram over all units of a layer and all rows of X,
    of a and of f'(z). A darker cell has a larger share of the values. A dot marks the
    root mean square. For f' the dot is about the factor by which the activation shrinks
    the error on its way back through the layer. For logistic units it is at most 1/4.
    If all values of f' are at the left edge, the layer passes nothing back.

    Parameters
    ----------
    activations : list of arrays of shape (n_samples, n_units)
        a of every hidden layer.
    derivatives : list of arrays of shape (n_samples, n_units)
        f'(z) of every hidden layer.
    names : sequence of str, default=None
        Names of the activations. None takes all for saturating ones.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The activations a.
    derivative_ax_ : matplotlib Axes
        The derivatives f'(z).
    units_ax_ : matplotlib Axes
        The bars.
    figure_ : matplotlib Figure
        The figure that holds all.
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

    def __init__(
        self,
        *,
        activations: list,
        derivatives: list,
        names: Sequence[str] | None = None,
    ) -> None:
        self.activations = activations
        self.derivatives = derivatives
        self.names = names

    @classmethod
    def from_estimator(cls, estimator, X, *, ax: Axes | None = None, **kwargs) -> Self:
        """Send rows through a fitted network and draw what its hidden units do.

        Parameters
        ----------
        estimator : estimator
            A BPClassifier or BPRegressor, or a pipeline, search or other model that
            holds one; of several the one that ended worst. Fitted,
            with at least one hidden layer.
        X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
            The rows, as `estimator` takes them; a few hundred are enough. All their
            activations stay in memory.
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
            If there is no network of this package in it.
        """
        inside = find_network(estimator)
        estimator, X = inside.estimator, inside.inputs(X)
        check_is_fitted(estimator)
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
        names = network_of(estimator).activations
        display = cls(activations=activations, derivatives=derivatives, names=names)
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
        if ax is None:
            _, ax = _plots.pyplot().subplots(figsize=(9, 4.2), layout="constrained")
        _plots.check_axes("ax", ax)
        n_layers = len(self.activations)
        ((units, middle, right),) = _plots.split(ax, [1, 1.2, 1.2], gap=0.08)
        low = min(0.0, *(a.min() for a in self.activations))
        high = max(1.0, *(a.max() for a in self.activations))
        self.mesh_ = _plots.draw_shares(middle, self.activations, low, high, kwargs)
        top = max(1.0, *(slope.max() for slope in self.derivatives))
        self.derivative_mesh_ = _plots.draw_shares(
            right,
            self.derivatives,
            min(0.0, *map(np.min, self.derivatives)),
            top,
            kwargs,
        )
        _plots.draw_units(units, *self.lost_units())
        _plots.set_layers(units, n_layers, output=False)
        for each, title in (
            (units, "lost units"),
            (middle, "activations a"),
            (right, "derivatives f'(z)"),
        ):
            each.set_title(title, loc="left", fontsize=_plots.TITLE_SIZE)
            if each is not units:
                each.sharey(units)
                each.tick_params(labelleft=False)
        self.ax_, self.derivative_ax_, self.units_ax_ = middle, right, units
        self.figure_ = ax.figure
        self.colorbar_ = None
        if colorbar:
            self.colorbar_ = self.figure_.colorbar(
                self.mesh_, ax=right, extend="min", label="share of the layer's values"
            )
            if "norm" not in kwargs:
                _plots.set_percents(self.colorbar_)
        return self

    def lost_units(self) -> tuple[list[float], list[str]]:
        """The share of dead or saturated units of every layer, and which of both.

        Returns
        -------
        shares : list of float
            Of a layer of relu or the like, the units that pass nothing back in any row;
            of others, the values of f' below 1 % of its maximum.
        kinds : list of {"dead", "saturated", ""}
            "" of a layer that can lose no units.
        """
        names = self.names or [""] * len(self.derivatives)
        kinds = [
            ACTIVATIONS[name].lost_units if name else "saturated" for name in names
        ]
        shares = []
        for kind, name, slope in zip(kinds, names, self.derivatives, strict=True):
            limit = 0.0025 if name in ("logistic", "sigmoid") else 0.011
            flat = np.abs(slope) < limit
            lost = flat.all(axis=0) if kind == "dead" else flat
            shares.append(float(lost.mean()) if kind else 0.0)
        return shares, kinds
