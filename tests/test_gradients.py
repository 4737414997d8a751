"""The gradient of the compiled network: central differences and the reference network.

Errors are measured against the largest |gradient| of the layer, for a single weight's
derivative may vanish. Differences carry the noise eps |C| / h and are meaningless where
a relu bends, so no unit may come that close to zero.
"""

import numpy as np
import pytest
import reference
from problem import Problem
from scipy.sparse import csr_matrix

from cbp import _catalog, _kernels

LOSSES = sorted(_kernels.LOSSES)
STEP = 1e-5
SIZES = (6, 5, 4, 3)

every_loss = pytest.mark.parametrize("output, loss", LOSSES)
# Every loss with two activations, every activation with two losses: one knows nothing
# of the other.
PAIRS = [(*loss, f) for loss in LOSSES for f in ("tanh", "relu")]
PAIRS += [
    (*loss, f)
    for loss in (("softmax", "log_loss"), ("identity", "squared_error"))
    for f in _kernels.ACTIVATIONS
    if f not in ("tanh", "relu")
]
every_pair = pytest.mark.parametrize("output, loss, activation", PAIRS)
every_alpha = pytest.mark.parametrize("alpha", [0.0, 0.3], ids="alpha={}".format)
every_weight = pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
every_format = pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])


class GradientProblem(Problem):
    """A problem with a Trainer that only computes gradients."""

    def __init__(
        self,
        output,
        loss,
        activations,
        sizes=SIZES,
        n_rows=23,
        *,
        weighted=False,
        sparse=False,
        alpha=0.0,
        dtype=np.float64,
    ):
        zeros = 0.5 if sparse else 0.0
        super().__init__(output, loss, activations, sizes, n_rows, dtype, zeros)
        self.weighted, self.alpha = weighted, alpha
        X = csr_matrix(self.X) if sparse else self.X
        self.gradients = self.trainer(X, solver="lbfgs", weighted=weighted, alpha=alpha)

    def loss_gradient(self, theta=None):
        return self.gradients.loss_gradient(self.theta if theta is None else theta)

    def expected(self):
        """Loss and gradient of the reference."""
        return self.twin.loss_gradient(
            self.theta.astype(np.float64),
            self.X.astype(np.float64),
            self.T,
            self.weight.astype(np.float64) if self.weighted else None,
            self.alpha,
        )

    def layers(self):
        """The places of each layer's W and b in theta."""
        places = self.network.views(np.arange(self.network.n_params))
        return [np.r_[W.ravel(), b] for W, b in zip(*places, strict=True)]

    def assert_close(self, gradient, expected, relative, floor=0.0):
        """Within `relative` of the layer's largest |gradient|, and the floor."""
        for number, layer in enumerate(self.layers(), 1):
            error = abs(gradient - expected)[layer].max()
            largest = abs(expected[layer]).max()
            assert error <= relative * largest + floor, f"layer {number}"


@every_pair
@every_alpha
@every_weight
@every_format
def test_gradient_matches_central_differences(
    output, loss, activation, alpha, weighted, sparse
):
    problem = GradientProblem(
        output,
        loss,
        (activation,) * (len(SIZES) - 2),
        alpha=alpha,
        weighted=weighted,
        sparse=sparse,
    )
    if _catalog.ACTIVATIONS[activation].kink:
        z, _ = problem.twin.forward(problem.theta, problem.X)
        assert min(abs(hidden).min() for hidden in z[:-1]) > 10 * STEP
    value, gradient = problem.loss_gradient()
    differences = np.empty_like(gradient)
    for i in range(len(gradient)):
        values = []
        for step in (STEP, -STEP):
            moved = problem.theta.copy()
            moved[i] += step
            values.append(problem.loss_gradient(moved)[0])
        differences[i] = (values[0] - values[1]) / (2 * STEP)
    noise = np.finfo(np.float64).eps * abs(value) / STEP
    problem.assert_close(gradient, differences, 1e-7, noise)


