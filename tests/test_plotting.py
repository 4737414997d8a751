"""What the pictures show, that they can be read, and what is refused.

Pictures are also compared with small ones in tests/baseline, averaged over blocks of
pixels so that fonts do not matter. After a change that is meant, look at the new
pictures and write them with `python tests/test_plotting.py`.
"""

import itertools
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cbp import BPClassifier, BPRegressor, backpropagate
from cbp._catalog import ACTIVATIONS
from cbp._colors import CALM, HEALTHY_ERRORS
from cbp._evidence import EXPLODING_LATER
from cbp._plots import share_text
from cbp.diagnosis import Finding
from cbp.gradient_flow import FailedFlow, GradientFlow
from cbp.plotting import (
    HEALTHY_RATIOS,
    RATIO_RANGE,
    ActivationDisplay,
    GradientFlowDisplay,
    LossCurveDisplay,
)

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot")
image = pytest.importorskip("matplotlib.image")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

BASELINE = Path(__file__).parent / "baseline"
DPI, BLOCK = 40, 4
# Of mean |difference|, 1 being black against white. Measured: another version of
# matplotlib (3.9, 3.11) lays out differently by 0.035, a wrong picture by 0.047.
TOLERANCE = 0.04

X, y = load_iris(return_X_y=True)
DEPTHS = [1, 2, 3, 5, 10, 12, 13, 25, 30, 50]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def make_flow(n_layers, decades=0.0, epochs=range(40), ratio=1e-3, kind=GradientFlow):
    """Records whose gradients change by `decades` with each layer, going down."""
    epoch = np.array(epochs, dtype=np.int64)
    down = n_layers - 1 - np.arange(n_layers)
    ripple = 0.2 * np.sin(epoch[:, np.newaxis] + down) * (down > 0)
    gradient = (10.0 ** (decades * down + ripple)).astype(np.float32)
    weight = np.full_like(gradient, 0.1)
    update = (0.1 * ratio * 10**ripple * np.ones(n_layers)).astype(np.float32)
    zeros = np.zeros_like(gradient)
    return kind(
        epoch=epoch,
        gradient=gradient,
        delta=gradient.copy(),
        back=gradient.copy(),
        weight=weight,
        update=update,
        saturated=zeros,
        stuck=zeros,
        floored=zeros,
        nonfinite=zeros.copy(),
        layer_sizes=(8,) * (n_layers + 1),
        activations=("tanh",) * (n_layers - 1),
    )


def spoil(flow, record, layers=slice(None)):
    """The same, not finite from a record on."""
    flow.gradient[record:, layers] = np.nan
    flow.nonfinite[record:, layers] = 1
    return flow


def fit(activation="tanh", layers=(8, 8), estimator=BPClassifier, **options):
    options = {"max_iter": 15, "n_iter_no_change": np.inf, "random_state": 0} | options
    return estimator(hidden_layer_sizes=layers, activation=activation, **options).fit(
        X, y
    )


def diverged(**options):
    model = BPClassifier((8, 8), solver="sgd", learning_rate_init=1e30, **options)
    with pytest.raises(ValueError, match="diverged"):
        model.fit(X, y)
    return model


# ---------------------------------------------------------------------- matplotlib


