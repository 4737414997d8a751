"""The parts of pictures: axes, titles, maps, curves and bars; each draws into axes.

plotting.py puts them together. What the colours mean is in _colors.py. matplotlib is
imported for the first picture. Layers and epochs are counted from 1, as in the
sentences of `diagnose`; `gradient_flow_.epoch` begins at 0.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cbp import _colors
from cbp.gradient_flow import GradientFlow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh

    Floats = NDArray[np.floating[Any]]

TITLE_SIZE, SMALL = 10, 9
HISTOGRAM_BINS = 60
WIDE = 10.0  # activations beyond this are drawn on a symmetric logarithmic axis
FEW_LAYERS = 6  # so many have their own colour and dashes


def pyplot() -> Any:
    """matplotlib.pyplot, imported on first use."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'Pictures need matplotlib. Install it with: pip install "cbp-learn[plot]"'
        ) from error
    return plt


# ---- axes, titles and ticks


def check_axes(name: str, ax: Any) -> None:
    """Refuse all but a single Axes, for example the array that `subplots` returns."""
    if isinstance(ax, pyplot().Axes):
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


def split(
    ax: Axes,
    widths: Sequence[float] = (1,),
    heights: Sequence[float] = (1,),
    gap: float = 0.04,
) -> list[list[Axes]]:
    """Rows of axes that share the space that ax had before; ax is the first of them."""
    spec = ax.get_subplotspec()
    if spec is None:
        box = ax.get_position()
        spec = ax.figure.add_gridspec(
            left=box.x0, right=box.x1, bottom=box.y0, top=box.y1
        )[0]
    grid = spec.subgridspec(
        len(heights),
        len(widths),
        width_ratios=widths,
        height_ratios=heights,
        wspace=gap,
        hspace=0.1 if gap else None,
    )
    ax.set_subplotspec(grid[0, 0])
    return [
        [
            ax if row == column == 0 else ax.figure.add_subplot(grid[row, column])
            for column in range(len(widths))
        ]
        for row in range(len(heights))
    ]


def set_title(ax: Axes, name: str | None, text: str | None, width: float) -> None:
    """A title over ax and the axes next to it, wrapped to `width` pixels."""
    letters = letters_in(ax, width, TITLE_SIZE)
    lines = [textwrap.fill(part, letters) for part in (name, text) if part]
    ax.set_title("\n".join(lines), loc="left", fontsize=TITLE_SIZE, parse_math=False)


def letters_in(ax: Axes, width: float, size: float) -> int:
    """How many letters of a size fit into so many pixels."""
    points = width / ax.figure.dpi * 72
    return max(int(points / (0.5 * size)), 20)  # half as wide as high


def set_layers(ax: Axes, n_layers: int, *, output: bool, most: int = 12) -> None:
    """Layers upwards, with a tick for each layer if there is enough space."""
    steps = (1, 2, 5, 10, 20, 50, 100, n_layers)
    step = next(step for step in steps if n_layers <= most * step)
    ticks = {1, *range(step, n_layers + 1, step)}
    if output:
        ticks = {t for t in ticks if t == 1 or n_layers - t >= step / 2} | {n_layers}
    labels = {n_layers: "output"} if output else {}
    ax.set_yticks(sorted(ticks), [labels.get(t, str(t)) for t in sorted(ticks)])
    ax.set_ylim(0.5, n_layers + 0.5)
    ax.set_ylabel("layer")


def whole_numbers(ax: Axes) -> None:
    """Ticks of epochs at whole numbers only."""
    ax.locator_params(axis="x", integer=True, min_n_ticks=1)


def edges(epoch: NDArray) -> Floats:
    """Borders of cells around epochs: half way between two of them."""
    middle = (epoch[1:] + epoch[:-1]) / 2
    return np.concatenate([[epoch[0] - 0.5], middle, [epoch[-1] + 0.5]])


def set_legend(ax: Axes) -> None:
    """A legend above the axes; inside them it would cover curves."""
    labels = ax.get_legend_handles_labels()[1]
    if labels:
        columns = 1 if max(map(len, labels)) > 32 else 2
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=columns,
            frameon=False,
            fontsize=SMALL,
        )


