"""What each option of training costs, here and beside PyTorch and JAX.

    python benchmarks/options.py             some ten minutes
    python benchmarks/options.py --quick     two minutes, no peers

Two networks, float32, one core. Each option is trained in turn with the plain network
(ReLU, Adam) of the same program, in one process; a share is the median over the rounds
of the plain run's seconds by the option's. Beside the peers: the median over the rounds
of the peer's seconds by cbp's, with the same option. A run trains some epochs from the
same first weights: cbp by `fit`, the peers by the loops of peers.py with this option's
line more.
"""

import time
import warnings
from dataclasses import dataclass, field, replace
from statistics import median

import measure
import numpy as np
from peers import ALPHA, BETA_1, BETA_2, EPSILON, RATE, SEED, Jax, TorchEager
from report import Report, parser, times
from sklearn.exceptions import ConvergenceWarning
from workloads import Workload, clusters

from cbp import BPClassifier, BPRegressor, _kernels

DECAY, LIMIT, DROPPED = 0.01, 1.0, 0.2


@dataclass(frozen=True)
class Option:
    """One option: what cbp calls it, and the least share of the plain rate to reach."""

    parameters: dict = field(default_factory=dict)
    aim: float | None = None
    activation: str = "relu"
    loss: str = "log_loss"
    plain: str = "plain"
    scored: bool = False


OPTIONS = {
    "plain": Option(),
    **{
        name: Option({"activation": name}, 0.8, activation=name)
        for name in ("elu", "gelu", "silu", "mish")
    },
    "dropout 0.2": Option({"dropout": DROPPED}, 0.9),
    "AdamW": Option({"weight_decay": DECAY}, 0.98),
    "clipping": Option({"max_grad_norm": LIMIT}, 0.9),
    "X_val every epoch": Option(scored=True),
    "squared error": Option(loss="squared_error"),
    "huber": Option({"loss": "huber"}, 0.98, loss="huber", plain="squared error"),
    "quantile": Option(
        {"loss": "quantile"}, 0.98, loss="quantile", plain="squared error"
    ),
}
WORKLOADS = [
    Workload("", (64, 100, 10), 200, 4000, "clusters", 15),
    Workload("", (54, 256, 256, 7), 256, 4096, "clusters", 4),
]
# How many times the best peer's speed is aimed at, by network.
AIMS = {WORKLOADS[0]: 2.0, WORKLOADS[1]: 1.4}


class Ours:
    """`fit` with the option."""

    def __init__(self, workload, option, X, y):
        regression = option.loss != "log_loss"
        self.model = (BPRegressor if regression else BPClassifier)(
            hidden_layer_sizes=workload.hidden,
            batch_size=workload.batch_size,
            learning_rate_init=RATE,
            alpha=0.0 if "weight_decay" in option.parameters else ALPHA,
            random_state=SEED,
            tol=0,
            n_iter_no_change=np.inf,
            n_jobs=1,
            **option.parameters,
        )
        self.data = (X, y)
        self.held_out = dict(X_val=X, y_val=y) if option.scored else {}

    def run(self, epochs):
        self.model.max_iter = epochs
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.model.fit(*self.data, **self.held_out)


class Torch(TorchEager):
    """The loop of peers.py with the option."""

    def __init__(self, workload, option, X, y):
        regression = option.loss != "log_loss"
        super().__init__(workload, X, y if not regression else y.astype("int64"), 1)
        self.option = option
        if regression:
            self.y = self.torch.from_numpy(y.astype(X.dtype))

    def logits(self, weights, biases, X):
        f, a = self.torch.nn.functional, X
        for W, b in zip(weights[:-1], biases[:-1], strict=True):
            a = getattr(f, self.option.activation)(f.linear(a, W, b))
            if "dropout" in self.option.parameters:
                a = f.dropout(a, DROPPED)
        return f.linear(a, weights[-1], biases[-1])

    def loss(self, weights, biases, X, y):
        f, z = self.torch.nn.functional, self.logits(weights, biases, X)
        if self.option.loss == "log_loss":
            return f.cross_entropy(z, y)
        if self.option.loss == "squared_error":
            return f.mse_loss(z[:, 0], y) / 2
        if self.option.loss == "huber":
            return f.huber_loss(z[:, 0], y)
        d = y - z[:, 0]
        return self.torch.maximum(0.5 * d, -0.5 * d).mean()

    def run(self, epochs):
        decays = "weight_decay" in self.option.parameters
        weights, biases = self.start()
        for p in weights + biases:
            p.requires_grad_()
        decay = DECAY if decays else ALPHA / self.workload.batch_size
        groups = [{"params": weights, "weight_decay": decay}]
        groups.append({"params": biases, "weight_decay": 0.0})
        optimizer = self.torch.optim.AdamW if decays else self.torch.optim.Adam
        adam = optimizer(groups, RATE, (BETA_1, BETA_2), EPSILON, fused=True)
        for _ in range(epochs):
            for rows in self.batches(1, None):
                loss = self.loss(weights, biases, self.X[rows], self.y[rows])
                adam.zero_grad()
                loss.backward()
                if "max_grad_norm" in self.option.parameters:
                    self.torch.nn.utils.clip_grad_norm_(weights + biases, LIMIT)
                adam.step()
            if self.option.scored:
                with self.torch.inference_mode():
                    z = self.logits(weights, biases, self.X)
                    (z.argmax(1) == self.y).float().mean().item()