def test_importing_the_package_and_its_plotting_does_not_import_matplotlib():
    code = "import cbp, cbp.plotting, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "draw",
    [
        lambda: GradientFlowDisplay.from_flow(make_flow(3)),
        lambda: GradientFlowDisplay.compare({"a": make_flow(3)}),
        lambda: LossCurveDisplay.from_estimator(fit()),
        lambda: ActivationDisplay.from_estimator(fit(), X),
    ],
)
def test_without_matplotlib_the_error_says_how_to_install_it(draw, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "cbp-learn\[plot\]"'):
        draw()


def test_the_extra_in_that_error_exists():
    path = Path(__file__).parents[1] / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    assert project["name"] == "cbp-learn"
    assert "matplotlib" in project["optional-dependencies"]["plot"]


# ------------------------------------------------------------------- gradient flow


def cells(display):
    """The map as (n_records, n_layers), blank cells masked."""
    return display.mesh_.get_array().reshape(display.flow.n_layers, -1).T


def hatched(display):
    """The hatched rectangles."""
    groups = [group for group in display.ax_.collections if group.get_hatch()]
    return [path for group in groups for path in group.get_paths()]


def test_cells_are_decades_of_the_error_of_which_the_verdict_speaks():
    flow = make_flow(4, -1.5)
    flow.gradient[...] = 7  # of which it does not speak
    expected = np.log10(flow.relative_error)
    display = GradientFlowDisplay.from_flow(flow)
    assert_allclose(cells(display), expected, atol=1e-5)
    assert not cells(display).mask.any()


def test_any_two_pictures_have_the_same_scale():
    for decades in [-3, 0, 2]:
        display = GradientFlowDisplay.from_flow(make_flow(4, decades))
        assert display.mesh_.get_clim() == (-6, 6)
        assert display.update_ax_.get_ylim() == RATIO_RANGE
        assert_allclose(display.error_ax_.get_xlim(), (1e-6, 1e6))


def test_cells_lie_round_their_epochs_which_are_counted_from_one():
    flow = make_flow(2, epochs=[0, 1, 2, 4, 8, 16, 32])
    display = GradientFlowDisplay.from_flow(flow)
    borders = display.mesh_.get_coordinates()[0, :, 0]
    assert_array_equal(borders, [0.5, 1.5, 2.5, 4, 7, 13, 25, 33.5])


@pytest.mark.parametrize("n_records", [1, 2, 512])
def test_any_number_of_records_can_be_drawn(n_records):
    display = GradientFlowDisplay.from_flow(make_flow(3, epochs=range(n_records)))
    assert cells(display).shape == (n_records, 3)
    assert all(tick == int(tick) for tick in display.ax_.get_xticks())


def test_cells_that_are_not_finite_are_hatched_and_the_last_good_epoch_is_named():
    display = GradientFlowDisplay.from_flow(spoil(make_flow(5), 30, slice(0, 2)))
    assert cells(display).mask[30:, :2].all() and cells(display).mask.sum() == 20
    boxes = [path.get_extents() for path in hatched(display)]
    assert_allclose(
        [box.extents for box in boxes], [[30.5, 0.5, 40.5, 1.5], [30.5, 1.5, 40.5, 2.5]]
    )
    (note,) = display.ax_.texts
    assert note.get_text() == "no gradient after epoch 30"
    assert not hatched(GradientFlowDisplay.from_flow(make_flow(5)))


def test_a_fit_that_diverges_at_once_is_hatched_all_over_and_says_so():
    for first, words in [(1, "no gradient after epoch 1"), (0, "no gradient in any")]:
        flow = spoil(make_flow(3), first)
        flow.update[first:] = np.inf
        display = GradientFlowDisplay.from_flow(flow)
        assert display.ax_.texts[0].get_text().startswith(words)
        whole = sum(np.prod(path.get_extents().size) for path in hatched(display))
        assert whole == 3 * (40 - first)
        # Nor are there steps: their curves give way to hatching, too.
        assert any(group.get_hatch() for group in display.update_ax_.collections)


def test_no_cell_within_the_healthy_limits_has_a_colour():
    low, high = np.log10(HEALTHY_ERRORS)
    display = GradientFlowDisplay.from_flow(make_flow(3))
    colors = display.mesh_.get_cmap()(display.mesh_.norm(np.linspace(-6, 6, 2001)))
    decades = np.linspace(-6, 6, 2001)
    inside = (low + 0.02 < decades) & (decades < high - 0.02)
    outside = (decades < low - 0.02) | (high + 0.02 < decades)
    calm = matplotlib.colors.to_rgba(CALM)
    assert_allclose(colors[inside], np.tile(calm, (inside.sum(), 1)), atol=0.01)
    assert (np.abs(colors[outside] - calm).max(axis=1) > 0.1).all()


def test_the_number_of_the_verdict_is_marked_on_the_line_of_errors():
    model = fit("logistic", (8,) * 6)
    finding = next(
        f for f in model.diagnose().findings if f.code == "vanishing-gradient"
    )
    display = GradientFlowDisplay.from_estimator(model)
    errors = finding.evidence["relative_error"]
    (line, mark) = display.error_ax_.get_lines()
    assert_allclose(line.get_xdata(), np.clip(errors, 1e-6, None))
    assert mark.get_gid() == "marked" and mark.get_ydata()[0] == finding.layer
    assert_allclose(mark.get_xdata()[0], max(errors[finding.layer - 1], 1e-6))
    healthy = GradientFlowDisplay.from_estimator(fit("relu"))
    assert len(healthy.error_ax_.get_lines()) == 1 and not healthy.error_ax_.texts


@pytest.mark.parametrize(
    "share, words",
    [
        (0, "0"),
        (0.028, "2.8 %"),
        (0.5, "50 %"),
        (3e-5, "0.003 %"),
        (1e-9, "below 0.0001 %"),
        (24.3, "24 times"),
        (3512, "3,512 times"),
        (1e9, "over 1,000,000 times"),
    ],
)
def test_shares_are_written_as_people_write_them(share, words):
    assert share_text(share) == words


def test_without_a_hidden_layer_the_map_says_that_there_is_nothing_to_compare():
    display = GradientFlowDisplay.from_flow(make_flow(1))
    assert "no hidden layer" in display.ax_.texts[0].get_text()


def test_an_error_of_zero_is_the_darkest_and_none_at_all_is_blank():
    flow = make_flow(3)
    flow.delta[:, 0] = 0
    flow.delta[7] = 0
    display = GradientFlowDisplay.from_flow(flow)
    assert cells(display).mask[7].all() and cells(display).mask.sum() == 3
    assert (cells(display)[:7, 0] < -6).all()
    assert not hatched(display)


def test_steps_are_curves_over_epochs_between_too_small_and_too_large():
    flow = make_flow(4)
    for layer, ratio in enumerate([1e-3, 1e-9, 1e-2, 50]):
        flow.update[:, layer] = ratio * flow.weight[:, layer]
    ax = GradientFlowDisplay.from_flow(flow).update_ax_
    heights = [line.get_ydata()[0] for line in ax.get_lines()]
    assert_allclose(heights, [1e-3, 1e-7, 1e-2, 1], rtol=1e-5)
    assert all(len(line.get_xdata()) == 40 for line in ax.get_lines())
    words = {text.get_text(): text.xy[1] for text in ax.texts}
    low, high = HEALTHY_RATIOS
    assert words["too small"] < low < words["fine"] < high < words["too large"]


def test_how_small_a_step_may_be_depends_on_their_number():
    for n_steps in (100, 10000):
        display = GradientFlowDisplay(flow=make_flow(2), n_steps=n_steps).plot()
        small = display.update_ax_.collections[0].get_paths()[0].get_extents()
        assert_allclose(small.y1, 0.1 / n_steps)
    model = fit()
    display = GradientFlowDisplay.from_estimator(model)
    assert display.n_steps == model.n_iter_  # 150 rows are one batch


def test_the_title_is_the_verdict_and_its_lines_fit_the_figure():
    model = fit("logistic", (8,) * 10)
    display = GradientFlowDisplay.from_estimator(model, name="ten sigmoid layers")
    title = display.ax_.get_title(loc="left")
    verdict = model.diagnose().verdict
    assert title.replace("\n", " ") == f"ten sigmoid layers {verdict}"
    display.figure_.canvas.draw()
    box = display.ax_._left_title.get_window_extent()
    assert box.x1 <= display.figure_.bbox.x1


def test_fits_compare_in_rows_with_verdict_score_and_worst_layer():
    deep = fit("sigmoid", (8,) * 9)
    good = fit("tanh", learning_rate_init=0.05, max_iter=60)
    fits = {"sigmoid": deep, "tanh": good, "r": make_flow(3)}
    displays = GradientFlowDisplay.compare(fits)
    figure = displays[0].figure_
    assert all(display.figure_ is figure for display in displays)
    assert all(display.mesh_.get_clim() == (-6, 6) for display in displays)
    assert len(figure.axes) == 3 * 2 + 1  # one scale for all
    assert [display.name for display in displays] == list(fits)
    said = [" ".join(display.text_.get_text().split()) for display in displays]
    assert said[0].startswith(deep.diagnose().verdict[:40])
    right = f"{deep._fit_summary.standing.train.score:.2f}"
    assert f"Score: accuracy {right} on training rows" in said[0]
    assert "Worst layer: layer 1, with below 0.0001 % of the output" in said[0]
    right = f"{good._fit_summary.standing.train.score:.2f}"
    assert f"accuracy {right} on" in said[1] and "none is outside" in said[1]
    assert said[2] == "Worst layer: none is outside the limits."
    figure.canvas.draw()
    boxes = np.array([display.ax_.get_position().bounds for display in displays])
    assert_allclose(boxes[:, [0, 2]], boxes[[0, 0, 0]][:, [0, 2]], atol=0.02)
    assert (np.diff(boxes[:, 1]) < -boxes[1:, 3]).all()  # below each other


@pytest.mark.parametrize("n_fits", [1, 4])
def test_no_row_of_a_comparison_writes_into_the_next(n_fits):
    model = fit("sigmoid", (8,) * 9)
    displays = GradientFlowDisplay.compare({str(i): model for i in range(n_fits)})
    figure = displays[0].figure_
    figure.canvas.draw()
    texts = [display.text_.get_window_extent() for display in displays]
    for text, display in zip(texts, displays, strict=True):
        assert text.x1 <= figure.bbox.x1
        row = display.ax_.get_window_extent()
        assert text.y0 > row.y0 - 20 and text.x0 > row.x1


def test_many_fits_take_one_row_each():
    displays = GradientFlowDisplay.compare({str(i): make_flow(2) for i in range(5)})
    assert len(displays) == 5
    assert len(displays[0].figure_.axes) == 5 * 2 + 1


def test_given_axes_are_shared_with_what_stands_beside_the_map():
    figure, (left, right) = plt.subplots(1, 2)
    free = figure.add_axes([0.1, 0.1, 0.2, 0.2])
    for ax in (right, free):
        room = ax.get_position()
        display = GradientFlowDisplay.from_flow(make_flow(3), ax=ax)
        assert display.ax_ is ax and display.figure_ is figure
        for part in (display.ax_, display.update_ax_):
            box = part.get_position()
            assert box.x0 >= room.x0 - 1e-9 and box.x1 <= room.x1 + 1e-9


def test_keyword_arguments_reach_matplotlib():
    flow = make_flow(3)
    display = GradientFlowDisplay.from_flow(
        flow, cmap="gray", vmin=-2, vmax=2, update_ratio=False, colorbar=False
    )
    assert display.mesh_.get_cmap().name == "gray"
    assert display.mesh_.get_clim() == (-2, 2)
    assert display.update_ax_ is None and display.colorbar_ is None
    norm = matplotlib.colors.Normalize(-1, 1)
    assert GradientFlowDisplay.from_flow(flow, norm=norm).mesh_.norm is norm
    lines = LossCurveDisplay.from_estimator(fit(), lw=3, color="red", label="a")
    assert lines.line_.get_linewidth() == 3 and lines.line_.get_label() == "a"
    display = ActivationDisplay.from_estimator(fit(), X, cmap="gray")
    assert display.derivative_mesh_.get_cmap().name == "gray"


def test_a_fit_that_diverged_is_drawn():
    model = diverged()
    display = GradientFlowDisplay.from_estimator(model)
    assert isinstance(display.flow, FailedFlow)
    assert hatched(display)
    assert display.verdict.startswith("Training diverged: ")


def test_a_fit_by_lbfgs_is_drawn_by_iterations():
    model = fit(solver="lbfgs")
    display = GradientFlowDisplay.from_estimator(model)
    assert len(cells(display)) == len(model.gradient_flow_.epoch) > 4


def test_hatching_leaves_finite_cells_between_free():
    flow = make_flow(3, epochs=range(9))
    flow.gradient[[0, 1, 4, 8], 0] = np.inf
    boxes = [
        path.get_extents() for path in hatched(GradientFlowDisplay.from_flow(flow))
    ]
    assert_allclose(
        [[box.x0, box.x1] for box in boxes], [[0.5, 2.5], [4.5, 5.5], [8.5, 9.5]]
    )
    assert all((box.y0, box.y1) == (0.5, 1.5) for box in boxes)


# --------------------------------------------------------------------- legibility


@pytest.mark.parametrize("n_layers", DEPTHS)
def test_labels_of_layers_do_not_overlap(n_layers):
    display = GradientFlowDisplay.from_flow(make_flow(n_layers))
    display.figure_.canvas.draw()
    labels = display.ax_.get_yticklabels()
    assert labels[0].get_text() == ("1" if n_layers > 1 else "output")
    assert labels[-1].get_text() == "output"
    boxes = [label.get_window_extent() for label in labels]
    # Digits have no descenders: letters may touch a sixth of the next line's box.
    for below, above in zip(boxes[:-1], boxes[1:], strict=True):
        assert above.y0 - below.y1 > -below.height / 6


def lightness(rgb):
    """CIE L* of sRGB colours."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * np.cbrt(np.maximum(luminance, 0.008856)) - 16


def sides(n=25):
    """Colours of the scale: of what vanishes, and of what explodes in later epochs."""
    display = GradientFlowDisplay.from_flow(make_flow(2))
    colors, norm = display.mesh_.get_cmap(), display.mesh_.norm
    low = np.log10(HEALTHY_ERRORS[0])
    return [
        colors(norm(np.linspace(start, end, n)))[:, :3]
        for start, end in [(low - 0.02, -6), (np.log10(EXPLODING_LATER) + 0.02, 6)]
    ]


def test_printed_in_grey_what_is_outside_the_limits_is_darker_the_further_it_is():
    calm = lightness(np.array(matplotlib.colors.to_rgb(CALM)))
    for colors in sides():
        light = lightness(colors)
        assert calm - light[0] > 10
        assert (np.diff(light) < 0).all()


# Machado, Oliveira, Fernandes, "A physiologically-based model for simulation of color
# vision deficiency", IEEE TVCG 15, 2009: severity 1.0, on linear RGB.
BLINDNESS = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def seen(rgb, kind):
    """sRGB as readers with that kind of colour blindness see it, on linear scales."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return np.clip(linear @ np.transpose(BLINDNESS[kind]), 0, 1)


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_colour_blind_tell_vanishing_from_exploding_and_far_from_near(kind):
    vanishing, exploding = (seen(colors, kind) for colors in sides())
    for colors in (vanishing, exploding):
        assert (np.diff(colors @ [0.2126, 0.7152, 0.0722]) < 0).all()
    # One is bluish, the other is not; with tritanopia, greenish and reddish.
    first, last = (0, 1) if kind == "tritanopia" else (2, 0)
    tint = [
        c[:, first] / c.sum(axis=1) - c[:, last] / c.sum(axis=1)
        for c in (vanishing, exploding)
    ]
    assert np.abs(tint[0][:, np.newaxis] - tint[1]).min() > 0.1


def test_no_two_of_thirty_lines_look_alike():
    displays = LossCurveDisplay.compare({str(i): fit() for i in range(1)})
    ax = displays[0].ax_
    for _ in range(29):
        LossCurveDisplay(loss_curve=[2, 1]).plot(ax)
    looks = {
        (line.get_color(), str(line._unscaled_dash_pattern))
        for line in ax.get_lines()
        if line.get_gid() == "loss"
    }
    assert len(looks) == 30


# --------------------------------------------------------------------- loss curves


def test_curves_are_the_losses_and_scores_of_the_epochs_from_one():
    model = fit(early_stopping=True)
    display = LossCurveDisplay.from_estimator(model)
    assert_array_equal(display.line_.get_ydata(), model.loss_curve_)
    assert_array_equal(display.score_line_.get_ydata(), model.validation_scores_)
    for line in (display.line_, display.score_line_):
        assert_array_equal(line.get_xdata(), np.arange(1, model.n_iter_ + 1))
    assert display.score_ax_.get_ylabel() == "validation accuracy"


def test_the_best_epoch_is_one_of_held_out_rows_by_score_else_by_loss():
    curves = {"loss_curve": [3, 1, 2, 2.5], "validation_scores": [0, 0.1, 0.9, np.nan]}
    display = LossCurveDisplay(**curves).plot()
    assert display.best_epoch_ == 3
    assert display.score_line_.get_markevery() == [2]
    assert display.score_line_.get_label() == "best epoch 3: 0.9"
    assert display.line_.get_marker() == ""  # it is not the training rows'
    curves = {"loss_curve": [3, 1, 0.5], "validation_loss_curve": [3, 2, 2.5]}
    display = LossCurveDisplay(**curves).plot()
    assert display.best_epoch_ == 2 and display.score_line_ is None
    assert display.held_out_line_.get_label() == "held-out rows, best epoch 2: 2"
    assert display.held_out_line_.get_markevery() == [1]
    display = LossCurveDisplay(loss_curve=[3, 1, 2, np.nan], name="a").plot()
    assert display.best_epoch_ is None
    assert display.line_.get_label() == "a"
    display = LossCurveDisplay(loss_curve=[np.nan, np.inf]).plot()
    assert display.line_.get_label() == "training rows, no finite number"


def test_the_gap_to_held_out_rows_is_shaded():
    model = BPClassifier((8,), max_iter=15, random_state=0)
    model.fit(X[::2], y[::2], X_val=X[1::2], y_val=y[1::2])
    display = LossCurveDisplay.from_estimator(model)
    assert_array_equal(display.held_out_line_.get_ydata(), model.validation_loss_curve_)
    (gap,) = display.ax_.collections
    box = gap.get_paths()[0].get_extents()
    both = np.concatenate([model.loss_curve_, model.validation_loss_curve_])
    assert_allclose([box.y0, box.y1], [both.min(), both.max()])
    assert len(display.ax_.get_shared_x_axes().get_siblings(display.ax_)) == 2
    assert display.score_ax_ is not display.ax_  # accuracy is on axes of its own


def test_a_dashed_line_is_the_loss_of_guessing_the_average():
    display = LossCurveDisplay.from_estimator(fit())
    line = display.constant_line_
    assert_allclose(line.get_ydata(), np.log(3))  # three classes of 50 rows
    assert line.get_label() == "guessing the average" and line.is_dashed()
    targets = fit(estimator=BPRegressor)
    display = LossCurveDisplay.from_estimator(targets)
    assert_allclose(display.constant_line_.get_ydata(), np.var(y) / 2)
    assert LossCurveDisplay.from_estimator(fit(monitor=False)).constant_line_ is None


def test_a_loss_that_hardly_changes_looks_as_if_it_hardly_changed():
    curves = {"loss_curve": [1.1, 1.099, 1.0987], "constant_cost": 1.0986}
    display = LossCurveDisplay(**curves).plot()
    assert display.ax_.get_ylim()[0] == 0
    smoothed = LossCurveDisplay(**curves, least_cost=0.4).plot()
    assert smoothed.ax_.get_ylim()[0] == 0.4


def test_several_fits_are_compared_by_their_loss_over_that_of_guessing():
    fits = {"labels": fit(), "numbers": fit(estimator=BPRegressor)}
    labels, numbers = LossCurveDisplay.compare(fits)
    assert_allclose(labels.line_.get_ydata(), labels.loss_curve / np.log(3))
    assert_allclose(
        numbers.line_.get_ydata(),
        np.minimum(np.array(numbers.loss_curve) / (1 / 3), 10),
    )
    assert_allclose(labels.constant_line_.get_ydata(), 1)
    assert numbers.constant_line_ is None  # one is enough
    assert "guessing the average" in labels.ax_.get_ylabel()
    wild = LossCurveDisplay(loss_curve=[1, 1e30, 2], constant_cost=1).plot(
        relative=True
    )
    assert_array_equal(wild.line_.get_ydata(), [1, 10, 2])
    with pytest.raises(ValueError, match="needs constant_cost"):
        LossCurveDisplay(loss_curve=[1]).plot(relative=True)
    # Nothing is known of the data of a fit without records: losses as they are.
    (plain, _) = LossCurveDisplay.compare({"a": fit(monitor=False), "b": fit()})
    assert_array_equal(plain.line_.get_ydata(), plain.loss_curve)


def test_several_fits_share_the_axes_with_and_without_scores():
    fits = {
        "tanh": fit(),
        "relu": fit("relu", early_stopping=True),
        "regressor": fit(estimator=BPRegressor, early_stopping=True),
    }
    displays = LossCurveDisplay.compare(fits)
    figure = displays[0].figure_
    assert len(figure.axes) == 2
    assert all(display.ax_ is displays[0].ax_ for display in displays)
    assert displays[0].score_ax_ is None
    assert displays[1].score_ax_ is displays[2].score_ax_
    names = [text.get_text() for text in displays[0].ax_.get_legend().get_texts()]
    assert [name.split(",")[0] for name in names if name.split(",")[0] in fits] == (
        list(fits)
    )
    assert {"guessing the average", "held-out rows: thin lines"} < set(names)
    # Accuracy of one, R2 of the other.
    assert displays[1].score_ax_.get_ylabel() == "validation score"


def test_a_fit_is_added_to_the_picture_of_another():
    first = LossCurveDisplay.from_estimator(fit(early_stopping=True))
    second = LossCurveDisplay.from_estimator(
        fit("relu", early_stopping=True), ax=first.ax_, score_ax=first.score_ax_
    )
    assert second.figure_ is first.figure_ and len(first.figure_.axes) == 2
    assert first.line_.get_color() != second.line_.get_color()
    assert second.line_.get_color() == second.score_line_.get_color()


def test_losses_over_more_than_a_decade_get_a_logarithmic_axis():
    assert LossCurveDisplay(loss_curve=[3, 0.1]).plot().ax_.get_yscale() == "log"
    for curve in [[3, 1], [3, 0], [np.nan, 1]]:
        assert LossCurveDisplay(loss_curve=curve).plot().ax_.get_yscale() == "linear"


def test_the_loss_of_a_fit_that_diverged_is_drawn():
    model = diverged(random_state=0)
    model._failed_flow = FailedFlow(**vars(make_flow(3)), loss_curve=(2.0, 1.5, 4.0))
    display = LossCurveDisplay.from_estimator(model)
    assert_array_equal(display.line_.get_ydata(), [2.0, 1.5, 4.0])


# -------------------------------------------------------------------- activations


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_those_of_backpropagation(activation, dtype):
    model = fit(activation, (8, 5, 3)).fit(X.astype(dtype), y)
    display = ActivationDisplay.from_estimator(model, X)
    shown = backpropagate(model, X.astype(dtype), y)
    for a, expected in zip(display.activations, shown.a[:-1], strict=True):
        assert a.dtype == dtype
        assert_array_equal(a, expected)


def test_each_layer_is_a_histogram_of_all_its_values():
    display = ActivationDisplay.from_estimator(fit("sigmoid", (8, 5)), X)
    for mesh, layers in [
        (display.mesh_, display.activations),
        (display.derivative_mesh_, display.derivatives),
    ]:
        shares = mesh.get_array().reshape(2, -1).filled(0)
        assert_allclose(shares.sum(axis=1), 1)
        assert_array_equal(shares > 0, shares > 1e-9)
        borders = mesh.get_coordinates()[0, :, 0]
        for row, layer in zip(shares, layers, strict=True):
            assert_allclose(row, np.histogram(layer, borders)[0] / layer.size)


def bars(display, kind):
    """The shares that the bars of a kind show, by layer."""
    containers = [c for c in display.units_ax_.containers if c.get_label() == kind]
    return {
        round(bar.get_y() + bar.get_height() / 2): bar.get_width()
        for container in containers
        for bar in container
    }


def test_bars_are_the_dead_the_saturated_and_the_alive_with_the_limit_drawn():
    dead = np.ones((4, 10))
    dead[:, :7] = 0  # seven units pass nothing back in any row
    dead[0, 7:] = 0  # the others are only zero now and then
    flat = np.full((4, 10), 0.2)
    flat[:, 0] = 1e-4
    display = ActivationDisplay(
        activations=[dead, flat], derivatives=[dead, flat], names=["relu", "logistic"]
    ).plot()
    assert_allclose(list(bars(display, "dead").items()), [(1, 0.7)])
    assert_allclose(list(bars(display, "saturated").items()), [(2, 0.1)])
    assert_allclose(list(bars(display, "alive").items()), [(1, 0.3), (2, 0.9)])
    (limit,) = display.units_ax_.get_lines()
    assert set(limit.get_xdata()) == {0.5} and limit.is_dashed()
    titles = [ax.get_title(loc="left") for ax in display.figure_.axes[:3]]
    assert titles == ["lost units", "activations a", "derivatives f'(z)"]


def overlaps(figure, axes):
    """Pairs of labels, titles and legends of the axes that lie on each other."""
    figure.canvas.draw()
    boxes = {}
    for ax in axes:
        texts = [ax.xaxis.label, ax.yaxis.label, ax._left_title, *ax.texts]
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            for tick in axis.get_major_ticks() if ax.axison else []:
                if limits[0] <= tick.get_loc() <= limits[1]:
                    texts += [tick.label1, tick.label2]
        if ax.get_legend() is not None:
            texts += ax.get_legend().get_texts()
        for text in texts:
            if text.get_text() and text.get_visible():
                boxes[text] = text.get_window_extent().shrunk(0.9, 0.8)
    pairs = itertools.combinations(boxes, 2)
    return [
        (a.get_text(), b.get_text()) for a, b in pairs if boxes[a].overlaps(boxes[b])
    ]


@pytest.mark.parametrize("n_layers", [1, 2, 8, 30])
@pytest.mark.parametrize("width", [8, 9])
def test_no_label_of_a_picture_lies_on_another(n_layers, width):
    flow = make_flow(n_layers, -0.5)
    finding = Finding("vanishing-gradient", 1, "", {}, "")
    display = GradientFlowDisplay(
        flow=flow, verdict="It does not learn. " * 9, name="a name", finding=finding
    )
    figure, ax = plt.subplots(figsize=(width, 5.5), layout="constrained")
    display.plot(ax)
    assert not overlaps(figure, figure.axes)
    rows = [np.linspace(0, 1, 12).reshape(3, 4)] * n_layers
    display = ActivationDisplay(activations=rows, derivatives=rows).plot()
    assert not overlaps(display.figure_, display.figure_.axes)


def test_large_activations_do_not_hide_small_ones():
    wide = np.array([[0.0, 0.5, 1e4]])
    display = ActivationDisplay(activations=[wide, -wide], derivatives=[wide * 0] * 2)
    display.plot()
    assert display.ax_.get_xscale() == "symlog"
    shares = display.mesh_.get_array().reshape(2, -1).filled(0)
    assert_array_equal((shares > 0).sum(axis=1), 3)


def test_sparse_rows_and_data_frames_give_the_picture_of_dense_ones():
    pd = pytest.importorskip("pandas")
    model = fit()
    expected = ActivationDisplay.from_estimator(model, X).activations
    for rows in (sparse.csr_array(X), sparse.csr_matrix(X), X.tolist()):
        shown = ActivationDisplay.from_estimator(model, rows).activations
        assert_allclose(shown[-1], expected[-1])
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = fit().fit(frame, y)
    shown = ActivationDisplay.from_estimator(model, frame).activations
    assert_allclose(shown[-1], expected[-1])
    with pytest.raises(ValueError, match="feature names"):
        ActivationDisplay.from_estimator(model, frame.rename(columns={"a": "z"}))


def test_a_network_that_was_only_initialized_has_activations():
    model = BPClassifier((8, 8), random_state=0).initialize(X, y)
    display = ActivationDisplay.from_estimator(model, X)
    assert [a.shape for a in display.activations] == [(150, 8), (150, 8)]


# -------------------------------------------------------------------------- errors

CLASSES = [GradientFlowDisplay, LossCurveDisplay, ActivationDisplay]


def draw(display, estimator):
    rows = (X,) if display is ActivationDisplay else ()
    return display.from_estimator(estimator, *rows)


@pytest.mark.parametrize("display", CLASSES)
def test_what_is_no_network_of_ours_is_refused_with_what_to_pass(display):
    for wrong in [None, 3, "model", X, MLPClassifier(), BPClassifier]:
        with pytest.raises(TypeError, match="Pass a fitted BPClassifier"):
            draw(display, wrong)


@pytest.mark.parametrize("display", CLASSES)
def test_models_that_hold_a_network_are_drawn_as_the_network_is(display):
    model = make_pipeline(StandardScaler(), BPClassifier(5, max_iter=8))
    model.fit(X, y)
    shown = draw(
        display, GridSearchCV(model, {"bpclassifier__alpha": [1e-4]}).fit(X, y)
    )
    assert type(shown) is display
    if display is ActivationDisplay:
        shown = draw(display, model)
        alone = display.from_estimator(model[-1], model[:-1].transform(X))
        np.testing.assert_array_equal(shown.activations[0], alone.activations[0])
    elif display is GradientFlowDisplay:
        assert draw(display, model).flow is model[-1].gradient_flow_
    else:
        assert draw(display, model).loss_curve is model[-1].loss_curve_


@pytest.mark.parametrize("display", CLASSES)
def test_a_model_that_is_not_fitted_is_refused(display):
    with pytest.raises(NotFittedError, match="fit"):
        draw(display, BPClassifier())


def test_a_fit_without_monitor_is_refused_with_what_to_do():
    for model in (fit(monitor=False), BPClassifier().initialize(X, y)):
        with pytest.raises(ValueError, match="Set monitor=True and fit it again"):
            GradientFlowDisplay.from_estimator(model)
    LossCurveDisplay.from_estimator(fit(monitor=False))


def test_a_fit_without_an_epoch_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="Fit again"):
        GradientFlowDisplay.from_flow(make_flow(3, epochs=[]))
    at_once = BPClassifier()
    at_once._failed_flow = FailedFlow(**vars(make_flow(3)))
    for model in (at_once, BPClassifier().initialize(X, y)):
        with pytest.raises(ValueError, match=r"Call fit\(X, y\)"):
            LossCurveDisplay.from_estimator(model)


