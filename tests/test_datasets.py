"""The two balls of the article's experiment."""

import numpy as np
import pytest

from cbp.datasets import CENTERS, make_two_spheres


def test_half_of_the_points_lie_in_each_ball_and_are_labelled_so():
    X, y = make_two_spheres(random_state=0)
    assert X.shape == (200, 3) and X.dtype == np.float64
    assert y.shape == (200,) and y.dtype == np.int64
    assert np.bincount(y).tolist() == [100, 100]
    for label, center in [(1, (1, 1, 1)), (0, (-1, 2, -7))]:
        assert np.linalg.norm(X[y == label] - center, axis=1).max() <= 1


def test_points_are_uniform_in_the_volume():
    radius = 2.5
    X, y = make_two_spheres(20_000, radius, random_state=0)
    for label, center in zip([1, 0], CENTERS, strict=True):
        inside = X[y == label] - center
        # Half the volume lies within the cube root of 1/2 of the radius; the mean of
        # 20000 points has a standard error of 0.008 per coordinate.
        share = np.mean(np.linalg.norm(inside, axis=1) < radius * 0.5 ** (1 / 3))
        assert share == pytest.approx(0.5, abs=0.015)
        assert np.abs(inside.mean(axis=0)).max() < 0.04


def test_a_seed_gives_the_same_set_and_another_gives_another():
    (X, y), (X2, y2) = (make_two_spheres(random_state=3) for _ in range(2))
    assert np.array_equal(X, X2) and np.array_equal(y, y2)
    X3, _ = make_two_spheres(random_state=np.random.RandomState(3))
    assert np.array_equal(X, X3)
    assert not np.array_equal(X, make_two_spheres(random_state=4)[0])


def test_shuffle_mixes_the_rows_and_nothing_else():
    X, y = make_two_spheres(random_state=0)
    X_sorted, y_sorted = make_two_spheres(shuffle=False, random_state=0)
    assert y_sorted.tolist() == [1] * 100 + [0] * 100
    assert y.tolist() != y_sorted.tolist()
    order, order_sorted = np.lexsort(X.T), np.lexsort(X_sorted.T)
    assert np.array_equal(X[order], X_sorted[order_sorted])
    assert np.array_equal(y[order], y_sorted[order_sorted])


@pytest.mark.parametrize(
    "name, value",
    [
        ("n_per_class", 0),
        ("n_per_class", 2.5),
        ("n_per_class", "100"),
        ("radius", 0),
        ("radius", -1.0),
        ("radius", np.inf),
        ("radius", np.nan),
        ("radius", None),
        ("shuffle", "yes"),
        ("random_state", -1),
        ("random_state", "seed"),
    ],
)
def test_bad_parameters_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"'{name}' parameter of make_two_spheres"):
        make_two_spheres(**{name: value})
