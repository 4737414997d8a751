"""Parameters, beyond what scikit-learn checks by type and range: what they come to.

Layers with their activations, floats, threads, the random generator. What is refused is
refused by name. The data are checked in _validation.py, memory in _memory.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, TypeAlias

import joblib
import numpy as np
from numpy.random import MT19937, RandomState
from numpy.random.bit_generator import ISeedSequence
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import StrOptions

from cbp._catalog import ACTIVATIONS, ALIASES, LOSS_PARAMETERS, LOSSES, is_allowed

# More threads than any machine has cores.
_MOST_THREADS = 2**14

_KNOWN_ACTIVATIONS = sorted([*ACTIVATIONS, *ALIASES])


class Names(StrOptions):
    """Names of which a parameter is one, in order where another is refused.

    scikit-learn lists a set, in another order in each process.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(set(names))
        self.options = sorted(self.options)


def _demand_order(name: str, given: Any) -> None:
    """Refuse a set or a dict where the order says what belongs to what."""
    if isinstance(given, set | frozenset | dict):
        raise ValueError(
            f"{name} must be one value or a sequence; {given!r} has no order."
        )


# ---- layers


def hidden_layers(est: Any) -> tuple[list[int], list[str]]:
    """Widths and activations of the hidden layers; two empty lists if there are none.

    Every call checks what a sequence holds: it may have changed.
    """
    given = est.hidden_layer_sizes
    _demand_order("hidden_layer_sizes", given)
    sizes = [given] if isinstance(given, Integral) else list(given)
    for n in sizes:
        if type(n) is not int and (isinstance(n, bool) or not isinstance(n, Integral)):
            raise ValueError(
                f"hidden_layer_sizes must hold whole numbers > 0, got {given!r}."
            )
    if sizes and min(sizes) <= 0:
        raise ValueError(f"hidden_layer_sizes must be > 0, got {given!r}.")
    return [int(n) for n in sizes], _hidden_activations(est, len(sizes))


def _hidden_activations(est: Any, n_hidden: int) -> list[str]:
    """One activation per hidden layer, under the names the network knows."""
    given = est.activation
    _demand_order("activation", given)
    names = [given] * n_hidden if isinstance(given, str) else list(given)
    for i, name in enumerate(names):
        if not isinstance(name, str) or name not in _KNOWN_ACTIVATIONS:
            raise ValueError(
                f"activation[{i}] must be one of {', '.join(_KNOWN_ACTIVATIONS)}, got "
                f"{name!r}."
            )
    if len(names) != n_hidden:
        raise ValueError(
            f"activation names {len(names)} layers, but hidden_layer_sizes="
            f"{est.hidden_layer_sizes!r} has {n_hidden}. Give one name per hidden "
            "layer, or a single name for all of them."
        )
    return [ALIASES.get(name, str(name)) for name in names]


def dropout_rates(est: Any, n_hidden: int) -> tuple[float, ...]:
    """The rates of dropout of the inputs and of every hidden layer; () if all are 0."""
    given = est.dropout
    _demand_order("dropout", given)
    rates = [given] * n_hidden if isinstance(given, Real) else list(given)
    for i, rate in enumerate(rates):
        if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 <= rate < 1:
            raise ValueError(f"dropout[{i}] must be a number in [0, 1), got {rate!r}.")
    if len(rates) != n_hidden:
        raise ValueError(
            f"dropout names {len(rates)} layers, but hidden_layer_sizes="
            f"{est.hidden_layer_sizes!r} has {n_hidden}. Give one rate per hidden "
            "layer, or a single one for all of them."
        )
    all_rates = (float(est.input_dropout), *map(float, rates))
    return all_rates if any(all_rates) else ()


def init_factors(est: Any, activations: tuple[str, ...]) -> list[float]:
    """The factor of the first weights' bound for every layer, the output's last.

    The output layer goes with the last hidden one, or with the activation that such a
    layer would have.
    """
    names = list(activations)
    given = est.activation if isinstance(est.activation, str) else "identity"
    names.append(names[-1] if names else ALIASES.get(given, given))
    return [ACTIVATIONS[name].init_factor for name in names]