class JaxWith(Jax):
    """The scan of peers.py with the option."""

    def __init__(self, workload, option, X, y):
        self.option = option
        super().__init__(workload, X, y, 1)
        if option.loss != "log_loss":
            self.y = self.jax.numpy.asarray(y, X.dtype)
        self.score = self.jax.jit(
            lambda p: (self._outputs(p, self.X, None).argmax(1) == self.y).mean()
        )

    def _outputs(self, parameters, X, key):
        coefs, intercepts = parameters
        f, a = getattr(self.jax.nn, self.option.activation), X
        if self.option.activation == "gelu":
            f = lambda z: self.jax.nn.gelu(z, approximate=False)  # noqa: E731
        for W, b in zip(coefs[:-1], intercepts[:-1], strict=True):
            a = f(a @ W + b)
            if key is not None and "dropout" in self.option.parameters:
                key, own = self.jax.random.split(key)
                stay = self.jax.random.bernoulli(own, 1 - DROPPED, a.shape)
                a = self.jax.numpy.where(stay, a / (1 - DROPPED), 0)
        return a @ coefs[-1] + intercepts[-1]

    def _cost(self, parameters, X, y, key):
        jnp, z = self.jax.numpy, self._outputs(parameters, X, key)
        if self.option.loss == "log_loss":
            log_p = self.jax.nn.log_softmax(z)
            loss = -jnp.mean(jnp.take_along_axis(log_p, y[:, None], axis=1))
        else:
            d = y - z[:, 0]
            size = jnp.abs(d)
            loss = {
                "squared_error": d * d / 2,
                "huber": jnp.where(size <= 1, d * d / 2, size - 0.5),
                "quantile": jnp.maximum(0.5 * d, -0.5 * d),
            }[self.option.loss].mean()
        if "weight_decay" in self.option.parameters:
            return loss
        return loss + ALPHA / 2 / len(X) * sum((W**2).sum() for W in parameters[0])

    def _step(self, state, rows):
        jnp, tree_map = self.jax.numpy, self.jax.tree.map
        parameters, m, v, t = state
        key = self.jax.random.fold_in(self.jax.random.key(0), t.astype("int32"))
        g = self.jax.grad(self._cost)(parameters, self.X[rows], self.y[rows], key)
        if "max_grad_norm" in self.option.parameters:
            squares = sum((x**2).sum() for x in self.jax.tree.leaves(g))
            factor = jnp.minimum(1, LIMIT / jnp.sqrt(squares))
            g = tree_map(lambda x: x * factor, g)
        t = t + 1
        eta = RATE * jnp.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
        m = tree_map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, m, g)
        v = tree_map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, v, g)
        kept = 1 - RATE * DECAY if "weight_decay" in self.option.parameters else 1
        coefs = tree_map(lambda p: p * kept, parameters[0])
        parameters = tree_map(
            lambda p, m, v: p - eta * m / (jnp.sqrt(v) + EPSILON),
            (coefs, parameters[1]),
            m,
            v,
        )
        return (parameters, m, v, t), None

    def run(self, epochs):
        if not self.option.scored:
            self.train(epochs)
            return
        for _ in range(epochs):
            self.score(self.train(1)).block_until_ready()


PEERS = {"PyTorch": Torch, "JAX": JaxWith}


def seconds(program, epochs):
    start = time.perf_counter()
    program.run(epochs)
    return time.perf_counter() - start


def data(workload, loss):
    n_classes = workload.layers[-1]
    X, y = clusters(workload.rows, workload.layers[0], n_classes)
    if loss == "log_loss":
        return X, y
    return X, (X[:, 0] + 0.1 * y).astype("float32")


def shares(workload, rounds):
    """The rate of every option by that of its plain network, here."""
    programs = {
        name: Ours(workload, option, *data(workload, option.loss))
        for name, option in OPTIONS.items()
    }
    taken = {name: [] for name in OPTIONS}
    for _ in range(rounds):
        for name, program in programs.items():
            taken[name].append(seconds(program, workload.epochs))
    return {
        name: median(
            plain / own
            for plain, own in zip(taken[option.plain], taken[name], strict=True)
        )
        for name, option in OPTIONS.items()
    }


def beside(workload, option, rounds):
    """How many times each peer's speed cbp has with this option."""
    X, y = data(workload, option.loss)
    if option.loss != "log_loss":  # one output, which is what 2 stands for
        workload = replace(workload, layers=(*workload.layers[:-1], 2))
    ours = Ours(workload, option, X, y)
    found = {}
    for name, peer in PEERS.items():
        try:
            program = peer(workload, option, X, y)
        except ImportError:
            continue
        seconds(program, 1)  # compiling, which is not counted
        found[name] = median(
            seconds(program, workload.epochs) / seconds(ours, workload.epochs)
            for _ in range(rounds)
        )
    return found


def main():
    args = parser(__doc__).parse_args()
    measure.refuse_slowed_peers()
    how = f"one thread, {measure.pin_single()}, float32"
    conditions = measure.conditions(_kernels.isa(), how, names=measure.PEERS)
    report = Report("What options cost", args, conditions)
    report.line(
        "\nShare: the option's rate by that of the plain network. huber and quantile "
        "are set against squared error. Others: cbp is so many times as fast."
    )
    for workload in WORKLOADS:
        own = shares(workload, 5 if args.quick else 11)
        peers = [] if args.quick else list(PEERS)
        aim = times(AIMS[workload])
        report.head([f"{workload.title.strip()}", "share", "aim", *peers, "aim"])
        for name, option in OPTIONS.items():
            found = beside(workload, option, 5) if peers else {}
            cells = [times(found[peer]) if peer in found else "" for peer in peers]
            least = "" if option.aim is None else f"{option.aim:.2f}"
            report.row([name, f"{own[name]:.3f}", least, *cells, aim])
    report.write()


if __name__ == "__main__":
    main()