@every_pair
@every_alpha
@every_weight
@every_format
def test_loss_and_gradient_match_the_reference(
    output, loss, activation, alpha, weighted, sparse
):
    problem = GradientProblem(
        output,
        loss,
        (activation,) * (len(SIZES) - 2),
        alpha=alpha,
        weighted=weighted,
        sparse=sparse,
    )
    value, gradient = problem.loss_gradient()
    expected_value, expected = problem.expected()
    assert value == pytest.approx(expected_value, rel=1e-12)
    problem.assert_close(gradient, expected, 1e-12)


SHAPES = {
    "no hidden layer": ((5, 3), ()),
    "one unit everywhere": ((1, 1, 1), ("tanh",)),
    "panels not filled": ((17, 9, 33, 2), ("tanh", "relu")),
    "whole panels": ((16, 32, 8, 16), ("relu", "logistic")),
    "narrow in the middle": ((40, 1, 40, 3), ("logistic", "tanh")),
    "four hidden layers": (
        (7, 9, 8, 7, 6, 3),
        ("tanh", "relu", "identity", "logistic"),
    ),
}


@pytest.mark.parametrize("sizes, activations", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("n_rows", [1, 2, 129, 700])
@every_format
def test_gradient_matches_the_reference_for_every_shape(
    sizes, activations, n_rows, sparse
):
    for output, loss in LOSSES:
        if output == "softmax" and sizes[-1] == 1:
            continue
        problem = GradientProblem(
            output, loss, activations, sizes, n_rows, weighted=True, sparse=sparse
        )
        value, gradient = problem.loss_gradient()
        expected_value, expected = problem.expected()
        assert value == pytest.approx(expected_value, rel=1e-12, abs=1e-15)
        problem.assert_close(gradient, expected, 1e-12)


@every_format
def test_gradient_over_several_chunks_matches_the_reference(sparse):
    problem = GradientProblem(
        "softmax",
        "log_loss",
        ("tanh", "relu"),
        (9, 17, 8, 3),
        5001,
        weighted=True,
        sparse=sparse,
    )
    value, gradient = problem.loss_gradient()
    expected_value, expected = problem.expected()
    assert value == pytest.approx(expected_value, rel=1e-12)
    problem.assert_close(gradient, expected, 1e-12)


@every_loss
def test_float32_gradient_matches_the_reference(output, loss):
    problem = GradientProblem(
        output, loss, ("tanh", "relu"), alpha=0.1, weighted=True, dtype=np.float32
    )
    value, gradient = problem.loss_gradient()
    expected_value, expected = problem.expected()
    assert gradient.dtype == np.float64
    assert value == pytest.approx(expected_value, rel=1e-5)
    problem.assert_close(gradient, expected, 1e-5)


@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
@pytest.mark.parametrize("n_outputs", [1, 2, 4])
def test_labels_and_their_indicator_matrix_give_the_same_gradient(loss, n_outputs):
    problem = GradientProblem("logistic", loss, ("tanh",), (6, 5, n_outputs))
    value, gradient = problem.loss_gradient()
    problem.target = problem.T
    from_matrix = problem.trainer(solver="lbfgs")
    other_value, other = from_matrix.loss_gradient(problem.theta)
    assert value == other_value
    assert np.array_equal(gradient, other)


def test_gradient_of_chosen_rows_is_that_of_these_rows_alone():
    problem = GradientProblem("softmax", "log_loss", ("relu", "tanh"))
    rows = np.array([3, 17, 4, 4, 0])
    value, gradient = problem.trainer(rows=rows, solver="lbfgs").loss_gradient(
        problem.theta
    )
    problem.target = problem.target[rows]
    alone = problem.trainer(problem.X[rows], solver="lbfgs")
    other_value, other = alone.loss_gradient(problem.theta)
    assert value == other_value
    assert np.array_equal(gradient, other)


def test_penalty_spares_the_biases():
    plain = GradientProblem("softmax", "log_loss", ("tanh", "tanh"))
    penalised = GradientProblem("softmax", "log_loss", ("tanh", "tanh"), alpha=2.0)
    _, gradient = plain.loss_gradient()
    _, with_penalty = penalised.loss_gradient()
    moved = abs(gradient - with_penalty) > 1e-12
    for _, offset, shape, decays in plain.network.segments:
        assert (moved[offset : offset + np.prod(shape)] == decays).all()


def test_loss_gradient_leaves_its_argument_alone():
    problem = GradientProblem("identity", "squared_error", ("relu", "relu"))
    theta = problem.theta.copy()
    theta.flags.writeable = False
    first = problem.loss_gradient(theta)
    problem.loss_gradient(theta + 1)
    again = problem.loss_gradient(theta)
    assert first[0] == again[0]
    assert np.array_equal(first[1], again[1])


@every_loss
def test_batch_gradient_is_the_mean_of_products_not_the_product_of_means(output, loss):
    """(4.1) for a batch: mean over rows of a delta^T, not mean(a) mean(delta)^T.

    The article's companion program multiplies the means and asks whether that is right.
    """
    problem = GradientProblem(output, loss, ("tanh", "logistic"))
    _, gradient = problem.loss_gradient()
    delta, a = problem.twin.deltas(problem.theta, problem.X, problem.T)
    n_rows = len(problem.X)
    W, _ = problem.twin.unpack(gradient)
    for layer in range(len(W)):
        products = [np.outer(a[layer][r], delta[layer][r]) for r in range(n_rows)]
        mean_of_products = sum(products) / n_rows
        product_of_means = np.outer(a[layer].mean(axis=0), delta[layer].mean(axis=0))
        scale = abs(W[layer]).max()
        assert abs(W[layer] - mean_of_products).max() < 1e-12 * scale
        assert abs(W[layer] - product_of_means).max() > 1e-2 * scale


@every_pair
@every_format
def test_backpropagate_shows_what_the_fused_kernels_compute(
    output, loss, activation, sparse
):
    """z, a and delta from unfused kernels, summed, are the fused gradient's bits."""
    for dtype in (np.float32, np.float64):
        problem = GradientProblem(
            output,
            loss,
            (activation, activation),
            (17, 9, 18, 3),
            300,
            weighted=True,
            sparse=sparse,
            dtype=dtype,
        )
        shown = problem.gradients.backpropagate(problem.theta)
        value, gradient = problem.loss_gradient()
        assert shown["loss"] == value
        assert np.array_equal(shown["gradient"], gradient)
        W, b = problem.twin.unpack(gradient)
        scale = 1 / reference.sum_in_order(problem.weight)
        below = [problem.X, *shown["a"]]
        for layer, delta in enumerate(shown["delta"]):
            dW = reference.sum_gradient(below[layer], delta).astype(np.float64)
            assert np.array_equal(W[layer], dW * scale)
            db = reference.sum_columns(delta).astype(np.float64)
            assert np.array_equal(b[layer], db * scale)


@every_loss
@pytest.mark.parametrize("n_rows", [5, 2100])
def test_backpropagate_matches_the_reference(output, loss, n_rows):
    problem = GradientProblem(
        output, loss, ("tanh", "relu"), (9, 17, 8, 3), n_rows, weighted=True
    )
    shown = problem.gradients.backpropagate(problem.theta)
    z, a = problem.twin.forward(problem.theta, problem.X)
    delta, _ = problem.twin.deltas(problem.theta, problem.X, problem.T)
    expected = {
        "z": z,
        "a": [*a[1:], reference.apply_output(z[-1], output)],
        "delta": [problem.weight[:, None] * d for d in delta],
    }
    for name, arrays in expected.items():
        for mine, theirs in zip(shown[name], arrays, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-13)
