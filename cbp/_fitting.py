"""One fit, in order: data, network, first weights, split, training, fitted attributes.

`fit` reads straight down, on a trial copy of the estimator. Each thing is asked of the
room that knows it: what users pass of _validation.py, _targets.py and _parameters.py,
what differs by solver of _solvers.py. Nothing is computed here; what training itself
does stands in _training.pyx.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from cbp import _stream
from cbp._batch import fit_bytes
from cbp._callbacks import Rows, Session
from cbp._catalog import OPTIMIZERS
from cbp._checkpoint import Saved, Source, generator_state
from cbp._data import Data, most_entries
from cbp._divergence import DivergenceError, message_of_divergence
from cbp._fit_summary import FitSummary
from cbp._fitted import Fitted, Weights
from cbp._init import draw_weights
from cbp._kernels import all_finite
from cbp._look import HeldOut, Look, harmless
from cbp._memory import demand_memory
from cbp._network import Network
from cbp._parameters import (
    chosen_loss,
    dropout_rates,
    generator,
    hidden_layers,
    init_factors,
    n_threads,
    number,
)
from cbp._progress import Optimizer, Progress, Settings
from cbp._scoring import Given, demand_scoring, make_scorer, named, settings_name
from cbp._solvers import (
    SOLVERS,
    AfterEpoch,
    Limits,
    OpenLBFGS,
    demand_endless,
    demand_steps,
)
from cbp._split import demand_fraction, demand_weight, split
from cbp._training import Trainer
from cbp._validation import (
    Checked,
    allowed_dtypes,
    checked_rows_and_targets,
    checked_weight,
    is_ready,
    kernel_ready,
)
from cbp._verbose import StatusLine, print_loss, print_patience
from cbp._warn import warn
from cbp.gradient_flow import FailedFlow, GradientFlow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

# What a fit notes of rows that are held out.
_SCORES = ("validation_scores_", "validation_loss_curve_", "best_validation_score_")
_SCORES += ("best_iter_",)

# The records of a fit, which `monitor` asks for.
_FLOW = ("gradient_flow_", "_fit_summary", "_look_later")

# The end of a warning or an error about training.
_ASK = "For the reasons and what to do, call .diagnose()."
# A fit that diverges does so early; what is wrong with its data is looked for as if it
# had lasted that many epochs.
_EPOCHS_OF_FAILED = 200

# Parameters that the trainer takes as floats.
_REAL_PARAMETERS = ("alpha", "learning_rate_init", "power_t", "momentum", "beta_1")
_REAL_PARAMETERS += ("beta_2", "epsilon", "tol", "weight_decay", "warmup", "average")


_NOTHING_GIVEN = Given()


@dataclass
class Run:
    """One training run."""

    network: Network
    theta: Floats  # of the last epoch or iteration
    data: Checked
    rows: NDArray | None  # those trained on; None means all
    progress: Progress
    trainer: Trainer | None  # None if nothing is trained
    # None if the run is not monitored. Holds nothing that holds the run: only the
    # garbage collector would end such a pair.
    look: Look | None = None
    # Completes the summary when somebody asks for it.
    later: Callable[[FitSummary], FitSummary] | None = None
    summary: FitSummary | None = None
    # Scores the held-out rows if the engine does not.
    score: Callable[[Progress], float] | None = None
    # What only checkpoints ask for: rows that are scored, a generator and its state
    # when the first weights had been drawn, L-BFGS whose state can be had, and whether
    # the weights to begin with were those of an earlier fit.
    held_out: HeldOut | None = None
    rng: Any = None
    first: dict[str, Any] | None = None
    opened: OpenLBFGS | None = None
    went_on: bool = False

    @property
    def n_rows(self) -> int:
        """The number of rows that are trained on."""
        return self.data.X.shape[0] if self.rows is None else len(self.rows)

    @property
    def holds_out(self) -> bool:
        """Whether rows are held out, on which the weights are scored."""
        return self.trainer is not None and self.trainer.holds_out

    @property
    def stops_early(self) -> bool:
        """Whether the score decides when to end and which weights to keep."""
        return self.holds_out and self.trainer.best_theta is not None

    @property
    def chosen_theta(self) -> Floats:
        """The weights to keep: with early stopping those of the best score."""
        kept = self.stops_early and self.progress.scored
        return self.trainer.best_theta if kept else self.theta


def fit(
    est: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    *,
    incremental: bool,
    validation: Given = _NOTHING_GIVEN,
    session: Session | None = None,
    saved: Saved | None = None,
    stop: Any = None,
) -> None:
    """Train from new weights, or go on; `est._fitted` is set at the end.

    Parameters
    ----------
    est : BPClassifier or BPRegressor
        A trial copy, whose `_fitted` has what training may go on from. Checks of the
        data set columns and labels in it.
    X, y, sample_weight
        As users pass them.
    incremental : bool
        One epoch without early stopping, for `partial_fit`.
    validation : Given
        Rows to score instead of a split of X.
    session : Session or None
        The callbacks to tell.
    saved : Saved or None
        The checkpoint of a fit that was lost, to go on with that.
    stop : threading.Event or None
        What another thread sets to interrupt the training.

    Raises
    ------
    KeyboardInterrupt
        With `est._fitted` set to the weights reached, if they are finite.
    """
    if saved is not None:
        saved.demand_parameters(est)
        est._fitted = Fitted()
    kept = _stream.take(est) if incremental else None
    layers = hidden_layers(est) if kept is None else kept.layers
    early_stopping = bool(est.early_stopping) and not incremental
    splits = early_stopping and not validation.is_there
    if splits:
        demand_fraction(est.validation_fraction)
    demand_scoring(est.scoring)
    demand_steps(est)
    drops = bool(dropout_rates(est, len(layers[0])))
    if incremental:
        demand_endless(est)
    fresh = not (est._fitted.has_weights and (est.warm_start or incremental))
    data = check_data(
        est,
        X,
        y,
        sample_weight,
        fresh=fresh,
        incremental=incremental,
        dtypes=None if saved is None else saved.dtypes(),
    )
    # Only partial_fit comes here with rows that weigh nothing: they change nothing.
    idle = data.weighs_nothing
    if idle and not fresh:
        return
    if kept is not None and kept.fits(est, data):
        network = kept.trainer.network
    else:
        kept = None
        network = _make_network(est, layers, data, goes_on=not fresh)
    # Draws come in scikit-learn's order: weights, validation split, shuffles.
    rng = None
    if fresh or splits or drops or (est.shuffle and data.X.shape[0] > 1):
        rng = generator(est.random_state)
    if saved is not None:
        rng = saved.generator(est.random_state)
        theta, progress = np.zeros(network.n_params, network.dtype), Progress()
    elif fresh:
        theta = _first_weights(est, network, rng)
        progress = Progress()
    else:
        theta = est._fitted.copy_theta(network)
        optimizer = _optimizer(est, network) if incremental else None
        progress = _progress_of(est._fitted, optimizer)
    first = None if session is None else generator_state(rng)
    rows, held_out = _hold_out(est, data, validation, splits, rng)
    if saved is not None:
        saved.demand_data(est, data, held_out)
    _warn_if_clipped(est, data.X.shape[0] if rows is None else len(rows))
    if kept is None:
        trainer = _make_trainer(
            est, network, theta, data, rows, held_out, progress, rng
        )
    else:
        trainer = kept.trainer
        rows_of = Data(network, data.X, data.target, data.weight)
        trainer.renew(theta, rows_of, progress, rng)
    if stop is not None:
        trainer.watch(stop)
    n_asked = trainer.n_threads
    run = Run(network, theta, data, rows, progress, trainer)
    run.held_out, run.rng, run.first = held_out, rng, first
    run.went_on = bool(est.warm_start) and not fresh and not incremental
    keeps = saved is not None or (session is not None and session.keeps_state)
    if keeps and not SOLVERS[est.solver].stochastic:
        run.opened = OpenLBFGS()
    if saved is not None:
        saved.restore(run)
    if held_out is not None and settings_name(est) == "told":
        run.score = make_scorer(est, network, theta, *held_out)
    if early_stopping and not fresh:
        # Weights to go on from are the best so far, whatever others scored.
        score = None if run.score is None else run.score(progress)
        trainer.score_weights(theta, score, starting=True)
    if est.monitor:
        batch = None if est.shuffle else _batch_size(est, run.n_rows)
        weighted = getattr(est, "class_weight", None) is None
        run.look = Look(network, data, rows, held_out, run.went_on, batch, weighted)
    if session is not None:
        best = -math.inf if saved is None else saved.best
        source = functools.partial(Source, est, run, best)
        _begin(session, est, run, X, sample_weight, source)
    try:
        if not idle:
            _train(est, run, incremental, session)
        if run.look and (trainer.recorder.n_records or not incremental):
            _summarize(run, progress.outcome, closely=not incremental)
    except KeyboardInterrupt:
        # Weights that have overflowed are no model, at whatever line it came.
        if all_finite(run.chosen_theta):
            if run.look:
                seen = run.look.of_data.at_end("interrupted")
                run.summary = _with_steps(run, seen)
                if not incremental:
                    _put_off(run)
            est._fitted = _model_after(est._fitted, run, incremental)
        raise
    est._fitted = _model_after(est._fitted, run, incremental)
    # Threads that could not be had are asked for again by a new trainer.
    if incremental and trainer.n_threads == n_asked:
        est._fitted._kept = _stream.keep(est, trainer, layers, data)


def start(est: Any, X: Any, y: Any) -> Fitted:
    """A model with the weights that `fit` would start from."""
    layers = hidden_layers(est)
    data = check_data(est, X, y, None, fresh=True, incremental=False)
    network = _make_network(est, layers, data, goes_on=False)
    rng = generator(est.random_state)
    theta = _first_weights(est, network, rng)
    run = Run(network, theta, data, None, Progress(), trainer=None)
    return _model_after(est._fitted, run, incremental=False)


# ---- the data


def check_data(
    est: Any,
    X: Any,
    y: Any,
    sample_weight: Any,
    *,
    fresh: bool,
    incremental: bool,
    dtypes: list | None = None,
) -> Checked:
    """What users pass, checked; sets the columns of X and the labels in `est`."""
    dtypes = dtypes or allowed_dtypes(est, fresh)
    target = None
    if incremental and not fresh and _is_ready_array(est._fitted, X, dtypes):
        target = est._ready_target(y, X.shape[0], X.dtype)
    if target is None:
        y = est._read_targets(y)
        X, y = checked_rows_and_targets(est, X, y, dtypes, reset=fresh)
    if target is None:
        target = est._encode(y, X.dtype, incremental)
    sample_weight = est._weigh(sample_weight, X, y, incremental)
    weight, unit = checked_weight(sample_weight, X, incremental)
    return Checked(X, target, weight, unit, est._n_outputs(target), y)


def _hold_out(
    est: Any, data: Checked, validation: Given, splits: bool, rng: Any
) -> tuple[NDArray | None, HeldOut | None]:
    """The rows to train on, None for all, and those to score."""
    if splits:
        labels = data.target if data.target.ndim == 1 else None
        rows, held_out = split(data.X.shape[0], labels, est.validation_fraction, rng)
        demand_weight(data.weight, held_out)
        return rows, HeldOut(data, held_out)
    if validation.is_there:
        return None, _check_validation(est, validation, data)
    return None, None


def _check_validation(est: Any, given: Given, data: Checked) -> HeldOut:
    """The validation set, by the columns and labels of the data trained on."""
    dtype = data.X.dtype
    with named():
        y = est._read_targets(given.y)
        X, y = checked_rows_and_targets(est, given.X, y, [dtype], reset=False)
        if sparse.issparse(data.X) and not sparse.issparse(X):
            X = sparse.csr_matrix(X)
        target = est._encode(y, dtype, incremental=True)
        weight = est._weigh(given.sample_weight, X, y, True, balance=data.y)
        weight, unit = checked_weight(weight, X, incremental=False)
        if target.shape[1:] != data.target.shape[1:]:
            raise ValueError(
                f"y_val has {est._n_outputs(target)} columns, y {data.n_outputs}"
            )
    checked = Checked(kernel_ready(X), target, weight, unit, data.n_outputs, y)
    return HeldOut(checked, np.arange(X.shape[0], dtype=np.int64))


def _is_ready_array(model: Fitted, X: Any, dtypes: list) -> bool:
    ready = len(dtypes) == 1 and is_ready(model, X, dtypes[0])
    return ready and all_finite(X)


def one_batch(
    est: Any, X: Any, y: Any, sample_weight: Any
) -> tuple[Network, Floats, Any, NDArray, Floats | None]:
    """Network, theta and data of one batch, as `cbp.backpropagate` needs them."""
    model = est._model()
    network, theta = model._network, model.theta()
    X, target, weight, unit, n_outputs, _ = check_data(
        est._with(copy.copy(model)),
        X,
        y,
        sample_weight,
        fresh=False,
        incremental=True,
        dtypes=[network.dtype],
    )
    if n_outputs != network.layer_sizes[-1]:
        raise ValueError(
            f"y asks for {n_outputs} outputs, but the network has "
            f"{network.layer_sizes[-1]}."
        )
    if unit != 1:
        with np.errstate(over="ignore"):
            weight = weight * weight.dtype.type(unit)
        if not all_finite(weight):
            raise ValueError(f"sample_weight is too large for {network.dtype}.")
    return network, theta, X, target, weight


# ---- the network and its first weights


def _demand_same_layers(network: Network, sizes: list[int]) -> None:
    """Refuse to go on training weights of another shape."""
    fitted = list(network.layer_sizes)
    if fitted != sizes:
        raise ValueError(
            "Training cannot go on with a network of another shape: the fitted "
            f"layers are {fitted}, but X, hidden_layer_sizes and y now ask for "
            f"{sizes}. Call fit with warm_start=False to begin anew."
        )


def _make_network(
    est: Any, layers: tuple[list[int], list[str]], data: Checked, goes_on: bool
) -> Network:
    """The network to train, once it is known that memory suffices."""
    (hidden, activations), X = layers, data.X
    sizes = [X.shape[1], *hidden, data.n_outputs]
    if goes_on and est._fitted.is_model:
        _demand_same_layers(est._fitted._network, sizes)
    output = est._output_activation(sizes[-1])
    loss, parameters = chosen_loss(est, output)
    kind = (
        tuple(sizes),
        tuple(activations),
        output,
        loss,
        X.dtype,
        parameters,
        est._output_groups(),
    )
    network = est._fitted.get("_network")
    if network is None or network.kind != kind:
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        n_params = sum((a + 1) * b for a, b in pairs)
        # Asked before a network is made, which takes memory, too.
        demand_memory(est, n_params * X.dtype.itemsize, n_params)
        network = Network(*kind)
    n_params = network.n_params
    theta_bytes = n_params * X.dtype.itemsize
    solver = SOLVERS[est.solver]
    batch = solver.batch_size(est.batch_size, X.shape[0])
    # Beside theta: the former model until success, and the best weights.
    n_bytes = theta_bytes * (1 + est._fitted.is_model + bool(est.early_stopping))
    n_bytes += fit_bytes(
        network,
        batch,
        est.solver,
        sparse.issparse(X),
        clips=est.max_grad_norm is not None,
        averages=est.average > 0,
        drops=bool(dropout_rates(est, len(hidden))),
        entries=most_entries(np.diff(X.indptr), batch) if sparse.issparse(X) else 0,
        drops_entries=est.input_dropout > 0,
    )
    demand_memory(est, n_bytes + solver.workspace * n_params, n_params)
    return network


def _first_weights(est: Any, network: Network, rng: Any) -> Floats:
    factors = init_factors(est, network.activations)
    return draw_weights(network, str(est.init), factors, rng)


def _optimizer(est: Any, network: Network) -> Optimizer | None:
    """The state that partial_fit goes on with, if it is that solver's."""
    optimizer = est._fitted.get("_optimizer")
    if optimizer is None or optimizer.solver != est.solver:
        return None
    return optimizer if est._fitted._network.dtype == network.dtype else None


