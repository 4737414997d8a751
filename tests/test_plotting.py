"""What the pictures show, that they can be read, and what is refused.

Pictures are also compared with small ones in tests/baseline, averaged over blocks of
pixels so that fonts do not matter. After a change that is meant, look at the new
pictures and write them with `python tests/test_plotting.py`.
"""

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
# matplotlib (3.9, 3.11) lays out differently by 0.03, a wrong picture by 0.06 and more.
TOLERANCE = 0.045

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


def test_cells_are_decades_of_the_output_layers_gradient():
    flow = make_flow(4, -1.5)
    expected = np.log10(flow.gradient / flow.gradient[:, -1:])
    display = GradientFlowDisplay.from_flow(flow)
    assert_allclose(cells(display), expected, atol=1e-5)
    assert not cells(display).mask.any()


def test_any_two_pictures_have_the_same_scale():
    for decades in [-3, 0, 2]:
        display = GradientFlowDisplay.from_flow(make_flow(4, decades))
        assert display.mesh_.get_clim() == (-6, 6)
        assert display.update_ax_.get_xlim() == RATIO_RANGE


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


def test_cells_that_are_not_finite_are_hatched_and_their_first_epoch_is_named():
    display = GradientFlowDisplay.from_flow(spoil(make_flow(5), 30, slice(0, 2)))
    assert cells(display).mask[30:, :2].all() and cells(display).mask.sum() == 20
    boxes = [path.get_extents() for path in hatched(display)]
    assert_allclose(
        [box.extents for box in boxes], [[30.5, 0.5, 40.5, 1.5], [30.5, 1.5, 40.5, 2.5]]
    )
    (note,) = display.ax_.texts
    assert note.get_text() == "not finite from epoch 31"
    assert not hatched(GradientFlowDisplay.from_flow(make_flow(5)))


def test_a_gradient_of_zero_is_the_darkest_and_none_at_all_is_blank():
    flow = make_flow(3)
    flow.gradient[:, 0] = 0
    flow.gradient[7] = 0
    display = GradientFlowDisplay.from_flow(flow)
    assert cells(display).mask[7].all() and cells(display).mask.sum() == 3
    assert (cells(display)[:7, 0] < -6).all()
    assert not hatched(display)


def test_update_ratios_are_medians_on_the_healthy_band_and_arrows_beyond_the_axis():
    flow = make_flow(4)
    for layer, ratio in enumerate([0, 1e-9, 1e-3, 50]):
        flow.update[:, layer] = ratio * flow.weight[:, layer]
    flow.update[:5, 2] = np.nan
    side = GradientFlowDisplay.from_flow(flow).update_ax_
    marks = [(line.get_marker(), line.get_xdata()[0]) for line in side.get_lines()]
    assert [marker for marker, _ in marks] == ["<", "<", "o", ">"]
    assert_allclose([x for _, x in marks], [1e-7, 1e-7, 1e-3, 1], rtol=1e-5)
    (band,) = side.patches
    assert_allclose(
        band.get_extents().width,
        np.ptp(side.transData.transform([(x, 1) for x in HEALTHY_RATIOS])[:, 0]),
    )


def test_the_title_is_the_verdict_and_its_lines_fit_the_figure():
    model = fit("logistic", (8,) * 10)
    display = GradientFlowDisplay.from_estimator(model, name="ten sigmoid layers")
    title = display.ax_.get_title(loc="left")
    verdict = model.diagnose().verdict
    assert title.replace("\n", " ") == f"ten sigmoid layers {verdict}"
    display.figure_.canvas.draw()
    box = display.ax_._left_title.get_window_extent()
    assert box.x1 <= display.figure_.bbox.x1


