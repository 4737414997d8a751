"""cbp and its peers; each trains the same network in its own best form.

Every program starts from the same weights and runs Adam with the same rate, penalty and
batch size. cbp and scikit-learn draw the same shuffles. The others draw their own
shuffles in their fastest way. If `train` gets scikit-learn's shuffles, all must end
with the same loss. PyTorch's eager Adam corrects biases before epsilon; all others do
it after, like scikit-learn. This file times nothing.
"""

import importlib.util
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.utils import shuffle

from cbp import BPClassifier

RATE, BETA_1, BETA_2, EPSILON, ALPHA, SEED = 1e-3, 0.9, 0.999, 1e-8, 1e-4, 0


def initial_weights(workload, dtype, rng=None):
    """[W1, ..., WL], [b1, ..., bL] as scikit-learn draws them (Glorot and Bengio)."""
    rng = rng or np.random.RandomState(SEED)
    sizes = (*workload.layers[:-1], workload.n_outputs)
    coefs, intercepts = [], []
    for n_in, n_out in zip(sizes, sizes[1:], strict=False):
        factor = 2 if workload.activation == "logistic" else 6
        bound = (factor / (n_in + n_out)) ** 0.5
        coefs.append(rng.uniform(-bound, bound, (n_in, n_out)).astype(dtype))
        intercepts.append(rng.uniform(-bound, bound, n_out).astype(dtype))
    return coefs, intercepts


def sklearn_orders(workload, epochs):
    """The order of the rows in each epoch, as scikit-learn draws it."""
    rng = np.random.RandomState(SEED)
    initial_weights(workload, "float64", rng)
    orders = [np.arange(workload.rows)]
    for _ in range(epochs):
        orders.append(shuffle(orders[-1], random_state=rng))
    return orders[1:]


def log_loss(workload, coefs, intercepts, X, y):
    """Mean log loss over the training rows, in float64 for all programs."""
    a = X.astype("float64")
    for W, b in zip(coefs[:-1], intercepts[:-1], strict=True):
        z = a @ W.astype("float64") + b
        a = np.maximum(z, 0) if workload.activation == "relu" else 1 / (1 + np.exp(-z))
    z = a @ coefs[-1].astype("float64") + intercepts[-1]
    if workload.n_outputs == 1:
        return float(np.logaddexp(0, np.where(y == 1, -z[:, 0], z[:, 0])).mean())
    z -= z.max(axis=1, keepdims=True)
    return float((np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]).mean())


class Cbp:
    """The whole of `BPClassifier.fit`."""

    module = "cbp"
    estimator = BPClassifier

    def __init__(self, workload, X, y, n_threads):
        self.X, self.y = X, y
        self.parameters = dict(
            hidden_layer_sizes=workload.hidden,
            activation=workload.activation,
            batch_size=workload.batch_size,
            learning_rate_init=RATE,
            alpha=ALPHA,
            random_state=SEED,
            tol=0,
            n_iter_no_change=np.inf,
        )
        if self.estimator is BPClassifier:
            self.parameters["n_jobs"] = n_threads

    def train(self, epochs, orders=None):
        """Train from the initial weights.

        Parameters
        ----------
        epochs : int
        orders : sequence of arrays of shape (rows,), default=None
            The order of the rows in each epoch. None draws the orders, as in a timed
            run. It has no effect here: a `fit` draws its own orders, which equal
            `sklearn_orders`.

        Returns
        -------
        coefs, intercepts : lists of arrays
        """
        model = self._fit(epochs)
        return model.coefs_, model.intercepts_

    def _fit(self, epochs):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = self.estimator(max_iter=epochs, **self.parameters)
            return model.fit(self.X, self.y)

    def predictor(self, weights):
        """The way in which a user asks for probabilities.

        Parameters
        ----------
        weights : (coefs, intercepts)

        Returns
        -------
        predict : callable
            Maps `given(X)` to probabilities of shape (rows, classes), several classes.
        given : callable
            Converts X to the form that users of this program have.
        """
        model = self._fit(1)
        for own, new in zip((model.coefs_, model.intercepts_), weights, strict=True):
            for array, values in zip(own, new, strict=True):
                array[...] = values
        return model.predict_proba, np.asarray


class CbpAlone(Cbp):
    """cbp on one thread while others have more: this shows the gain of a second one."""

    def __init__(self, workload, X, y, n_threads):
        super().__init__(workload, X, y, n_threads=1)


class Sklearn(Cbp):
    """The whole of `MLPClassifier.fit`. Its threads are the threads of its BLAS."""

    module = "sklearn"
    estimator = MLPClassifier