def _progress_of(fitted: Fitted, optimizer: Optimizer | None) -> Progress:
    """Where the last run stood, for another to go on from."""
    best_loss = fitted.get("best_loss_")
    return Progress(
        t=fitted.get("t_", 0),
        best_loss=math.inf if best_loss is None else best_loss,
        loss_curve=fitted.get("loss_curve_", ()),
        validation_scores=fitted.get("validation_scores_") or (),
        validation_loss_curve=fitted.get("validation_loss_curve_") or (),
        no_improvement_count=fitted.get("_no_improvement_count", 0),
        optimizer=optimizer,
    )


# ---- training


def _batch_size(est: Any, n_rows: int) -> int:
    return SOLVERS[est.solver].batch_size(est.batch_size, n_rows)


def _make_trainer(
    est: Any,
    network: Network,
    theta: Floats,
    data: Checked,
    rows: NDArray | None,
    held_out: HeldOut | None,
    progress: Progress,
    rng: Any,
) -> Trainer:
    """The only place where a fit makes a Trainer."""
    n_rows = data.X.shape[0] if rows is None else len(rows)
    batch_size = _batch_size(est, n_rows)
    patience = est.n_iter_no_change
    numbers = {name: number(est, name) for name in _REAL_PARAMETERS}
    numbers["alpha"] = _penalty(est, data, batch_size)
    settings = Settings(
        solver=str(est.solver),
        batch_size=batch_size,
        n_threads=n_threads(est.n_jobs),
        # A single row has no order to draw, and no generator is made for it.
        shuffle=bool(est.shuffle) and n_rows > 1,
        exclusive=isinstance(est.random_state, Integral),
        learning_rate=(
            est.learning_rate if callable(est.learning_rate) else str(est.learning_rate)
        ),
        max_grad_norm=(
            math.inf if est.max_grad_norm is None else number(est, "max_grad_norm")
        ),
        nesterovs_momentum=bool(est.nesterovs_momentum),
        # No run is so long; the loop counts in float64.
        n_iter_no_change=patience if patience < 2**53 else math.inf,
        monitor=bool(est.monitor),
        early_stopping=bool(est.early_stopping),
        scoring=settings_name(est),
        dropout=dropout_rates(est, len(network.activations)),
        **numbers,
    )
    rows_of = Data(network, data.X, data.target, data.weight)
    scored = None
    if held_out is not None:
        of, at = held_out
        same = of is data
        scored = rows_of if same else Data(network, of.X, of.target, of.weight), at
    return Trainer(
        network,
        theta if SOLVERS[est.solver].stochastic else theta.copy(),
        rows_of,
        settings,
        progress,
        rows=rows,
        held_out=scored,
        random_state=rng,
    )