# ---- errors, layer by layer


def error_decades(flow: GradientFlow) -> tuple[Floats, NDArray[np.bool_]]:
    """Decimal logarithms of the errors relative to the output layer's, and where they
    are not finite, both of shape (n_records, n_layers).

    NaN where a layer's error and the output layer's are both zero.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        decades = np.log10(flow.relative_error.astype(np.float64))
    # An error of zero is outside every scale, but it has a colour.
    decades = np.clip(decades, -99, 99)
    finite = np.isfinite(flow.delta) & np.isfinite(flow.delta[:, -1:])
    return decades, ~(finite & np.isfinite(flow.gradient) & (flow.nonfinite == 0))


def typical_errors(flow: GradientFlow) -> Floats:
    """Geometric mean of the errors in the second half of the records, per layer; of all
    records if these are not finite. NaN if none is."""
    decades, bad = error_decades(flow)
    known = ~(bad | np.isnan(decades)).any(axis=1)
    late = known & (np.arange(len(known)) >= len(known) // 2)
    chosen = decades[late if late.any() else known]
    if not len(chosen):
        return np.full(flow.n_layers, np.nan)
    return 10.0 ** chosen.mean(axis=0)


def worst_layer(errors: Floats) -> int | None:
    """The layer, from 1, whose error is furthest outside the limits; None if all are
    within them."""
    low, high = _colors.HEALTHY_ERRORS
    with np.errstate(divide="ignore", invalid="ignore"):
        outside = np.maximum(np.log(low / errors), np.log(errors / high))
    outside = np.where(np.isnan(outside), -np.inf, outside)
    layer = int(outside.argmax())
    return layer + 1 if outside[layer] > 0 else None


def share_text(share: float) -> str:
    """A part or a multiple, as people write it: "2.8 %" or "350 times"."""
    if share == 0:
        return "0"
    if share >= 1:
        digits = f"{share:.2g}" if share < 100 else f"{share:,.0f}"
        return f"{digits} times" if share < 1e6 else "over 1,000,000 times"
    if share < 1e-6:
        return "below 0.0001 %"
    percent = f"{100 * share:.2g}"
    if "e" in percent:
        percent = f"{100 * share:.5f}".rstrip("0")
    return f"{percent} %"


def error_colors() -> Any:
    """The colour map of errors."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("cbp_errors", _colors.ERROR_COLORS, N=1024)


def draw_error_map(ax: Axes, flow: GradientFlow, kwargs: Mapping[str, Any]) -> QuadMesh:
    """Errors by epoch and layer, as colours."""
    decades, bad = error_decades(flow)
    borders = edges(flow.epoch + 1), np.arange(flow.n_layers + 1) + 0.5
    options = {"cmap": error_colors(), **kwargs}
    if "norm" not in kwargs:
        options = {"vmin": -_colors.DECADES, "vmax": _colors.DECADES, **options}
    cells = np.ma.masked_where(bad | np.isnan(decades), decades)
    mesh = ax.pcolormesh(*borders, cells.T, **options)
    if bad.any():
        _hatch(ax, borders[0], bad, 0.5, 1)
        _note_no_gradient(ax, flow, borders[0], bad.any(axis=1))
    elif flow.n_layers == 1:
        words = "no hidden layer: there is nothing to compare"
        ax.text(0.5, 0.5, words, ha="center", transform=ax.transAxes, fontsize=SMALL)
    ax.set_xlabel("epoch")
    whole_numbers(ax)
    return mesh


def _hatch(
    ax: Axes, borders: Floats, bad: NDArray[np.bool_], bottom: float, height: float
) -> None:
    """Hatch the records of every layer that are not finite; the first layer begins at
    bottom."""
    # Neighbouring cells are joined: thousands of hatched ones take half a minute.
    steps = np.diff(np.pad(bad, ((1, 1), (0, 0))).astype(int), axis=0)
    for layer, step in enumerate(steps.T):
        left, right = borders[step == 1], borders[step == -1]
        ax.broken_barh(
            list(zip(left, right - left, strict=True)),
            (bottom + layer * height, height),
            linewidth=0,
            hatch=_colors.HATCH,
            **_colors.HATCH_COLORS,
        )