def test_only_a_gradient_flow_is_a_flow():
    with pytest.raises(TypeError, match="use from_estimator"):
        GradientFlowDisplay.from_flow(fit())


@pytest.mark.parametrize("display", [GradientFlowDisplay, LossCurveDisplay])
@pytest.mark.parametrize("fits", [None, {}, [1, 2], "model"])
def test_compare_wants_names_and_fits(display, fits):
    with pytest.raises(TypeError, match="dictionary of names and fitted estimators"):
        display.compare(fits)


@pytest.mark.thread_unsafe(reason="counts the figures of the process")
@pytest.mark.parametrize("display", CLASSES)
def test_what_is_no_axes_is_refused_with_what_to_pass(display):
    figure, row = plt.subplots(1, 2)
    before, numbers = len(figure.axes), plt.get_fignums()
    rows = (X,) if display is ActivationDisplay else ()
    wrong = {
        "an array of shape \\(2,\\)": row,
        "an array of shape \\(0,\\)": row[:0],
        "an array of shape \\(1, 1\\)": row[:1, np.newaxis],
        "a list of length 2": list(row),
        "a tuple of length 1": (row[0],),
        "a list of length 0": [],
        "a Figure": figure,
        "a str": "left",
        "a int": 0,
    }
    for got, ax in wrong.items():
        with pytest.raises(ValueError, match=f"^ax must be one .* Axes, got {got}. P"):
            display.from_estimator(fit(), *rows, ax=ax)
    assert len(figure.axes) == before and plt.get_fignums() == numbers
    assert not any(ax.has_data() for ax in row)


