"""exp, log, log1p, logistic, tanh, expm1 and the normal distribution of src_c/vmath.h:
at most 2 ULP, on every tier;
vec_root_plus of src_c/vec.h and the powers of src_c/power.c: no error.

Measured against NumPy in the next wider type (float64 for float32, long double for
float64), over a sweep of all exponents and a denser one where the functions bend.
"""

from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import reference
from kernel_table import (
    DTYPES,
    FUNCTIONS,
    TABLES,
    TIERS,
    Kernels,
    Vector,
    assert_same_bytes,
)
from scipy.special import expit

from cbp import BPRegressor, _kernels
from cbp._kernels import elementwise

MAX_ULPS = 2
# Of the normal distribution, in units of a number in [1/2, 1).
MAX_NORMAL_ULPS = 3.5
SWEEP = 1 << 19

# Where each function bends: from its first to its last value that is not constant.
RANGES = {
    ("exp", 4): (-104, 89),
    ("exp", 8): (-746, 710),
    ("log", 4): (0.1, 10),
    ("log", 8): (0.1, 10),
    ("log1p", 4): (0, 1),
    ("log1p", 8): (0, 1),
    ("logistic", 4): (-104, 18),
    ("logistic", 8): (-746, 38),
    ("tanh", 4): (-10, 10),
    ("tanh", 8): (-20, 20),
    ("expm1", 4): (-18, 0),
    ("expm1", 8): (-40, 0),
    ("normal", 4): (-5, 5),
    ("normal", 8): (-8, 8),
}

every_table = pytest.mark.parametrize("kernels", TABLES, ids=repr)
every_function = pytest.mark.parametrize("function", FUNCTIONS)


def call_map(kernels, function, x):
    """The function of every x, through guarded buffers."""
    n = len(x)
    whole = np.concatenate([x, np.ones(-n % kernels.P, x.dtype)])
    source, out = Vector(whole), Vector.output(len(whole), kernels.dtype)
    number = [*FUNCTIONS, "root"].index(function)
    kernels.map(number, source.pointer, out.pointer, len(whole))
    source.assert_unchanged()
    out.assert_guards()
    return out.values[:n]


def from_bits(bits, dtype):
    return bits.astype(f"i{dtype.itemsize}").view(dtype)