def _penalty(est: Any, data: Checked, batch_size: int) -> float:
    """alpha in the unit of the weights, beside whose sums it stands.

    Adam squares the gradient: where alpha is so large beside the weights of a batch
    that the squares would overflow, it is limited to what the type can hold. Nothing
    else of the cost is felt then, so that Adam's steps, which know no scale, are the
    same.
    """
    alpha = number(est, "alpha") / data.unit
    row = OPTIMIZERS.get(str(est.solver))
    if row is None or row.second_moment is None or alpha <= 1:
        return alpha
    mean = 1.0 if data.weight is None else float(data.weight.mean(dtype=np.float64))
    exponent = np.finfo(data.X.dtype).maxexp // 2 - 8
    return min(alpha, math.ldexp(batch_size * mean, exponent))


def _warn_if_clipped(est: Any, n_rows: int) -> None:
    """Warn, as scikit-learn does, of batches that were to be larger than the data."""
    if SOLVERS[est.solver].clips(est.batch_size, n_rows):
        warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going "
            f"to be clipped: batch_size={est.batch_size}, but there are {n_rows} "
            "rows to train on."
        )


def _begin(
    session: Session,
    est: Any,
    run: Run,
    X: Any,
    sample_weight: Any,
    source: Callable[[], Source],
) -> None:
    """Tell callbacks that training begins, and what they may ask for during it."""
    named = est._fitted.get("feature_names_in_") is not None
    rows = Rows(X, run.data, run.rows, sample_weight, named)
    model = functools.partial(_model_so_far, est, run)
    flow = functools.partial(_flow, run) if run.look else None
    session.begin(rows, run.n_rows, run.trainer.recorder, flow, model, source)