def test_what_is_no_axes_is_refused_for_the_score_and_for_several_curves():
    model = fit(early_stopping=True)
    figure, row = plt.subplots(1, 2)
    with pytest.raises(ValueError, match="^score_ax must be .*array of shape .2,.*"):
        LossCurveDisplay.from_estimator(model, ax=row[0], score_ax=row)
    with pytest.raises(ValueError, match="^ax must be .*list of length 2"):
        LossCurveDisplay.compare({"a": model}, ax=list(row))
    with pytest.raises(ValueError, match="^ax must be .*a Figure"):
        GradientFlowDisplay.from_flow(make_flow(3), ax=figure)
    assert not any(ax.has_data() for ax in row)


def test_rows_that_do_not_suit_the_network_are_refused():
    model = fit("relu")
    with pytest.raises(ValueError, match="features"):
        ActivationDisplay.from_estimator(model, X[:, :3])
    with pytest.raises(ValueError, match="NaN"):
        ActivationDisplay.from_estimator(model, np.full_like(X, np.nan))
    large = X.copy()
    large[7] = 1e308
    model.coefs_[0][...] = 10
    with pytest.raises(ValueError, match="Row 7 of X overflows layer"):
        ActivationDisplay.from_estimator(model, large)
    with pytest.raises(ValueError, match="no hidden layer"):
        ActivationDisplay.from_estimator(fit(layers=()), X)