class TorchEager:
    """The usual loop, with the fused Adam."""

    module = "torch"

    def __init__(self, workload, X, y, n_threads):
        import torch

        torch.set_num_threads(n_threads)
        torch.manual_seed(SEED)
        self.torch, self.workload, self.n_rows = torch, workload, len(X)
        self.X = torch.from_numpy(X)
        self.y = torch.from_numpy(y)
        if workload.n_outputs == 1:
            self.y = self.y.to(self.X.dtype)

    def logits(self, weights, biases, X):
        """(rows, n_outputs). Weights have PyTorch's order, (out, in)."""
        f = self.torch.nn.functional
        a = X
        for W, b in zip(weights[:-1], biases[:-1], strict=True):
            z = f.linear(a, W, b)
            a = z.relu() if self.workload.activation == "relu" else z.sigmoid()
        return f.linear(a, weights[-1], biases[-1])

    def loss(self, weights, biases, X, y):
        """Mean log loss of a batch."""
        f, z = self.torch.nn.functional, self.logits(weights, biases, X)
        if self.workload.n_outputs == 1:
            return f.binary_cross_entropy_with_logits(z[:, 0], y)
        return f.cross_entropy(z, y)

    def start(self):
        """Fresh (weights, biases) as tensors."""
        return self.tensors(*initial_weights(self.workload, self.X.numpy().dtype))

    def tensors(self, coefs, intercepts):
        """(weights, biases)"""
        weights = [self.torch.from_numpy(W.T.copy()) for W in coefs]
        return weights, [self.torch.from_numpy(b.copy()) for b in intercepts]

    @staticmethod
    def finish(weights, biases):
        """(coefs, intercepts) as arrays."""
        return (
            [W.detach().numpy().T for W in weights],
            [b.detach().numpy() for b in biases],
        )

    def batches(self, epochs, orders):
        """The row numbers of each batch of all epochs."""
        for i in range(epochs):
            order = (
                self.torch.from_numpy(orders[i])
                if orders
                else self.torch.randperm(self.n_rows)
            )
            yield from order.split(self.workload.batch_size)

    def train(self, epochs, orders=None):
        weights, biases = self.start()
        for p in weights + biases:
            p.requires_grad_()
        penalised = {
            "params": weights,
            "weight_decay": ALPHA / self.workload.batch_size,
        }
        adam = self.torch.optim.Adam(
            [penalised, {"params": biases}],
            RATE,
            betas=(BETA_1, BETA_2),
            eps=EPSILON,
            fused=True,
        )
        for rows in self.batches(epochs, orders):
            loss = self.loss(weights, biases, self.X[rows], self.y[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
        return self.finish(weights, biases)

    def probabilities(self, weights, biases, X):
        return self.logits(weights, biases, X).softmax(1)

    def predictor(self, weights):
        """Like Cbp.predictor, with tensors."""
        tensors = self.tensors(*weights)

        def predict(X):
            with self.torch.inference_mode():
                return self.probabilities(*tensors, X)

        return predict, self.torch.from_numpy


class TorchCompiled(TorchEager):
    """One whole step (gather, gradient, Adam) in one torch.compile."""

    def __init__(self, workload, X, y, n_threads):
        super().__init__(workload, X, y, n_threads)
        self.torch._dynamo.reset()
        self.step, self.probabilities = (
            self.torch.compile(function, fullgraph=True, dynamic=False)
            for function in (self._step, self.probabilities)
        )

    def _step(self, weights, biases, m, v, rows, eta):
        penalty = ALPHA / len(rows)
        d_weights, d_biases = self.torch.func.grad(self.loss, argnums=(0, 1))(
            weights, biases, self.X[rows], self.y[rows]
        )
        gradients = [g + penalty * W for g, W in zip(d_weights, weights, strict=True)]
        gradients += d_biases
        for p, g, m_p, v_p in zip(weights + biases, gradients, m, v, strict=True):
            m_p.mul_(BETA_1).add_(g, alpha=1 - BETA_1)
            v_p.mul_(BETA_2).addcmul_(g, g, value=1 - BETA_2)
            p.sub_(eta * m_p / (v_p.sqrt() + EPSILON))

    def train(self, epochs, orders=None):
        torch = self.torch
        weights, biases = self.start()
        m = [torch.zeros_like(p) for p in weights + biases]
        v = [torch.zeros_like(p) for p in weights + biases]
        with torch.no_grad():
            for t, rows in enumerate(self.batches(epochs, orders), 1):
                eta = RATE * (1 - BETA_2**t) ** 0.5 / (1 - BETA_1**t)
                eta = torch.tensor(eta, dtype=self.X.dtype)
                self.step(weights, biases, m, v, rows, eta)
        return self.finish(weights, biases)


class Jax:
    """One jitted scan over the batches of an epoch."""

    module = "jax"

    def __init__(self, workload, X, y, n_threads):
        import jax

        if X.dtype == np.float64:
            jax.config.update("jax_enable_x64", True)
        self.jax, self.workload, self.n_rows = jax, workload, len(X)
        self.X, self.y = jax.numpy.asarray(X), jax.numpy.asarray(y, "int32")
        self.epoch = jax.jit(self._epoch, donate_argnums=0)

    def _logits(self, parameters, X):
        nn = self.jax.nn
        coefs, intercepts = parameters
        f = nn.relu if self.workload.activation == "relu" else nn.sigmoid
        a = X
        for W, b in zip(coefs[:-1], intercepts[:-1], strict=True):
            a = f(a @ W + b)
        return a @ coefs[-1] + intercepts[-1]

    def _loss(self, parameters, X, y):
        nn, jnp = self.jax.nn, self.jax.numpy
        coefs, z = parameters[0], self._logits(parameters, X)
        if self.workload.n_outputs == 1:
            z = z[:, 0]
            loss = jnp.mean(nn.softplus(jnp.where(y == 1, -z, z)))
        else:
            log_p = nn.log_softmax(z)
            loss = -jnp.mean(jnp.take_along_axis(log_p, y[:, None], axis=1))
        return loss + ALPHA / 2 / len(X) * sum((W**2).sum() for W in coefs)

    def _step(self, state, rows):
        jnp, tree_map = self.jax.numpy, self.jax.tree.map
        parameters, m, v, t = state
        g = self.jax.grad(self._loss)(parameters, self.X[rows], self.y[rows])
        t = t + 1
        eta = RATE * jnp.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
        m = tree_map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, m, g)
        v = tree_map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, v, g)
        parameters = tree_map(
            lambda p, m, v: p - eta * m / (jnp.sqrt(v) + EPSILON), parameters, m, v
        )
        return (parameters, m, v, t), None

    def _epoch(self, state, order):
        size = self.workload.batch_size
        whole = self.n_rows // size * size
        if whole:
            batches = order[:whole].reshape(-1, size)
            state, _ = self.jax.lax.scan(self._step, state, batches)
        if whole < self.n_rows:
            state, _ = self._step(state, order[whole:])
        return state

    def train(self, epochs, orders=None):
        jnp, tree_map = self.jax.numpy, self.jax.tree.map
        rng = np.random.default_rng(SEED)
        parameters = tree_map(jnp.asarray, initial_weights(self.workload, self.X.dtype))
        zeros = [tree_map(jnp.zeros_like, parameters) for _ in "mv"]
        state = (parameters, *zeros, jnp.zeros((), self.X.dtype))
        for i in range(epochs):
            order = orders[i] if orders else rng.permutation(self.n_rows)
            state = self.epoch(state, order.astype("int32"))
        coefs, intercepts = self.jax.device_get(state[0])
        return coefs, intercepts

    def predictor(self, weights):
        """Like Cbp.predictor, with JAX's arrays; waits for the result."""
        jnp = self.jax.numpy
        parameters = self.jax.tree.map(jnp.asarray, weights)
        softmax = self.jax.jit(lambda p, X: self.jax.nn.softmax(self._logits(p, X)))
        return lambda X: softmax(parameters, X).block_until_ready(), jnp.asarray