def test_fits_compare_side_by_side_on_one_scale():
    fits = {"sigmoid": fit("sigmoid", (8,) * 9), "tanh": fit("tanh"), "r": make_flow(3)}
    displays = GradientFlowDisplay.compare(fits)
    figure = displays[0].figure_
    assert all(display.figure_ is figure for display in displays)
    assert all(display.mesh_.get_clim() == (-6, 6) for display in displays)
    assert len(figure.axes) == 3 * 2 + 1  # one scale for all
    titles = [display.ax_.get_title(loc="left") for display in displays]
    assert [title.split("\n")[0] for title in titles] == list(fits)
    figure.canvas.draw()
    boxes = np.array([display.ax_.get_position().bounds for display in displays])
    assert_allclose(boxes[:, 1:], boxes[[0, 0, 0], 1:], atol=5e-3)


def test_many_fits_take_several_rows():
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
    assert display.verdict.startswith("It diverges")


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


def test_printed_in_grey_the_scale_brightens_all_the_way():
    colors = GradientFlowDisplay.from_flow(make_flow(2)).mesh_.get_cmap()
    light = lightness(colors(np.linspace(0, 1, 61))[:, :3])
    assert (np.diff(light) > 0).all()
    # A healthy layer differs from one with a hundredth or a hundred times of gradient.
    assert light[30] - light[20] > 10 and light[40] - light[30] > 10


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


@pytest.mark.parametrize("kind", BLINDNESS)
def test_to_the_colour_blind_the_scale_brightens_too(kind):
    colors = GradientFlowDisplay.from_flow(make_flow(2)).mesh_.get_cmap()
    rgb = colors(np.linspace(0, 1, 25))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(BLINDNESS[kind]), 0, 1)
    assert (np.diff(seen @ [0.2126, 0.7152, 0.0722]) > 0).all()


def test_no_two_of_thirty_lines_look_alike():
    displays = LossCurveDisplay.compare({str(i): fit() for i in range(1)})
    ax = displays[0].ax_
    for _ in range(29):
        LossCurveDisplay(loss_curve=[2, 1]).plot(ax)
    looks = {
        (line.get_color(), str(line._unscaled_dash_pattern)) for line in ax.get_lines()
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


def test_the_best_epoch_is_that_of_the_score_else_of_the_loss():
    curves = {"loss_curve": [3, 1, 2, 2.5], "validation_scores": [0, 0.1, 0.9, np.nan]}
    display = LossCurveDisplay(**curves).plot()
    assert display.best_epoch_ == 3
    assert display.line_.get_markevery() == display.score_line_.get_markevery() == [2]
    assert display.line_.get_label() == "best epoch 3: 0.9"
    display = LossCurveDisplay(loss_curve=[3, 1, 2, np.nan], name="a").plot()
    assert display.best_epoch_ == 2
    assert display.line_.get_label() == "a, best epoch 2: 1"
    display = LossCurveDisplay(loss_curve=[np.nan, np.inf]).plot()
    assert display.best_epoch_ is None
    assert display.line_.get_label() == "no finite number"


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
    assert [name.split(",")[0] for name in names] == list(fits)
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
    pipeline = make_pipeline(StandardScaler(), fit())
    search = GridSearchCV(fit(), {"alpha": [1e-4]})
    others = [None, 3, "model", X, MLPClassifier(), BPClassifier]
    for wrong in [*others, pipeline, search]:
        with pytest.raises(
            TypeError, match=r"model\[-1\]; of a search best_estimator_"
        ):
            draw(display, wrong)


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
        lambda: GradientFlowDisplay.from_flow(make_flow(5, -0.5)),
        lambda: GradientFlowDisplay.from_flow(spoil(make_flow(5, -1.0), 30)),
        lambda: GradientFlowDisplay.from_flow(make_flow(6, -1.0)),
    ]:
        expected = image.imread(BASELINE / "vanishing_5.png")[:, :, :3]
        monkeypatch.setitem(PICTURES, "vanishing_5", change)
        assert np.abs(rendered("vanishing_5") - expected).mean() > TOLERANCE


if __name__ == "__main__":
    for picture in PICTURES:
        image.imsave(BASELINE / f"{picture}.png", rendered(picture))
