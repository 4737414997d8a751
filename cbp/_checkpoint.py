"""A fit that is under way, in a file: what it holds, and whether another call fits it.

A checkpoint holds where a fit stands between two epochs: weights, the optimizer's
state, numbers of the schedule and of patience, the order of the rows, generators,
curves and records. Of the data it holds hashes, of the parameters texts: with others
there is nothing to go on with, and the error names them. The container is that of model
files (_safetensors.py). When checkpoints are written is decided in callbacks.py; that a
resumed fit has the bits of one that was never interrupted is the work of
`Trainer.state` and `Trainer.restore`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random import MT19937, RandomState
from scipy import sparse

from cbp._safetensors import ModelFileError, demand, pack, parse_json
from cbp._safetensors import read as read_container
from cbp._version import VERSION
from cbp._whole_file import write_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cbp._fitted import Fitted
    from cbp._validation import Checked

# Of what is in the JSON and the tensors; to be raised whenever that changes.
VERSION_OF_CHECKPOINTS = 1

# Parameters that change no bit.
_FREE = ("n_jobs", "verbose")

_MOST_TOKENS = 2**15
_PARTS = {"checkpoint", "estimator", "parameters", "data", "generators", "numbers"}
_PARTS |= {"warm", "dtype", "number", "best"}


# ---- the file


def write(path: str, tensors: dict[str, NDArray], meta: dict[str, Any]) -> None:
    """Put a checkpoint into a file, whole or not at all.

    Raises
    ------
    OSError
        Of the system; what was in the file is still there.
    """
    metadata = {
        "format": "cbp",
        "format_version": "1",
        "kind": "checkpoint",
        "cbp_version": VERSION,
        "config": json.dumps(meta, separators=(",", ":"), allow_nan=False),
    }
    write_whole(path, pack(metadata, tensors), new=f"{os.path.realpath(path)}.tmp")


def keep(path: str, best: str) -> None:
    """Keep a checkpoint that was just written under a second name.

    By a link, so that nothing is written twice: `path` gets new files, and none is
    changed.

    Raises
    ------
    OSError
        Of the system; what was in the file `best` is still there.
    """
    new = f"{os.path.realpath(best)}.tmp"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    try:
        os.link(os.path.realpath(path), new)
    except OSError:  # a file system without links, for example
        with open(path, "rb") as file:
            write_whole(best, [file.read()], new=new)
        return
    try:
        os.replace(new, os.path.realpath(best))
    except BaseException:
        os.unlink(new)
        raise


def read(path: str) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """The tensors and the description of a checkpoint.

    Raises
    ------
    ModelFileError
        If the file is no checkpoint, or damaged.
    OSError
        If it cannot be read.
    """
    container = read_container(path, mapped=False)
    kind = container.metadata.get("kind")
    demand(kind == "checkpoint", f"it holds no checkpoint, but a {kind!r:.20}")
    meta = parse_json(container.metadata.get("config", ""), _MOST_TOKENS)
    demand(meta.keys() == _PARTS, f"it describes {list(meta)[:9]}")
    version = meta["checkpoint"]
    demand(
        version == VERSION_OF_CHECKPOINTS,
        f"its checkpoint has the version {version!r:.20}; this version of cbp reads "
        f"{VERSION_OF_CHECKPOINTS}",
    )
    return {name: container.array(name) for name in container.tensors}, meta


def slots(path: str) -> tuple[str, str]:
    """The two files that are written in turn."""
    return path, f"{path}.1"


def best_file(path: str) -> str:
    """The file that keeps the best checkpoint."""
    return f"{path}.best"


def newest(path: str) -> Saved:
    """The last checkpoint that was written at `path`.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ModelFileError
        If none of those that are there can be read.
    """
    found, errors = [], []
    for file in slots(path):
        try:
            found.append(Saved(file, *read(file)))
        except FileNotFoundError as error:
            missing = error
        except ModelFileError as error:
            errors.append(f"{file!r}: {error}")
    if found:
        return max(found, key=lambda saved: saved.number)
    if errors:
        raise ModelFileError(". ".join(errors) + ".")
    raise missing


def last_number(path: str) -> int:
    """The number of the last checkpoint at `path`, 0 if there is none.

    Raises
    ------
    ModelFileError
        If another file is in the way.
    """
    numbers = [0]
    for file in slots(path):
        if os.path.exists(file):
            numbers.append(Saved(file, *read(file)).number)
    return max(numbers)


# ---- what a fit is, as far as it must be the same


def _parameters(est: Any) -> dict[str, str]:
    given = est.get_params(deep=False)
    return {name: _text(given[name]) for name in sorted(given) if name not in _FREE}


def _text(value: Any) -> str:
    """A parameter as a text that is the same for what means the same."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | str | bytes):
        return repr(value)
    if isinstance(value, Integral):
        return repr(int(value))
    if isinstance(value, Real):
        value = float(value)
        return repr(int(value) if value.is_integer() else value)
    if isinstance(value, list | tuple | np.ndarray):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, dict):
        pairs = sorted(f"{_text(key)}: {_text(value[key])}" for key in value)
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, RandomState):
        return "RandomState"
    if not hasattr(value, "__qualname__"):
        value = type(value)
    return f"{value.__module__}.{value.__qualname__}"