def _train(est: Any, run: Run, incremental: bool, session: Session | None) -> None:
    """Run the solver; print, warn or raise as its end asks for."""
    progress, solver = run.progress, SOLVERS[est.solver]
    limits = Limits(
        max_iter=1 if incremental else int(est.max_iter),
        max_fun=int(est.max_fun),
        tol=number(est, "tol"),
    )
    listeners: list[AfterEpoch] = []
    line = nullcontext()
    if est.verbose == 2:
        most = None if incremental else limits.max_iter
        line = StatusLine(solver.epoch, run.n_rows, most)
        listeners.append(line)
    elif est.verbose:
        listeners.append(print_loss)
    if session is not None and session.listens:
        listeners.append(session.after_epoch)
    with line:
        end = solver.run(
            run.trainer,
            run.theta,
            run.data.target,
            limits,
            listeners,
            run.score,
            run.opened,
        )
    progress.outcome = "partial" if incremental else end.outcome
    if end.reason == "diverged":
        _diverged(est, run)
    elif end.reason == "patience" and est.verbose:
        print_patience(progress.scored, est.tol, est.n_iter_no_change)
    if end.warning and not incremental:
        gap = "\n" if "\n" in end.warning else " "
        ask = gap + _ASK if est.monitor else ""
        warn(end.warning + ask, ConvergenceWarning)


