"""Prediction by cbp._prediction: row by row or packed, dense or CSR, the same bits."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from problem import (
    Problem,
    every_dtype,
    every_loss,
)
from scipy.sparse import csr_array, csr_matrix

from cbp._prediction import predict

# ---- prediction


NETWORKS = {
    "three layers": ((12, 17, 9, 3), ("relu", "tanh")),
    "no hidden layer": ((12, 3), ()),
    "wide": ((40, 70, 33), ("logistic",)),
    "one unit": ((1, 1, 2), ("tanh",)),
}
every_network = pytest.mark.parametrize(
    "sizes, activations", NETWORKS.values(), ids=NETWORKS
)


@every_network
@every_loss
@every_dtype
def test_predict_is_the_forward_pass_of_the_reference(
    sizes, activations, output, loss, dtype
):
    problem = Problem(output, loss, activations, sizes, 300, dtype)
    theta, X = problem.theta.astype(np.float64), problem.X.astype(np.float64)
    close = dict(rtol=0, atol=500 * np.finfo(dtype).eps)
    for n_rows in (1, 5, 6, 300):  # row by row, and packed
        a = predict(problem.network, problem.theta, problem.X[:n_rows])
        assert a.dtype == dtype
        np.testing.assert_allclose(a, problem.twin.predict(theta, X[:n_rows]), **close)
        z = predict(problem.network, problem.theta, problem.X[:n_rows], logits=True)
        expected = problem.twin.forward(theta, X[:n_rows])[0][-1]
        np.testing.assert_allclose(z, expected, **close)


@every_network
@every_loss
@every_dtype
def test_row_has_the_same_bits_alone_and_in_any_batch(
    sizes, activations, output, loss, dtype
):
    problem = Problem(output, loss, activations, sizes, 521, dtype, zeros=0.5)
    theta, X = problem.theta, problem.X
    whole = predict(problem.network, theta, X)
    for logits in (False, True):
        whole = predict(problem.network, theta, X, logits=logits)
        for r in (0, 1, 7, 255, 256, 520):
            alone = predict(problem.network, theta, X[r : r + 1], logits=logits)
            assert alone.tobytes() == whole[r : r + 1].tobytes()
        for start, end in ((0, 2), (3, 8), (9, 15), (1, 260), (100, 521)):
            batch = predict(problem.network, theta, X[start:end], logits=logits)
            assert batch.tobytes() == whole[start:end].tobytes()


@every_dtype
@pytest.mark.parametrize("container", [csr_matrix, csr_array])
def test_predict_of_csr_has_the_bits_of_the_dense_one(dtype, container):
    problem = Problem(n_rows=300, dtype=dtype, zeros=0.8)
    problem.X[5] = 0
    dense = predict(problem.network, problem.theta, problem.X)
    X = container(problem.X)
    for start, end in ((0, 300), (5, 6), (17, 280)):
        part = predict(problem.network, problem.theta, X[start:end])
        assert part.tobytes() == dense[start:end].tobytes()


def test_predict_takes_read_only_and_empty_arrays():
    problem = Problem()
    expected = predict(problem.network, problem.theta, problem.X)
    problem.theta.flags.writeable = problem.X.flags.writeable = False
    got = predict(problem.network, problem.theta, problem.X)
    assert got.tobytes() == expected.tobytes()
    for empty in (problem.X[:0], csr_matrix(problem.X[:0])):
        assert predict(problem.network, problem.theta, empty).shape == (0, 3)


@pytest.mark.parametrize("n_rows", [3, 40])
def test_nan_in_a_row_stays_in_that_row(n_rows):
    problem = Problem(n_rows=n_rows)
    problem.X[1, 4] = np.nan
    bad = np.isnan(predict(problem.network, problem.theta, problem.X))
    assert (bad == (np.arange(n_rows) == 1)[:, None]).all()


def test_predict_may_run_in_several_threads_at_once():
    problem = Problem(n_rows=2000)
    expected = predict(problem.network, problem.theta, problem.X)

    def outputs(i):
        X = problem.X if i % 2 else problem.X[i : i + 3]
        return predict(problem.network, problem.theta, X).tobytes()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(outputs, range(200)))
    for i, got in enumerate(results):
        assert got == (expected if i % 2 else expected[i : i + 3]).tobytes()