@cache
def sweep(function, dtype):
    """Numbers of every exponent, evenly spaced in bits, and a denser range."""
    low, high = RANGES[function, dtype.itemsize]
    largest = np.array(1 if function == "log1p" else np.inf, dtype)
    last = int(largest.view(f"i{dtype.itemsize}"))
    bits = np.linspace(0, last, SWEEP).astype(np.int64)
    # Else float64's low bits would all be zero.
    bits += np.random.RandomState(0).randint(0, max(last // SWEEP, 1), SWEEP)
    x = from_bits(np.minimum(bits, last), dtype)
    if function in ("exp", "logistic", "tanh", "normal"):
        x = np.concatenate([x, -x])
    elif function == "expm1":
        x = -x
    dense = np.random.RandomState(1).uniform(low, high, SWEEP).astype(dtype)
    return np.concatenate([x, np.clip(dense, low, high)])


@cache
@np.errstate(all="ignore")
def exact(function, dtype):
    """The function over its sweep, in the wider type."""
    wide = sweep(function, dtype).astype(reference.wider(dtype))
    return getattr(reference, function)(wide)


def ulps(got, wide):
    """Error in units in the last place of the exact value, rounded to the dtype."""
    with np.errstate(over="ignore"):
        rounded = wide.astype(got.dtype)
    both = np.isfinite(rounded) & np.isfinite(got)
    assert np.array_equal(got[~both], rounded[~both], equal_nan=True)
    error = abs(got[both].astype(wide.dtype) - wide[both])
    return error / np.spacing(abs(rounded[both])).astype(wide.dtype)


@every_table
@every_function
def test_functions_are_within_two_ulps(kernels, function):
    wide = reference.wider(kernels.dtype)
    if np.finfo(wide).nmant <= np.finfo(kernels.dtype).nmant + 8:
        pytest.skip("no wider type to compare with on this platform")
    got = call_map(kernels, function, sweep(function, kernels.dtype))
    if function == "normal":
        error = abs(got.astype(wide) - exact(function, kernels.dtype)).max()
        assert error <= MAX_NORMAL_ULPS * np.finfo(kernels.dtype).eps / 2
        return
    worst = ulps(got, exact(function, kernels.dtype)).max()
    print(f"{function} {kernels}: {float(worst):.3f} ULP")
    assert worst <= MAX_ULPS


@every_table
@every_function
def test_tiers_agree_on_every_bit_of_a_function(kernels, function):
    ends = special(kernels.dtype)
    if function == "expm1":
        ends = np.minimum(ends, 0)
    x = np.concatenate([sweep(function, kernels.dtype)[::7], ends])
    oracle = Kernels("scalar", kernels.dtype)
    assert_same_bytes(call_map(kernels, function, x), call_map(oracle, function, x))


def special(dtype):
    info = np.finfo(dtype)
    ends = [0, info.smallest_subnormal, info.tiny, 1, info.max, np.inf, np.nan]
    return np.array([*ends, *(-x for x in ends)], dtype)


INF, NAN = np.inf, np.nan
SPECIAL_VALUES = {
    "exp": [(0, 1), (-0.0, 1), (INF, INF), (-INF, 0), (NAN, NAN), (1e30, INF)],
    "log": [(1, 0), (0, -INF), (-0.0, -INF), (-1, NAN), (INF, INF), (-INF, NAN)],
    "log1p": [(0, 0), (NAN, NAN)],
    "logistic": [(0, 0.5), (-0.0, 0.5), (INF, 1), (-INF, 0), (NAN, NAN), (1e30, 1)],
    "tanh": [(0, 0), (-0.0, -0.0), (INF, 1), (-INF, -1), (NAN, NAN), (-1e30, -1)],
    "expm1": [(0, 0), (-0.0, 0), (-INF, -1), (NAN, NAN), (-1e30, -1)],
    "normal": [(0, 0.5), (-0.0, 0.5), (INF, 1), (-INF, 0), (NAN, NAN), (-1e30, 0)],
}


@every_table
@every_function
def test_functions_have_their_special_values(kernels, function):
    x, y = np.array(SPECIAL_VALUES[function], kernels.dtype).T
    assert_same_bytes(call_map(kernels, function, x.copy()), y.copy())


@every_table
@every_function
def test_smallest_arguments_give_the_first_term(kernels, function):
    info = np.finfo(kernels.dtype)
    x = np.array([info.smallest_subnormal, info.tiny / 3, info.tiny], kernels.dtype)
    first_term = {
        "exp": np.ones_like(x),
        "log": np.log(x.astype(np.longdouble)).astype(x.dtype),
        "log1p": x,
        "logistic": np.full_like(x, 0.5),
        "tanh": x,
        "expm1": -x,
        "normal": np.full_like(x, 0.5),
    }[function]
    x = -x if function == "expm1" else x
    got = call_map(kernels, function, x)
    np.testing.assert_array_max_ulp(got, first_term, 1 if function == "log" else 0)


@every_table
@pytest.mark.parametrize("function", ["exp", "logistic"])
def test_results_fade_through_the_subnormals_to_zero(kernels, function):
    low, _ = RANGES[function, kernels.dtype.itemsize]
    x = np.linspace(low - 4, low + 30, 2000).astype(kernels.dtype)
    y = call_map(kernels, function, x)
    subnormal = (y > 0) & (y < np.finfo(kernels.dtype).tiny)
    assert subnormal.sum() > 100
    assert y[0] == 0
    assert (np.diff(y) >= 0).all()


@every_table
@pytest.mark.parametrize("function", [name for name in FUNCTIONS if name != "normal"])
def test_functions_never_fall_between_neighbours(kernels, function):
    """Runs of consecutive floats, where one rounding may undo the last one."""
    dtype, (low, high) = kernels.dtype, RANGES[function, kernels.dtype.itemsize]
    if function == "expm1":
        low, high = 0, -low
    starts = np.random.RandomState(2).uniform(max(low, 1e-3), high, 400)
    starts = np.concatenate([starts, 2.0 ** np.arange(-8, 1)]).astype(dtype)
    bits = starts.view(f"i{dtype.itemsize}")[:, None] + np.arange(-300, 300)
    x = from_bits(bits, dtype)
    if function == "log1p":
        x = np.minimum(x, dtype.type(1))
    if function == "expm1":
        x = -x[:, ::-1]
    elif low < 0:
        x = np.concatenate([x, -x[:, ::-1]])
    y = call_map(kernels, function, x.ravel()).reshape(x.shape)
    assert (np.diff(y) >= 0).all()


@every_table
def test_tanh_is_odd(kernels):
    x = sweep("tanh", kernels.dtype)[::5]
    mirrored = call_map(kernels, "tanh", -x)
    assert_same_bytes(mirrored, -call_map(kernels, "tanh", x))


@every_table
def test_probabilities_of_opposite_logits_add_up(kernels):
    x = sweep("logistic", kernels.dtype)[::5]
    total = call_map(kernels, "logistic", x) + call_map(kernels, "logistic", -x)
    assert abs(total - 1).max() <= np.finfo(kernels.dtype).eps


def test_every_tier_and_dtype_is_tested():
    assert len(TABLES) == len(TIERS) * len(DTYPES)


# ---- roots: exact


def odd_roots(k, bits):
    """All odd m below 2^bits with m^2 = k modulo 2^bits, for k = 1 modulo 8."""
    m = 1
    for known in range(3, bits):  # m^2 = k modulo 2^known; one bit more
        if (m * m - k) >> known & 1:
            m += 1 << (known - 1)
    half = 1 << (bits - 1)
    return {root % (1 << bits) for root in (m, -m, m + half, half - m)}


def hard_roots(dtype):
    """Numbers in [1, 4) whose roots are all but half-way between two neighbours.

    With a fraction of f bits, x = i / 2^f and m odd of f + 2 bits, the middle of two
    neighbours: m^2 = i 2^s + k with a small k.
    """
    f = np.finfo(dtype).nmant
    found = []
    for k in range(1 - 8 * 64, 8 * 64, 8):
        for s, binade in ((f + 2, 1.0), (f + 3, 2.0)):
            for m in odd_roots(k, s):
                i = (m * m - k) >> s
                if m >> (f + 1) == 1 and i >> f == 1:
                    found.append(i / 2.0**f * binade)
    return np.array(found, dtype)


# Their roots hang on the estimate that vec_root_plus starts from: see dispatch.c.
DOUBTFUL = {
    4: ["0x1.f82294p0", "0x1.000002p0", "0x1.fffffep1", "0x1.fffffap1"],
    8: ["0x1.d407bb3641da5p0", "0x1.5b95344972fe2p1", "0x1.0000000000001p0"]
    + ["0x1.fffffffffffffp1", "0x1.ffffffffffffdp1"],
}


def corrected(x, unit):
    """All that vec_root_plus can come to in the end, as fractions: g is less than a
    unit of the last place off the root, h less than 1.5 off 1 / (2 sqrt x)."""
    x, root = Fraction(float(x)), Fraction(float(np.sqrt(x)))
    for g in (root - unit, root, root + unit):
        if abs(x - g * g) < 2 * root * unit:
            for error in range(-12, 13):
                h = (1 + error * unit / 8) / (2 * root)
                yield round((g + (x - g * g) * h) / unit) * unit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_roots_hang_on_the_estimate(dtype):
    unit = Fraction(1, 1 << np.finfo(dtype).nmant)
    hard = hard_roots(dtype)
    doubtful = {float(x) for x in hard if set(corrected(x, unit)) != {np.sqrt(x)}}
    assert doubtful == set(map(float.fromhex, DOUBTFUL[dtype().itemsize]))


@every_table
def test_roots_are_those_of_ieee(kernels):
    """Hard ones, all magnitudes, squares and their neighbours, zero and infinity."""
    dtype, limits = kernels.dtype, np.finfo(kernels.dtype)
    rng = np.random.RandomState(3)
    hard = hard_roots(dtype)
    assert len(hard) > 100
    exponents = rng.uniform(np.log2(limits.tiny), np.log2(limits.max), 1 << 16)
    squares = rng.randint(2**11, size=4096).astype(dtype) ** 2
    ends = special(dtype)
    x = np.concatenate(
        [hard, hard * 4, hard / 16, np.exp2(exponents), ends[~np.signbit(ends)]]
        + [squares, *(np.nextafter(squares, dtype.type(to)) for to in (0, np.inf))]
    ).astype(dtype)
    for part in np.array_split(x, 7):
        assert_same_bytes(call_map(kernels, "root", part), np.sqrt(part))


def nearest_power(x, y):
    """x ** y from 60 digits. CPython rounds a Decimal to the nearest double."""
    with localcontext(prec=60, Emin=-9999, Emax=9999):
        return float(Decimal(x) ** Decimal(y))


def test_powers_are_the_nearest_doubles():
    rng = np.random.RandomState(0)
    betas = [0.5, 0.8, 0.9, 0.99, 0.999, 1 - 2**-53, *rng.uniform(0, 1, 20)]
    steps = [1, 2, 3, 63, 64, 640, 6400, 123456]
    cases = [(float(beta), float(t)) for beta in betas for t in steps]
    cases += [
        (float(t), power)
        for t in [2, 3, 10, 1797, 10**6, 2**53, *rng.randint(2, 2**40, 20, np.int64)]
        for power in (0.25, 0.5, 1 / 3, 0.75, 1.0, 1.5, 7.3)
    ]
    powers = {case: nearest_power(*case) for case in cases}
    tiny = np.finfo(float).tiny  # below it a power is rounded twice
    wrong = {
        case: (_kernels.power(*case), power)
        for case, power in powers.items()
        if power >= tiny and _kernels.power(*case) != power
    }
    assert len(powers) > 300 and not wrong


@pytest.mark.parametrize(
    "x, y, power",
    [
        *[(0.0, 0.0, 1.0), (0.9, 0.0, 1.0), (1.0, 1e300, 1.0), (0.0, 3.0, 0.0)],
        *[
            (0.9, 1e18, 0.0),
            (1e6, 1.7e308, np.inf),
            (2.0, 1024.0, np.inf),
            (2.0, 1023.0, 2.0**1023),
        ],
        *[(0.5, 1074.0, 2.0**-1074), (5e-324, 1.0, 5e-324), (2.0, np.inf, np.inf)],
    ],
)
def test_powers_at_their_ends(x, y, power):
    assert _kernels.power(x, y) == power


def test_adam_takes_the_nearest_powers():
    """Its rate after every step; beta^t is a product of two powers, one below 64."""
    beta_1, beta_2 = 0.87, 0.9973
    model = BPRegressor(hidden_layer_sizes=(2,), beta_1=beta_1, beta_2=beta_2)
    X, y = np.zeros((1, 1)), np.zeros(1)
    for t in range(1, 200):
        model.partial_fit(X, y)
        parts = t - t % 64, t % 64
        power_1, power_2 = (
            nearest_power(beta, parts[0]) * nearest_power(beta, parts[1])
            for beta in (beta_1, beta_2)
        )
        rate = 1e-3 * np.sqrt(1 - power_2) / (1 - power_1)
        assert model._optimizer.learning_rate == rate


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["exp", "log", "log1p", "logistic"])
def test_elementwise_takes_any_shape_and_changes_nothing(name, dtype):
    exact = {"exp": np.exp, "log": np.log, "log1p": np.log1p, "logistic": expit}[name]
    x = np.random.RandomState(0).uniform(0.001, 1, (37, 3)).astype(dtype)
    for given in (x, x.T, x[::2], x[:1], x[:0], x[0, 0]):
        before = given.copy()
        y = elementwise(name, given)
        assert y.shape == given.shape and y.dtype == dtype
        assert (given == before).all()
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(y, exact(given.astype("f8")), rtol=4 * eps)
    for strange in (x.astype(int), x.astype("f2"), x.astype(">f8")):
        with pytest.raises(ValueError, match="float"):
            elementwise(name, strange)