PROGRAMS = {
    "cbp": Cbp,
    "cbp, one thread": CbpAlone,
    "scikit-learn": Sklearn,
    "PyTorch eager": TorchEager,
    "PyTorch compiled": TorchCompiled,
    "JAX": Jax,
}
# Marker and colour per program (Okabe and Ito's palette): readable in grey, too.
MARKS = {
    "cbp": ("o", "#000000"),
    "cbp, one thread": ("o", "#ffffff"),
    "scikit-learn": ("s", "#e69f00"),
    "PyTorch eager": ("v", "#56b4e9"),
    "PyTorch compiled": ("^", "#0072b2"),
    "JAX": ("D", "#009e73"),
}


def installed(name):
    """Whether this program's module is installed."""
    return importlib.util.find_spec(PROGRAMS[name].module) is not None


def prepare(names, action, left_out):
    """{name: action(program)} without the peers that cannot run here.

    The dict `left_out` gets the reasons, by name. Errors of cbp are raised.
    """
    prepared = {}
    for name in names:
        try:
            prepared[name] = action(PROGRAMS[name])
        except Exception as error:
            if name.startswith("cbp"):
                raise
            reason = str(error).strip().split("\n")[0]
            left_out[name] = f"{name} left out: {type(error).__name__}: {reason}"
    return prepared