def _diverged(est: Any, run: Run) -> None:
    """Raise the error of a diverged fit; warn if early stopping has a fallback."""
    progress, data = run.progress, run.data
    message = message_of_divergence(est, run.network, *data[:4], progress.n_iter + 1)
    ask = f" {_ASK}" if est.monitor else ""
    if not math.isfinite(progress.best_score):
        raise DivergenceError(message + ask, _failed_flow(run))
    progress.outcome = "diverged"
    progress.validation_scores.append(math.nan)
    progress.scored = True  # so that the weights of the best score are kept, not these
    warn(
        f"{message} The weights of the best validation score are kept.{ask}",
        ConvergenceWarning,
    )


# ---- what a fit leaves behind


def _summarize(run: Run, outcome: str, closely: bool = False) -> None:
    """Note what `diagnose` must know, or what finds it later."""
    look, theta, progress = run.look, run.chosen_theta, run.progress
    summary = look.at_end(theta, outcome, progress.loss)
    if closely:
        work = _put_off(run)
        if run.later is None:
            summary = look.closely(theta, work, summary)
    run.summary = _with_steps(run, summary)


def _put_off(run: Run) -> float:
    """Keep what a closer look needs if that is little; the work of the run."""
    work = run.look.work(max(run.progress.n_iter, 1))
    with harmless():
        run.later = run.look.later(run.chosen_theta, work)
    return work


