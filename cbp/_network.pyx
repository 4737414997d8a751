"""The network: its layers, its loss, and the flat layout of its parameters.

`Network` knows shapes and kinds. It holds no weights and no panels (_weights.pyx), and
it computes nothing (_batch.pyx, _prediction.pyx). This is the one place that walks
through theta. What users pass is validated before; here are the checks without which a
kernel would leave its buffers, for any caller.
"""

import numpy as np

from cbp._kernels cimport (
    CBP_IDENTITY,
    CBP_MAX_PARAMETERS,
    kernels,
    writable_address,
)

from cbp._catalog import LOSS_INTERVALS
from cbp._catalog import LOSSES as CATALOGUE
from cbp._kernels import ACTIVATIONS, LOSSES, OUTPUTS


cdef class Network:
    """Shapes and kinds of one network, and the flat layout of its parameters.

    Parameters
    ----------
    layer_sizes : sequence of int
        Units per layer: inputs, hidden layers, outputs.
    activations : sequence of str
        One of `ACTIVATIONS` per hidden layer.
    output : str
        One of `OUTPUTS`.
    loss : str
        (output, loss) is one of `LOSSES`.
    dtype : numpy dtype
        float32 or float64.
    loss_parameters : sequence of float or of sequences of float, default=()
        Those that the loss has in the catalogue, in that order: a number for all
        outputs, or one for each.
    groups : sequence of int, default=()
        Where a row has several labels, the number of outputs for each, two groups or
        more: a softmax is over one group. Otherwise all outputs are one group.

    Attributes
    ----------
    segments : tuple of (name, offset, shape, decays)
        theta = [W1 ... WL | b1 ... bL], every W row-major (n_in, n_out). decays: does
        the penalty alpha act on it?
    n_params : int
    kind : tuple
        The arguments; networks of the same kind do the same.
    """

    # Not __init__, which Python may leave out, or call once more.
    def __cinit__(self, layer_sizes, activations, output, loss, dtype,
                  loss_parameters=(), groups=()):
        self.layer_sizes = tuple([int(n) for n in layer_sizes])
        self.activations = tuple(activations)
        self.output, self.loss, self.dtype = output, loss, np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype}")
        if len(self.layer_sizes) < 2:
            raise ValueError("a network has inputs and outputs, two layer sizes or "
                             f"more, got {self.layer_sizes}")
        if len(self.activations) != len(self.layer_sizes) - 2:
            raise ValueError("one activation per hidden layer is needed")
        for name in self.activations:
            if name not in ACTIVATIONS:
                raise ValueError(
                    f"activation {name!r}; valid: {sorted(ACTIVATIONS)}"
                )
        if min(self.layer_sizes) < 1:
            raise ValueError(f"layers need at least one unit, got {self.layer_sizes}")
        if (output, loss) not in LOSSES:
            raise ValueError(
                f"output {output!r} with loss {loss!r}; valid: {sorted(LOSSES)}"
            )
        self.loss_parameters = tuple([
            tuple([float(x) for x in p]) if np.ndim(p) else float(p)
            for p in loss_parameters
        ])
        self.groups = tuple([int(n) for n in groups])
        self.kind = (
            self.layer_sizes, self.activations, self.output, self.loss, self.dtype,
            self.loss_parameters, self.groups
        )
        self.output_code = OUTPUTS[output]
        self.k = kernels(self.dtype.itemsize)
        self._describe()
        self._describe_loss()
        self._describe_groups()

    cdef _describe(self):
        """The layers, and the segments of theta: all W, then all b."""
        cdef int l
        cdef ptrdiff_t n_in, n_out, W = 0, b
        cdef Dense *y
        cdef list weights = [], biases = []
        sizes = self.layer_sizes
        # Python's integers: these may be far beyond C's.
        n_weights, n_params = 0, 0
        for n_in_, n_out_ in zip(sizes, sizes[1:]):
            n_weights += n_in_ * n_out_
            n_params += (n_in_ + 1) * n_out_
        if n_params * self.dtype.itemsize > 2**46:
            raise MemoryError(f"{n_params} parameters are beyond any memory")
        self.n_params, self.n_weights = n_params, n_weights
        self.n_layers = len(sizes) - 1
        self.n_outputs = sizes[self.n_layers]
        self.widest = max(sizes)
        self._layers = np.zeros(self.n_layers * sizeof(Dense), "u1")
        self.layers = <Dense *>writable_address(self._layers)
        b = self.n_weights
        for l in range(self.n_layers):
            n_in, n_out = sizes[l], sizes[l + 1]
            y = &self.layers[l]
            y.n_in, y.n_out, y.W, y.b = n_in, n_out, W, b
            y.activation = CBP_IDENTITY
            if l < self.n_layers - 1:
                y.activation = ACTIVATIONS[self.activations[l]]
            weights.append((f"W{l + 1}", W, (n_in, n_out), True))
            biases.append((f"b{l + 1}", b, (n_out,), False))
            W += n_in * n_out
            b += n_out
        self.segments = tuple(weights + biases)

    cdef _describe_loss(self):
        """The loss with a row of each of its parameters."""
        cdef ptrdiff_t i, width
        cdef char *at
        names = CATALOGUE[self.output, self.loss].parameters
        given = self.loss_parameters
        if len(given) != len(names):
            raise ValueError(f"loss {self.loss!r} has the parameters {list(names)}, "
                             f"got {list(given)}")
        for name, p in zip(names, given):
            if isinstance(p, tuple) and len(p) != self.n_outputs:
                raise ValueError(f"{name} needs {self.n_outputs} numbers, got {p}")
        width = (self.n_outputs + self.k.panel - 1) // self.k.panel * self.k.panel
        self._parameters = np.zeros((CBP_MAX_PARAMETERS, width), self.dtype)
        with np.errstate(over="ignore"):
            for i in range(len(given)):
                self._parameters[i, : self.n_outputs] = given[i]
        for i in range(len(given)):
            demand_valid(names[i], given[i], self._parameters[i, : self.n_outputs])
        at = <char *>writable_address(self._parameters)
        self.c_loss.kind = LOSSES[self.output, self.loss]
        for i in range(CBP_MAX_PARAMETERS):
            self.c_loss.parameters[i] = at + i * width * self.k.itemsize

    cdef _describe_groups(self):
        """Where the groups of outputs begin, as kernels read it."""
        self.n_labels = 1
        if not self.groups:
            return
        labelled = self.output in ("softmax", "logistic")
        if (not labelled or len(self.groups) < 2 or min(self.groups) < 1
                or sum(self.groups) != self.n_outputs):
            raise ValueError(
                f"{self.n_outputs} outputs, {self.output}, cannot be in groups of "
                f"{self.groups}"
            )
        self._starts = np.cumsum([0, *self.groups], dtype=np.intp)
        self.n_labels = self.c_groups.n = len(self.groups)
        self.c_groups.start = <const ptrdiff_t *>writable_address(self._starts)
        self.c_loss.groups = &self.c_groups

    def views(self, theta):
        """W and b of every layer as views of a vector in theta's layout.

        Parameters
        ----------
        theta : ndarray of shape (n_params,)

        Returns
        -------
        W : list of ndarray of shape (n_in, n_out)
        b : list of ndarray of shape (n_out,)
        """
        cdef list parts = []
        cdef ptrdiff_t n
        for _, offset, shape, _ in self.segments:
            n = 1
            for m in shape:
                n *= m
            parts.append(theta[offset : offset + n].reshape(shape))
        return parts[: self.n_layers], parts[self.n_layers :]


def demand_valid(name, given, p):
    """Refuse a parameter of a loss that its type cannot hold, or not beside others.

    Parameters
    ----------
    name : str
    given : float or tuple of float
    p : ndarray of shape (n_outputs,)
        As rounded: perhaps to a limit, or two numbers to the same.
    """
    several = isinstance(given, tuple)
    inside = [x in LOSS_INTERVALS[name] for x in np.unique(p).tolist()]
    zeros_stay = (p == 0).any() == (0 in np.ravel(given))
    differ = not several or ((np.diff(p) == 0) == (np.diff(given) == 0)).all()
    if not (np.isfinite(p).all() and all(inside) and zeros_stay and differ):
        raise ValueError(f"{name}={given} is not valid in {p.dtype}, which rounds it "
                         f"to {p.tolist() if several else p[0]}. Give another {name}, "
                         "or compute in float64.")