def _note_no_gradient(ax: Axes, flow: GradientFlow, borders, bad) -> None:
    """Words beside the hatching: one record may be narrower than a pixel."""
    first = int(bad.argmax())
    if not bad[first:].all():
        words = f"no gradient in epoch {flow.epoch[first] + 1}"
    elif first == 0:
        words = "no gradient in any epoch"
    else:
        words = f"no gradient after epoch {flow.epoch[first - 1] + 1}"
    whole = borders[-1] - borders[0]
    share = (borders[first] - borders[0]) / whole
    # In the middle of a wide hatched part, else beside its edge.
    wide = bad[first:].all() and share < 0.5
    x, align = ((1 + share) / 2, "center") if wide else (share, "right")
    if not wide and share < 0.5:
        align = "left"
    ax.annotate(
        words,
        (x, 0.5),
        xycoords="axes fraction",
        xytext=({"center": 0, "left": 8, "right": -8}[align], 0),
        textcoords="offset points",
        ha=align,
        va="center",
        fontsize=SMALL,
        bbox={"facecolor": "white", "edgecolor": "#8a8a8a"},
    )


def draw_errors(ax: Axes, errors: Floats, marked: int | None) -> None:
    """A line of the error of every layer on the healthy band.

    marked: the layer, from 1, whose number is written beside it.
    """
    limit = 10.0**_colors.DECADES
    x = np.where(np.isfinite(errors), np.clip(errors, 1 / limit, limit), np.nan)
    layers = np.arange(1, len(errors) + 1)
    ax.axvspan(*_colors.HEALTHY_ERRORS, color=_colors.CALM, linewidth=0)
    size = np.clip(120 / len(errors), 2.5, 5)
    ax.plot(x, layers, "o-", color="black", linewidth=1, markersize=size, clip_on=False)
    ax.set_xscale("log")
    ax.set_xlim(1 / limit, limit)
    ax.set_xticks([1e-6, 1e-3, 1, 1e3, 1e6], ["", "1/1,000", "1", "1,000", ""])
    ax.set_xticks([], minor=True)
    ax.tick_params(axis="x", labelsize=SMALL)
    if not np.isfinite(errors[:-1]).all():
        words = {"ha": "center", "va": "center", "fontsize": SMALL}
        ax.text(0.5, 0.5, "not finite", transform=ax.transAxes, **words)
    if marked is not None and np.isfinite(errors[marked - 1]):
        place, small = x[marked - 1], errors[marked - 1] < 1
        ax.plot(
            [place],
            [marked],
            "o",
            markersize=size + 6,
            markerfacecolor="none",
            markeredgecolor=_colors.MARKED,
            markeredgewidth=2,
            clip_on=False,
            gid="marked",
        )
        middle = (len(errors) + 1) / 2
        ax.annotate(
            share_text(float(errors[marked - 1])),
            (place, marked),
            xytext=(10 if small else -10, 0 if len(errors) < 3 else 6),
            textcoords="offset points",
            ha="left" if small else "right",
            va="center" if len(errors) < 3 else "bottom" if marked <= middle else "top",
            color=_colors.MARKED,
            fontsize=SMALL,
            fontweight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        )


def add_error_scale(mesh: QuadMesh, figure: Any, **where: Any) -> Any:
    """The scale of the colours, in words."""
    ticks = [-6, -3, *np.log10(_colors.HEALTHY_ERRORS), 3, 6]
    words = ["1/1,000,000", "1/1,000", "1/20", "10 times", "1,000 times"]
    words += ["1,000,000 times"]
    bar = figure.colorbar(mesh, extend="both", **where)
    if mesh.get_clim() == (-_colors.DECADES, _colors.DECADES):
        bar.set_ticks(ticks, labels=words)
        place = {"ha": "center", "va": "center", "fontsize": 8}
        upright = bar.orientation == "vertical"
        for x, word, color in (
            (-3.6, "vanishing", "white"),
            (-0.15, "healthy", "black"),
            (3.5, "exploding", "white"),
        ):
            at = (0.5, x) if upright else (x, 0.5)
            bar.ax.text(*at, word, rotation=90 * upright, color=color, **place)
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label("error of a layer, compared with the output layer", fontsize=SMALL)
    return bar