# ---- the loss


Parameters: TypeAlias = tuple[float | tuple[float, ...], ...]


def chosen_loss(est: Any, output: str) -> tuple[str, Parameters]:
    """The catalogue's name of the estimator's loss, and its parameters in that order.

    A sequence has one number for each output. A parameter that this loss does not use
    must have its default.
    """
    loss = str(est.loss)
    asked = [
        name
        for name, default in LOSS_PARAMETERS.items()
        if not _is_default(getattr(est, name, default), default)
    ]
    row = LOSSES[output, loss]
    if row.general and asked:
        loss, row = row.general, LOSSES[output, row.general]
    for name in asked:
        if name not in row.parameters:
            raise ValueError(
                f"The {name!r} parameter must be {LOSS_PARAMETERS[name]!r} with "
                f"loss={str(est.loss)!r}, which does not use it; got "
                f"{getattr(est, name)!r}."
            )
    return loss, tuple(_loss_parameter(est, name) for name in row.parameters)


def _is_default(given: Any, default: float) -> bool:
    return isinstance(given, Real) and given == default


def _loss_parameter(est: Any, name: str) -> float | tuple[float, ...]:
    given = getattr(est, name)
    if isinstance(given, Real):
        return number(est, name)
    # Every call checks what a sequence holds: it may have changed.
    _demand_order(name, given)
    held = tuple(given)
    if not is_allowed(name, held):
        raise ValueError(
            f"{name} must be a number in (0, 1), or several of them that increase, got "
            f"{given!r}."
        )
    return tuple(map(float, held))


def rounded(parameters: Parameters, dtype: Any) -> list[Any]:
    """The parameters as a network of this type has them."""
    with np.errstate(over="ignore"):  # the network refuses what is too large
        return [np.asarray(p).astype(dtype) for p in parameters]


# ---- numbers


def number(est: Any, name: str) -> float:
    """A parameter as a float; whole numbers may be too large for one."""
    try:
        return float(getattr(est, name))
    except OverflowError:
        raise ValueError(
            f"The {name!r} parameter of {type(est).__name__} must be at most "
            f"{np.finfo(np.float64).max:.1e}, got a larger number."
        ) from None


@contextmanager
def named_overflow(name: str) -> Iterator[None]:
    """Whole numbers of Python may be too large for any float."""
    try:
        yield
    except OverflowError:
        raise ValueError(f"{name} holds a number too large for float64.") from None


# ---- threads and random draws


def n_threads(n_jobs: int | None) -> int:
    """Threads for `n_jobs`, by joblib's rules, of the cores of this process.

    Where a cluster is joblib's backend, joblib counts all its workers; the threads of a
    fit run here. A number that is asked for by name is granted.
    """
    wanted = joblib.effective_n_jobs(n_jobs)
    if wanted == 1:  # joblib counts cores in 100 us
        return 1
    most = joblib.cpu_count() if n_jobs is None or n_jobs < 0 else n_jobs
    return min(wanted, most, _MOST_THREADS)


class _NoEntropy(ISeedSequence):
    """Zeros, for a generator that is seeded afterwards. NumPy reads a list fastest."""

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> Any:
        return [0] * n_words


_NO_ENTROPY = _NoEntropy()


def generator(random_state: Any) -> RandomState:
    """The generator that `random_state` stands for, as check_random_state makes it.

    RandomState(seed) first seeds itself from the system's entropy, which takes 20 times
    as long.
    """
    if type(random_state) is not int:
        return check_random_state(random_state)
    try:
        rng = RandomState(MT19937(_NO_ENTROPY))
    except (TypeError, ValueError):  # a NumPy that wants an array
        rng = RandomState()
    rng.seed(random_state)
    return rng