def _with_steps(run: Run, summary: FitSummary) -> FitSummary:
    rate, clipped = run.progress.learning_rate, run.progress.clipped
    last = None if math.isnan(rate) else rate
    return replace(summary, clipped=clipped, last_rate=last)


def _flow(run: Run, kind: type = GradientFlow, **more: Any) -> Any:
    """The recorded gradient flow of a run."""
    return kind(
        **run.trainer.recorder.flow(),
        layer_sizes=run.network.layer_sizes,
        activations=run.network.activations,
        **more,
    )


def _failed_flow(run: Run) -> FailedFlow:
    """The records of a run that diverged."""
    if run.look is None:
        network = run.network
        return FailedFlow.unrecorded(network.layer_sizes, network.activations)
    work = run.look.work(_EPOCHS_OF_FAILED)
    seen = run.look.with_faults(run.look.of_data, work)
    return _flow(
        run,
        FailedFlow,
        loss_curve=tuple(run.progress.loss_curve),
        n_iter=run.progress.n_iter,
        summary=_with_steps(run, seen.at_end("diverged")),
    )


def _model_after(former: Fitted, run: Run, incremental: bool) -> Fitted:
    """All that the run leaves behind."""
    flow: dict[str, Any] = {}
    if run.summary is not None:
        flow = {"gradient_flow_": _flow(run), "_fit_summary": run.summary}
        if run.later is not None:
            flow["_look_later"] = run.later
    elif incremental and run.look:  # no batch was watched: the last records stay
        flow = {name: former.get(name) for name in _FLOW if former.get(name)}
        if flow and flow["_fit_summary"].outcome != "partial":
            flow["_fit_summary"] = replace(flow["_fit_summary"], outcome="partial")
    network = run.network
    return former.changed(
        drop=("_failed_flow", "coefs_", "intercepts_", "_kept", *_FLOW),
        _network=network,
        _weights=Weights(network, run.chosen_theta),
        n_layers_=len(network.layer_sizes),
        n_outputs_=network.layer_sizes[-1],
        out_activation_=network.output,
        _partially_fitted=incremental,
        **_counted(former, run, incremental),
        **flow,
    )


def _model_so_far(est: Any, run: Run) -> Fitted:
    """What the run would leave behind if somebody stopped it now; for callbacks.

    It shares arrays with the run.
    """
    now = replace(run)
    if run.look:
        _summarize(now, "stopped")
    return _model_after(est._fitted, now, incremental=False)


def _counted(former: Fitted, run: Run, incremental: bool) -> dict[str, Any]:
    """The fitted attributes that are made of the run's progress."""
    progress = run.progress
    scores = dict.fromkeys(_SCORES)
    if run.holds_out:
        scores = {
            "validation_scores_": progress.validation_scores,
            "validation_loss_curve_": progress.validation_loss_curve,
            "best_validation_score_": progress.best_score,
            "best_iter_": progress.best_iter,
        }
    elif incremental:  # leaves the record of an earlier fit
        scores = {name: former.get(name) for name in _SCORES}
    return {
        "n_iter_": progress.n_iter,
        "t_": progress.t,
        "loss_": progress.loss,
        "loss_curve_": progress.loss_curve,
        "best_loss_": None if run.stops_early else progress.best_loss,
        **scores,
        "_no_improvement_count": progress.no_improvement_count,
        "_optimizer": progress.optimizer,
    }