# ------------------------------------------------------------------------ pictures


def waves(n_layers):
    """Made-up activations of tanh layers, the upper ones saturated."""
    t = np.linspace(-1, 1, 400).reshape(40, 10)
    a = [np.tanh(t * (1 + layer)) for layer in range(n_layers)]
    return a, [1 - x * x for x in a]


PICTURES = {
    "vanishing_5": lambda: GradientFlowDisplay.from_flow(
        make_flow(5, -1.0), verdict="The gradient vanishes."
    ),
    "vanishing_50": lambda: GradientFlowDisplay.from_flow(make_flow(50, -0.2)),
    "diverged_10": lambda: GradientFlowDisplay.from_flow(
        spoil(make_flow(10, 0.5, ratio=0.2), 30)
    ),
    "compare": lambda: GradientFlowDisplay.compare(
        {"a": make_flow(4, -1.0), "b": make_flow(2), "c": make_flow(12, 0.5)}
    )[0],
    "loss": lambda: LossCurveDisplay(
        loss_curve=0.9 ** np.arange(40),
        validation_scores=1 - (np.arange(40) / 20 - 1) ** 2,
        name="made up",
    ).plot(),
    "activations": lambda: ActivationDisplay(
        **dict(zip(("activations", "derivatives"), waves(10), strict=True))
    ).plot(),
}