# ---- steps


def draw_steps(ax: Axes, flow: GradientFlow, n_steps: int | None) -> list[Any]:
    """Update/weight of one step over epochs, a curve for each layer, on three bands.

    n_steps: how many steps the fit made; it says which steps were too small.
    """
    epoch = flow.epoch + 1
    least, most = _colors.RATIO_RANGE
    low, high = _colors.HEALTHY_RATIOS
    if n_steps:
        low = low * 1000 / n_steps
    low = np.clip(low, 10 * least, high / 1.5)
    borders = edges(epoch)
    # Steps of the first half may be larger.
    upper = np.full(len(borders), high)
    upper[: len(epoch) // 2 + 1] = _colors.HEALTHY_FIRST
    bands = {"linewidth": 0, "zorder": 0, "step": "pre"}
    ax.fill_between(borders, least, low, color=_colors.TOO_SMALL, **bands)
    ax.fill_between(borders, low, upper, color=_colors.FINE, **bands)
    ax.fill_between(borders, upper, most, color=_colors.TOO_LARGE, **bands)
    ratio = np.array(flow.update_ratio, np.float64)
    ratio = np.where(np.isfinite(ratio), np.clip(ratio, least, most), np.nan)
    bad = ~np.isfinite(ratio).all(axis=1, keepdims=True)
    if bad.any():
        _hatch(ax, borders, bad, least, most)
    lines = []
    for layer, curve in enumerate(ratio.T, 1):
        look = _layer_look(layer, flow.n_layers)
        marker = {"marker": "o", "markersize": 4} if len(epoch) == 1 else {}
        lines += ax.plot(epoch, curve, **look, **marker)
    ax.set_yscale("log")
    ax.set_ylim(least, most)
    ax.set_yticks([1e-6, 1e-4, 1e-2, 1], ["0.000001", "0.0001", "0.01", "1"])
    ax.set_yticks([], minor=True)
    ax.tick_params(axis="y", labelsize=SMALL)
    ax.set_ylabel("step / weight")
    ax.set_xlim(borders[0], borders[-1])
    ax.set_xlabel("epoch")
    whole_numbers(ax)
    middles = {"too large": high * most, "fine": low * high, "too small": least * low}
    for word, product in middles.items():
        ax.annotate(
            word,
            (1, np.sqrt(product)),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            annotation_clip=False,
        ).set_in_layout(False)
    return lines


def _layer_look(layer: int, n_layers: int) -> dict[str, Any]:
    """Colour, dashes and label of a layer's curve."""
    name = "output" if layer == n_layers else f"layer {layer}"
    if n_layers <= FEW_LAYERS:
        dashes = _colors.LINE_STYLES[(layer - 1) % len(_colors.LINE_STYLES)]
        color = _colors.LINE_COLORS[layer - 1]
        return {"label": name, "color": color, "linestyle": dashes}
    from matplotlib import colormaps

    # Dark at the inputs, light at the outputs; four of them are named.
    named = {1 + round(part * (n_layers - 1) / 3) for part in range(4)}
    color = colormaps["viridis"](0.92 * (layer - 1) / (n_layers - 1))
    label = name if layer in named else "_nolegend_"
    return {"label": label, "color": color, "linewidth": 1}


def draw_layer_names(ax: Axes, lines: Sequence[Any]) -> None:
    """A legend of layers that fills axes of its own, the output layer on top."""
    ax.set_axis_off()
    shown = [line for line in lines if not line.get_label().startswith("_")]
    ax.legend(
        handles=shown[::-1],
        loc="center right",
        frameon=False,
        fontsize=SMALL,
        handlelength=1.5,
        handletextpad=0.4,
        borderaxespad=0,
    )


# ---- losses


def set_loss_scale(ax: Axes, least: float, known: bool) -> None:
    """A logarithmic axis if the losses on it span more than a decade; else it begins at
    the least cost, so that small changes look small.

    known: whether the cost of guessing the average is drawn, too.
    """
    losses = np.concatenate(
        [np.asarray(line.get_ydata(), np.float64) for line in ax.get_lines()]
    )
    losses = losses[np.isfinite(losses)]
    if losses.size and losses.min() > 0 and losses.max() > 10 * losses.min():
        ax.set_yscale("log")
        _set_log_ticks(ax, wide=losses.max() > 100 * losses.min())
    elif known and losses.size:
        bottom = min(least, float(losses.min()))
        top = float(losses.max())
        ax.set_ylim(bottom, top + 0.06 * ((top - bottom) or 1))


def _set_log_ticks(ax: Axes, wide: bool) -> None:
    """Plain numbers at the powers of ten; also at 2 and 5 times them, if not wide."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    def plain(x: float, _: Any) -> str:
        usual = 1e-5 <= x < 1e6
        return np.format_float_positional(x, trim="-") if usual else f"{x:.0e}"

    ax.yaxis.set_major_formatter(FuncFormatter(plain))
    ax.yaxis.set_minor_formatter(NullFormatter())
    if not wide:
        ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        ax.yaxis.set_minor_formatter(FuncFormatter(plain))


def argmax(values: Floats) -> int | None:
    """The first place of the greatest finite value."""
    values = np.where(np.isfinite(values), values, -np.inf)
    return int(values.argmax()) if np.isfinite(values).any() else None


# ---- units


def draw_units(ax: Axes, lost: Sequence[float], kinds: Sequence[str]) -> None:
    """For every hidden layer a bar: the share of units that are dead or saturated, and
    of those that are alive. A line is drawn where the diagnosis names a layer."""
    layers = np.arange(1, len(lost) + 1)
    lost = np.asarray(lost, np.float64)
    shown = []
    for kind in ("dead", "saturated"):
        mine = np.array([each == kind for each in kinds])
        if not mine.any():
            continue
        shown += [_bar(ax, layers[mine], np.zeros(mine.sum()), lost[mine], kind)]
    shown.append(_bar(ax, layers, lost, 1 - lost, "alive"))
    limit = min(_colors.UNITS_LOST.values())
    shown.append(
        ax.axvline(limit, color="black", linestyle="--", linewidth=1.2, label="limit")
    )
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    ax.legend(
        handles=shown,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.12),
        ncols=2,
        frameon=False,
        fontsize=SMALL,
    )


def _bar(ax: Axes, layers: NDArray, left: Floats, width: Floats, kind: str) -> Any:
    return ax.barh(
        layers,
        width,
        left=left,
        height=0.8,
        label=kind,
        color=_colors.UNIT_COLORS[kind],
        hatch=_colors.UNIT_HATCHES[kind],
        edgecolor="white",
        linewidth=0,
    )


def set_percents(bar: Any) -> None:
    """Shares on a logarithmic scale as percentages."""
    bar.set_ticks([0.001, 0.01, 0.1, 1], labels=["0.1 %", "1 %", "10 %", "100 %"])
    bar.minorticks_off()


def draw_shares(ax: Axes, layers, low: float, high: float, kwargs) -> QuadMesh:
    """For each layer a histogram as a row of shades, and a dot at the RMS."""
    from matplotlib.colors import LogNorm

    borders = np.linspace(low, high, HISTOGRAM_BINS + 1)
    if max(-low, high) > WIDE:
        # Finer about 0: bounded and unbounded activations on one axis.
        borders = np.sinh(np.linspace(np.arcsinh(low), np.arcsinh(high), len(borders)))
        borders[[0, -1]] = low, high
        ax.set_xscale("symlog", linthresh=1)
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    counts = np.array([np.histogram(layer, borders)[0] for layer in layers])
    shares = counts / [[layer.size] for layer in layers]
    options = {"cmap": _colors.SHARE_COLORS, **kwargs}
    if not {"norm", "vmin", "vmax"} & set(kwargs):
        options["norm"] = LogNorm(*_colors.SHARE_RANGE)
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