def _print_of(*arrays: Any) -> dict[str, str]:
    """The form of some data, in words, and the hash of their bytes."""
    digest, forms = hashlib.blake2b(digest_size=32), []
    for array in arrays:
        if array is None:
            continue
        parts = [array]
        if sparse.issparse(array):
            parts = [array.data, array.indices, array.indptr]
        forms.append(
            f"{'sparse ' * sparse.issparse(array)}{array.dtype} of shape {array.shape}"
        )
        for part in parts:
            part = np.ascontiguousarray(part)
            digest.update(part.data if part.size else b"")
        digest.update(forms[-1].encode())
    return {"form": " and ".join(forms), "hash": digest.hexdigest()}


def _labels(fitted: Fitted) -> NDArray:
    """The classes of a fit, as bytes."""
    classes = fitted.get("classes_")
    columns = classes if isinstance(classes, list) else [classes]
    said = [None if column is None else column.tolist() for column in columns]
    return np.frombuffer(repr(said).encode(), np.uint8)


def _prints(fitted: Fitted, data: Checked, end: str = "") -> dict[str, dict[str, str]]:
    """What must be the same of X, y and sample_weight."""
    names = fitted.get("feature_names_in_")
    names = None if names is None else repr(list(names)).encode()
    prints = {
        f"X{end}": _print_of(data.X),
        f"y{end}": _print_of(data.target, _labels(fitted)),
    }
    if names is not None:
        prints[f"X{end}"]["hash"] += hashlib.blake2b(names, digest_size=8).hexdigest()
    if data.weight is not None:
        prints[f"sample_weight{end}"] = _print_of(data.weight, np.float64(data.unit))
    return prints


def prints_of(est: Any, data: Checked, held_out: Any) -> dict[str, dict[str, str]]:
    """What must be the same of all data that a fit was given."""
    prints = _prints(est._fitted, data)
    if held_out is not None and held_out.data is not data:
        prints |= _prints(est._fitted, held_out.data, "_val")
    return prints


# ---- generators


def generator_state(rng: RandomState | None) -> dict[str, Any] | None:
    """The state of a generator, as NumPy tells it."""
    return None if rng is None else rng.get_state(legacy=False)


def _demand_known(state: dict[str, Any] | None) -> None:
    if state is not None and state["bit_generator"] != "MT19937":
        raise ValueError(
            "A checkpoint can hold a random_state whose bit generator is MT19937, as "
            f"that of RandomState(seed) is, but not {state['bit_generator']}."
        )


# ---- taking a checkpoint


class Source:
    """Of one fit, what makes a checkpoint.

    Parameters
    ----------
    est : BPClassifier or BPRegressor
        The trial copy that is trained.
    run : Run
        That of _fitting.py.
    best : float
        The best `value` that was written so far.
    """

    def __init__(self, est: Any, run: Any, best: float):
        self._run, self.best = run, best
        _demand_known(run.first)
        self._fixed = {
            "checkpoint": VERSION_OF_CHECKPOINTS,
            "estimator": type(est).__name__,
            "parameters": _parameters(est),
            "data": prints_of(est, run.data, run.held_out),
            "warm": run.went_on,
            "dtype": str(run.data.X.dtype),
        }

    @property
    def value(self) -> float:
        """How good the weights of this epoch are; more is better."""
        progress = self._run.progress
        if self._run.holds_out:
            return progress.validation_scores[-1]
        return -progress.loss

    def take(self, number: int, best: float) -> tuple[dict, dict]:
        """Tensors and description of a checkpoint of this moment, between two epochs.

        number: how many there have been, with this one; best: the best `value`.
        """
        run = self._run
        numbers, arrays = run.trainer.state()
        if run.opened is not None:
            more_numbers, more_arrays = run.opened.state()
            numbers, arrays = numbers | more_numbers, arrays | more_arrays
        tensors = {"theta": run.theta, **arrays}
        generators = {}
        states = {"first": run.first, "now": generator_state(run.rng)}
        for name, state in states.items():
            if state is not None:
                tensors[f"generator.{name}"] = state["state"]["key"]
                generators[name] = {
                    "pos": int(state["state"]["pos"]),
                    "has_gauss": int(state["has_gauss"]),
                    "gauss": float(state["gauss"]).hex(),
                }
        said = {
            name: x.hex() if isinstance(x, float) else x for name, x in numbers.items()
        }
        return tensors, self._fixed | {
            "numbers": said,
            "generators": generators,
            "number": number,
            "best": float(best).hex(),
        }


# ---- going on from one