def rendered(name):
    """The picture in small: (rows, columns, 3), between 0 and 1."""
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        figure = PICTURES[name]().figure_
        figure.set_dpi(DPI)
        canvas = matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[:, :, :3] / 255
    rows, columns = (size // BLOCK for size in pixels.shape[:2])
    blocks = pixels[: rows * BLOCK, : columns * BLOCK].reshape(
        rows, BLOCK, columns, BLOCK, 3
    )
    return blocks.mean(axis=(1, 3))


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_look_as_they_did_when_they_were_last_looked_at(name):
    expected = image.imread(BASELINE / f"{name}.png")[:, :, :3]
    shown = rendered(name)
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).mean() < TOLERANCE


def test_this_comparison_would_notice_another_picture(monkeypatch):
    for change in [
        lambda: GradientFlowDisplay.from_flow(make_flow(5)),
        lambda: GradientFlowDisplay.from_flow(spoil(make_flow(5, -1.0), 20)),
        lambda: GradientFlowDisplay.from_flow(make_flow(6, -1.0)),
    ]:
        expected = image.imread(BASELINE / "vanishing_5.png")[:, :, :3]
        monkeypatch.setitem(PICTURES, "vanishing_5", change)
        assert np.abs(rendered("vanishing_5") - expected).mean() > TOLERANCE


if __name__ == "__main__":
    for picture in PICTURES:
        image.imsave(BASELINE / f"{picture}.png", rendered(picture))