@dataclass
class Saved:
    """A checkpoint that was read.

    Its contents have not been looked at yet; what does not fit is a ModelFileError of
    the method that uses it.
    """

    path: str
    tensors: dict[str, NDArray]
    meta: dict[str, Any]

    @property
    def number(self) -> int:
        """How many checkpoints there had been at this place, with this one."""
        number = self.meta["number"]
        demand(type(number) is int and 0 < number < 2**62, f"its number is {number!r}")
        return number

    @property
    def warm(self) -> bool:
        """Whether the fit had gone on from another one."""
        return bool(self.meta["warm"])

    @property
    def best(self) -> float:
        """The best value of the checkpoints so far."""
        return _number(self.meta["best"])

    def dtypes(self) -> list | None:
        """The type that X is to be computed in, where X does not tell."""
        return [np.dtype(str(self.meta["dtype"]))] if self.warm else None

    def demand_parameters(self, est: Any) -> None:
        """Refuse an estimator that has other parameters, by name."""
        then, now = self.meta["parameters"], _parameters(est)
        demand(isinstance(then, dict), "its parameters are missing")
        own = type(est).__name__
        if self.meta["estimator"] != own:
            raise ValueError(
                f"The checkpoint is of a {self.meta['estimator']!s:.40}, and cannot be "
                f"resumed by a {own}."
            )
        for name in sorted(then.keys() | now.keys()):
            before, here = (said.get(name, "not known") for said in (then, now))
            if before != here:
                raise ValueError(
                    f"{name} is {here}, but was {before!s:.200} in the fit of the "
                    "checkpoint. Only verbose and n_jobs may differ."
                )

    def demand_data(self, est: Any, data: Checked, held_out: Any) -> None:
        """Refuse other data, by name."""
        then, now = self.meta["data"], prints_of(est, data, held_out)
        demand(isinstance(then, dict), "its data are not described")
        for name in [*now, *(name for name in then if name not in now)]:
            before, here = then.get(name), now.get(name)
            if before == here:
                continue
            if before is None or here is None:
                what = "was given, but the fit of the checkpoint had none"
                if here is None:
                    what = "is missing; the fit of the checkpoint had one"
            elif before.get("form") != here["form"]:
                what = (
                    f"is {here['form']}, but was {before.get('form')!s:.200} in the "
                    "fit of the checkpoint"
                )
            else:
                what = "holds other values than in the fit of the checkpoint"
            if name.startswith("sample_weight"):
                what += " (those of classes included)"
            raise ValueError(f"{name} {what}.")

    def generator(self, random_state: Any) -> RandomState | None:
        """The generator of the fit as it was when the first weights had been drawn.

        The user's own if it is one, else a new one.
        """
        if "first" not in self.meta["generators"]:
            return None
        rng = RandomState(MT19937(0))
        if isinstance(random_state, RandomState):
            rng = random_state
        self._set(rng, "first")
        return rng

    def _set(self, rng: RandomState, name: str) -> None:
        with _damage(self.path):
            said, key = self.meta["generators"][name], self.tensors[f"generator.{name}"]
            demand(key.shape == (624,) and key.dtype == np.uint32, "a wrong generator")
            demand(0 <= said["pos"] <= 624, "a generator has a wrong position")
            state = {
                "bit_generator": "MT19937",
                "state": {"key": key, "pos": said["pos"]},
                "has_gauss": said["has_gauss"],
                "gauss": _number(said["gauss"]),
            }
        try:
            rng.set_state(state)
        except ValueError as error:  # another bit generator
            raise ValueError(f"random_state does not fit: {error}.") from None

    def restore(self, run: Any) -> None:
        """The trainer, the solver and the generator stand where the fit stood."""
        run.went_on = self.warm
        if run.rng is not None:
            self._set(run.rng, "now")
        with _damage(self.path):
            numbers = {
                name: x if name == "status" else _number(x)
                for name, x in self.meta["numbers"].items()
            }
            self._demand_arrays(run.theta, numbers, run.holds_out)
            theta = self.tensors["theta"]
            run.trainer.restore(theta, numbers, self.tensors)
            run.theta[...] = theta  # L-BFGS has one of its own
            if run.opened is not None:
                run.opened.restore(numbers, self.tensors, len(theta))

    def _demand_arrays(
        self, theta: NDArray, numbers: dict[str, Any], holds_out: bool
    ) -> None:
        """Weights are like theta, and every curve is as long as the fit."""
        for name in self.tensors.keys() & {"theta", "best_theta", "last_theta"}:
            array = self.tensors[name]
            right = array.dtype == theta.dtype and array.shape == theta.shape
            demand(right and np.isfinite(array).all(), f"{name} is no array of weights")
        names = ["loss_curve"]
        if holds_out:
            names += ["validation_scores", "validation_loss_curve"]
        for name in names:
            curve, n = self.tensors[name], numbers["n_iter"]
            right = curve.ndim == 1 and curve.dtype == np.float64
            right &= len(curve) == n or (self.warm and len(curve) > n)
            demand(right, f"{name} does not fit the epochs")


class _damage:
    """Whatever is wrong with a checkpoint is a ModelFileError with its name."""

    def __init__(self, path: str):
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        wrong = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
        if isinstance(error, wrong):
            raise ModelFileError(
                f"{self.path!r}: it is damaged or was changed: {error}."
            ) from error


def _number(said: Any) -> int | float:
    """A number of the description: whole numbers as they are, others in hexadecimal."""
    return float.fromhex(said) if isinstance(said, str) else said
