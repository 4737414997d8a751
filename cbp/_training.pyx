"""Training by backpropagation: batches, epochs, schedules, threads, without the GIL.

`Trainer` owns one fit and its buffers. A batch is two phases: every thread takes its
rows forward and backward through all layers; then, all deltas known, every thread sums
the gradients of its blocks of weights and steps them. With a single hidden layer
threads may share its units instead, in both phases. What users pass is validated in
estimators.py; here are the checks without which a kernel would leave its buffers, for
any caller. Nothing here knows a dtype (src_c/kernels.h); the equations in comments are
those of docs/backpropagation.md.
"""

import _thread
import operator

import numpy as np

cimport cython

from libc.math cimport INFINITY, NAN, isfinite, isnan, sqrt
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.pythread cimport (
    PY_LOCK_ACQUIRED,
    PyThread_acquire_lock,
    PyThread_allocate_lock,
    PyThread_free_lock,
    PyThread_release_lock,
    PyThread_type_lock,
    NOWAIT_LOCK,
    WAIT_LOCK,
)

from cbp._kernels cimport (
    CBP_ADAM,
    CBP_BLOCK_ROWS,
    CBP_CHUNK_ROWS,
    CBP_GROUP_PANELS,
    CBP_IDENTITY,
    CBP_MAX_STATES,
    CBP_SGD,
    CBP_SOFTMAX_LOG_LOSS,
    address,
    cbp_columns,
    cbp_kernels,
    cbp_layer,
    cbp_n_states,
    cbp_pair,
    cbp_panels,
    cbp_rows,
    cbp_step,
    floats,
    power,
    power_pair,
    powers,
    product,
    writable_address,
    writable_floats,
)

from cbp._network cimport (
    PIECE_PARTS,
    PIECE_ROWS,
    CsrData,
    Network,
    aligned_zeros,
    round_up,
)
from cbp._recorder cimport UPDATE_SQUARES, Recorder

from cbp._catalog import is_regressors
from cbp._kernels import OPTIMIZERS, isa


cdef extern from "barrier.h" nogil:
    ctypedef struct cbp_barrier:
        pass
    void cbp_barrier_wait(cbp_barrier *barrier, int n_threads)
    ctypedef struct cbp_progress:
        pass
    void cbp_report(cbp_progress *progress, ptrdiff_t rows)
    void cbp_await(cbp_progress *progress, ptrdiff_t rows)
    ctypedef struct cbp_claimed:
        pass
    bint cbp_claim(cbp_claimed *claimed)
    void cbp_unclaim(cbp_claimed *claimed)
    long cbp_process()
    void cbp_yield()


# Of the stable ABI, but not in Cython's declarations.
cdef extern from "pythread.h" nogil:
    int PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds,
                                    int interruptible)


cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    enum:
        TIME_UTC
    int timespec_get(timespec *ts, int base)


# NumPy's public interface to a bit generator (numpy/random/bitgen.h).
ctypedef struct bitgen_t:
    void *state
    uint64_t (*next_uint64)(void *) noexcept nogil
    uint32_t (*next_uint32)(void *) noexcept nogil
    double (*next_double)(void *) noexcept nogil
    uint64_t (*next_raw)(void *) noexcept nogil


SCHEDULES = {"constant": 0, "invscaling": 1, "adaptive": 2}

cdef enum:
    CONSTANT = 0
    INVSCALING = 1
    ADAPTIVE = 2

# Why the compiled epochs came back to Python.
cdef enum:
    RUNNING
    EPOCH_DONE
    MAX_ITER
    CONVERGED
    DIVERGED
    STOPPED
    INTERRUPTED

STATUS_NAMES = {
    MAX_ITER: "max_iter",
    CONVERGED: "converged",
    DIVERGED: "diverged",
    STOPPED: "stopped",
}

cdef ptrdiff_t CHUNK = CBP_CHUNK_ROWS

cdef enum:
    # Rows that one thread takes through all layers before the next ones: their
    # activations stay in the L2 cache.
    MAX_ITEM_ROWS = 256
    # Rows that go from thread to thread at a time where these share units: 64-100-10 at
    # batch 200 in float32 1.25 times one thread's speed, 24 rows 1.17, 208 rows 1.13.
    UNIT_ROWS = 64
    # From one watched iteration of L-BFGS to the next: all of its evaluations are
    # watched, since none is known to be the last, at a cost of 12 % each.
    ITERATIONS_APART = 8
    # Powers of the betas that are kept.
    POWERS = 64
    # Batches of one row that are handed to C at a time, at most.
    MAX_ROWS = 256
    # The most that all threads' copies of a batch's inputs may take.
    OWN_INPUTS_BYTES = 1 << 23
    # How often a worker yields its core before it sleeps: some 50 microseconds, within
    # which the first call comes. One that was woken at once shared its caller's core
    # for the whole of a short run wherever other programs were at work.
    YIELDS = 100
    # Between two looks whether a thread died before it sat: 10 milliseconds.
    MICROSECONDS_PER_LOOK = 10000
    # Epoch losses and scores kept before they are moved to the Python lists.
    CURVE_ROOM = 256

# Seconds between two looks for signals; Ctrl-C is felt within twice this.
cdef double POLL_SECONDS = 0.04
# Products of a batch (multiply-adds counted twice), in bytes, that occupy one more
# thread which shares rows, or units: with less, to read what the other has written
# costs what the thread saves. Rows: 64-100-10, batch 200, 36e6 in float32: 0.94 times
# one thread's speed; twice that in float64: 1.07 to 1.19. Units: 20-100-2, batch 200,
# 11e6: 1.01 times; 64-64-10, 23e6: 1.14.
cdef double ROWS_PER_THREAD = 2e7
cdef double UNITS_PER_THREAD = 1e7
# Inputs with which a panel of units that one thread has more than another costs as much
# as the weights that are not exchanged: 256-100-10 at batch 200 gains 2 % by units,
# 784-100-10 loses 5.
cdef double UNEVEN_INPUTS = 50
# Work between two looks at the clock, and the most that one look can be late.
cdef double FLOPS_PER_LOOK = 1e6
cdef double FLOPS_PER_ITEM = 1e9
cdef double FLOPS_PER_ITEM_SCALAR = 1e7


cdef double now() noexcept nogil:
    cdef timespec t
    timespec_get(&t, TIME_UTC)
    return t.tv_sec + 1e-9 * t.tv_nsec


cdef double sum_in_order(const double *x, ptrdiff_t n) noexcept nogil:
    """Sum of one chunk as cbp.h orders it: chains of 128 rows in a binary tree."""
    cdef double parts[16]  # CBP_CHUNK_ROWS / CBP_BLOCK_ROWS
    cdef ptrdiff_t full = n // CBP_BLOCK_ROWS, n_parts = full, i, j, step = 1
    memset(parts, 0, 16 * sizeof(double))
    # Chains side by side: one alone waits four cycles for each sum.
    for i in range(CBP_BLOCK_ROWS if full else 0):
        for j in range(full):
            parts[j] += x[j * CBP_BLOCK_ROWS + i]
    if n > full * CBP_BLOCK_ROWS:
        n_parts += 1
        for i in range(full * CBP_BLOCK_ROWS, n):
            parts[full] += x[i]
    while step < n_parts:
        for j from 0 <= j < n_parts - step by 2 * step:
            parts[j] += parts[j + step]
        step *= 2
    return parts[0]


cdef void shuffle(int64_t *x, ptrdiff_t n, bitgen_t *bits) noexcept nogil:
    """Fisher and Yates as numpy's RandomState.shuffle draws: the same permutation."""
    cdef uint64_t i = n - 1, mask = i, j
    cdef bint taken
    cdef int64_t kept
    mask |= mask >> 1
    mask |= mask >> 2
    mask |= mask >> 4
    mask |= mask >> 8
    mask |= mask >> 16
    mask |= mask >> 32
    while i > 0:
        if mask >> 1 >= i:
            mask >>= 1
        if i <= 0xFFFFFFFFULL:
            j = bits.next_uint32(bits.state) & mask
        else:
            j = bits.next_uint64(bits.state) & mask
        # A draw beyond i is void. Without a branch, which no CPU could predict, it
        # exchanges x[i] with itself.
        taken = j <= i
        j = j if taken else i
        kept = x[j]
        x[j] = x[i]
        x[i] = kept
        i -= taken


class Optimizer:
    """What a stochastic solver carries from one call to the next.

    Attributes
    ----------
    solver : {"sgd", "adam"}
    learning_rate : float
        Current learning rate; with adam, bias corrections included.
    steps : int
        Steps made.
    state : ndarray of shape (n_states, n_items)
        Its vectors (sgd: velocity; adam: m and v) in the layout of the engine, the same
        on every CPU.
    """

    def __init__(self, solver, learning_rate, steps, state):
        self.solver = solver
        self.learning_rate = learning_rate
        self.steps = steps
        self.state = state


# ---- training -----------------------------------------------------------------------

cdef class Team


cdef class Trainer:
    """One fit: buffers, batches, schedule and threads; theta is trained in place.

    Parameters are validated by the estimators; see them for the meaning of those that
    scikit-learn has too.

    Parameters
    ----------
    network : Network
    theta : writable ndarray of shape (n_params,)
        Written back when `run` ends, however it ends, and before each `on_epoch`.
    X : C-contiguous ndarray or CSR matrix of shape (n_samples, n_inputs)
        CSR rows with ascending indices. What X is made of must not be changed as long
        as the trainer is in use; the same is true of sample_weight.
    target : ndarray
        int32 class numbers of shape (n_samples,), which are copied, or (n_samples,
        n_outputs) of dtype.
    sample_weight : ndarray of shape (n_samples,), default=None
    rows : int64 ndarray, default=None
        The rows to train on; None means all.
    held_out : int64 ndarray, default=None
        Rows that early stopping scores after every epoch, by scikit-learn's accuracy
        where targets are classes or labels, else by its R2. The score then rules
        patience in place of the loss, and the best weights are kept.
    n_threads : int, default=1
        Fewer are used when a batch has no work for them. Never changes a bit.
    random_state : numpy.random.RandomState
        Shuffles come from its bit generator, as scikit-learn draws them.
    exclusive : bool, default=True
        Whether nobody else draws from it meanwhile. Otherwise its lock is taken for
        each shuffle, not for all of the run, which others would wait for.
    optimizer : Optimizer, default=None
        State to go on with, which is copied; None begins anew.
    t, best_loss, no_improvement_count
        Where an earlier run of the same model stood.
    monitor : bool, default=False
        Record gradient flow; never changes a bit.

    Raises
    ------
    ValueError
        Something does not fit the network, or is no number that training could use.

    Attributes
    ----------
    n_threads : int
        Threads that are of use, and were to be had.
    by_units : bool
        Whether they share the units of the only hidden layer instead of rows.
    validation_scores : list of float
        One per epoch; NaN where an output was not finite.
    best_theta : ndarray or None
        The weights of `best_score`; those to start from as long as there is no score.
    """

    cdef readonly Network network
    cdef readonly Recorder recorder
    cdef readonly object theta, optimizer
    cdef readonly object best_theta
    cdef readonly list loss_curve, validation_scores
    cdef readonly int n_iter
    cdef readonly int64_t t
    cdef readonly double best_loss, best_score, learning_rate
    cdef readonly int64_t no_improvement_count
    cdef readonly object diverged_epoch

    cdef cbp_claimed claim         # inside one of its methods, which are not reentrant

    # The network, with this fit's buffers.
    cdef const cbp_kernels *k
    cdef object _layers
    cdef cbp_layer *layers
    cdef int n_layers
    cdef ptrdiff_t P, size
    cdef object _master, _mirror, _workspace, _state
    cdef char *theta_data
    cdef char *master
    cdef char *mirror
    cdef object _gradient, _parts
    cdef char *gradient            # NULL while the step follows each sum at once
    cdef char *parts               # sums of pieces that have not joined it yet
    cdef void *states[CBP_MAX_STATES]
    cdef int n_states
    cdef ptrdiff_t total_blocks, total_work
    cdef double[::1] block_squares  # sum of W^2 per block

    # The data.
    cdef object _data, _target, _weight, _order
    cdef const char *X
    cdef CsrData sparse
    cdef cbp_columns columns
    cdef const char *Y
    cdef const int32_t *labels
    cdef const char *weight
    cdef int64_t *order
    cdef ptrdiff_t n_rows, n_features

    # Early stopping.
    cdef object _held_out
    cdef const int64_t *held_out
    cdef ptrdiff_t n_held_out
    cdef char *best                # the data of best_theta
    cdef bint by_r2, one_class, improved
    # Per output the squares of errors and of targets less their mean; for accuracy, in
    # the first item, the weights of the rows that are right and of all.
    cdef double[::1] score_sums, score_base

    # One batch: chunks of CBP_CHUNK_ROWS rows, in pieces that are propagated and summed
    # one at a time.
    cdef ptrdiff_t chunk_rows, piece_rows, item_rows
    cdef int piece, height         # its number in its chunk; parts before it
    cdef bint first_chunk, last_piece
    cdef ptrdiff_t piece_start     # its first row, counted in the chunk
    cdef bint one_row
    cdef double rates[MAX_ROWS]
    # (piece, n_features) the inputs; one_row: 2 rows. Where every thread needs all of
    # them for its share of dW, each has its own copy, one behind the other: to gather
    # rows again is cheaper than to read them from another core's cache.
    cdef cbp_panels A0
    cdef ptrdiff_t A0_bytes        # from one thread's to the next; 0 if they share it
    cdef cbp_panels T              # (batch, n_out) the targets
    cdef int32_t *batch_labels
    cdef char *batch_weight
    cdef double *row_loss
    cdef char *scratch
    cdef ptrdiff_t scratch_items
    cdef cbp_step step, step_b
    cdef ptrdiff_t position, batch_rows, batch_start
    cdef double batch_weights      # sum of the batch's sample weights
    cdef double batch_loss         # weighted sum over its rows
    cdef double epoch_loss, epoch_weights
    cdef int64_t epoch_rows

    # Schedule.
    cdef int solver, schedule, max_iter
    cdef ptrdiff_t batch_size
    cdef bint shuffle_rows, exclusive, callback
    cdef double alpha, eta_init, power_t, beta_1, beta_2, tol, n_iter_no_change
    cdef int64_t steps, first_step
    cdef double powers_1[POWERS]   # beta_1^i and beta_2^i
    cdef double powers_2[POWERS]
    cdef cbp_pair power_1, power_2  # beta^t for the last t that POWERS divides
    cdef cbp_pair factor_1, factor_2  # from there to the next: beta^POWERS
    cdef object random_state
    cdef bitgen_t *bits
    cdef double curve[CURVE_ROOM]
    cdef double scores[CURVE_ROOM]
    cdef int curve_used, scores_used

    # Threads and interrupts.
    cdef readonly int n_threads
    cdef cbp_barrier barrier
    cdef readonly bint by_units    # threads share hidden units instead of rows
    cdef cbp_progress *progress    # per thread, the rows of which others may go on
    cdef int status
    cdef bint halt, abandoned, fused
    cdef bint ended                # halt as it was when the threads last met
    cdef bint watching, watching_rows  # is the batch measured; this chunk of it?
    cdef int64_t iteration         # of L-BFGS, the one under way
    # Thread 0 writes these time and again: on a line that no other thread reads
    # (64-100-10, batch 200, float32, two threads: 2 % faster).
    cdef char space_before[64]
    cdef double last_poll, unseen_flops
    cdef char space_after[64]
    cdef double n_weights
    cdef Team team
    cdef object _exception

    # Not __init__, which Python may leave out, or call once more.
    def __cinit__(
        self, Network network not None, theta, X, target, *, sample_weight=None,
        rows=None, held_out=None, n_threads=1, solver="adam", alpha=0.0, batch_size=200,
        shuffle=True, random_state=None, learning_rate="constant",
        learning_rate_init=1e-3, power_t=0.5, momentum=0.9, nesterovs_momentum=True,
        beta_1=0.9, beta_2=0.999, epsilon=1e-8, tol=1e-4, n_iter_no_change=10,
        optimizer=None, t=0, best_loss=np.inf, no_improvement_count=0, monitor=False,
        exclusive=True,
    ):
        cdef ptrdiff_t n_params = network.n_params
        self.network, self.theta = network, theta
        self.k, self.n_layers = network.k, network.n_layers
        self.P, self.size = self.k.panel, self.k.itemsize
        self._layers = np.array(network._layers)
        self.layers = <cbp_layer *>writable_address(self._layers)
        if not isinstance(theta, np.ndarray):
            raise ValueError(f"theta must be an ndarray, got {type(theta).__name__}")
        self.theta_data = <char *>writable_floats(theta, "theta", self.size, 1,
                                                  &n_params)
        self.loss_curve, self.validation_scores = [], []
        self.diverged_epoch = None
        self.best_score = -np.inf
        self.t = count(t, "t", 0)
        self.best_loss = best_loss
        self.no_improvement_count = count(
            no_improvement_count, "no_improvement_count", 0
        )
        self._take_data(X, target, sample_weight, rows)
        if held_out is not None:
            self._take_held_out(held_out)

        self.alpha, self.tol = number(alpha, "alpha"), number(tol, "tol")
        self.n_iter_no_change = number(n_iter_no_change, "n_iter_no_change")
        self.shuffle_rows = shuffle and solver != "lbfgs"
        if self.shuffle_rows and not isinstance(random_state, np.random.RandomState):
            raise ValueError(
                f"shuffling needs a RandomState, got {type(random_state).__name__}"
            )
        self.random_state, self.exclusive = random_state, exclusive
        self.batch_size = min(count(batch_size, "batch_size", 1), self.n_rows)
        if solver == "lbfgs":
            self.batch_size = self.n_rows
        self._take_solver(
            solver, learning_rate, learning_rate_init, power_t, momentum,
            nesterovs_momentum, beta_1, beta_2, epsilon, optimizer,
        )
        self._choose_work(count(n_threads, "n_threads", 1), solver)
        self._allocate()
        if monitor:
            batches = -(-self.n_rows // self.batch_size)
            self.recorder = Recorder(network, self.chunk_rows, batches, self.one_row)
            self.recorder.layers = self.layers
            self.recorder._layers = self._layers
            if solver == "lbfgs":
                self.recorder.every = ITERATIONS_APART
        self._load()

    # ---- set-up

    cdef _take_data(self, X, target, sample_weight, rows):
        cdef Network network = self.network
        cdef ptrdiff_t shape[2]
        self.n_features = shape[1] = self.layers[0].n_in
        shape[0] = -1
        if isinstance(X, np.ndarray):
            self.X = <const char *>floats(X, "X", self.size, 2, shape)
            self._data, self.sparse = X, None
        else:
            self.sparse = CsrData(network, X)
            shape[0] = self.sparse.n_rows
        self._take_target(np.asarray(target), shape[0])
        if sample_weight is not None:
            self.weight = <const char *>floats(sample_weight, "sample_weight",
                                               self.size, 1, shape)
            self._weight = sample_weight
            if not self._weights_are_sound(shape[0]):
                raise ValueError("sample_weight must be finite and not negative")
        if rows is None:
            rows = np.arange(shape[0], dtype=np.int64)
        rows = checked_rows(rows, shape[0])
        self._order, self.n_rows = rows, len(rows)
        self.order = <int64_t *>writable_address(rows)

    cdef _take_target(self, target, ptrdiff_t n_samples):
        cdef ptrdiff_t shape[2]
        cdef ptrdiff_t n_out = self.network.n_outputs
        cdef bint softmax = self.network.loss_code == CBP_SOFTMAX_LOG_LOSS
        shape[0], shape[1] = n_samples, n_out
        if target.dtype == np.int32 and target.ndim == 1:
            # Labels are places in a row of outputs: nobody may change them any more.
            target = np.array(target)
            highest = n_out - 1 if softmax else max(n_out - 1, 1)
            if len(target) and not 0 <= target.min() <= target.max() <= highest:
                raise ValueError(f"labels must lie in 0 .. {highest}")
            self.labels, self.Y = <const int32_t *>address(target), NULL
        elif target.ndim != 2 or softmax:
            raise ValueError(f"target of shape {target.shape} and {target.dtype}")
        else:
            self.Y = <const char *>floats(target, "target", self.size, 2, shape)
            self.labels = NULL
        self._target = target
        if target.shape[0] != n_samples:
            raise ValueError("target and X differ in length")

    cdef bint _weights_are_sound(self, ptrdiff_t n) noexcept nogil:
        cdef ptrdiff_t i
        for i in range(n):
            if not 0 <= self.k.item(self.weight, i) < INFINITY:
                return False
        return True

    cdef _take_held_out(self, rows):
        rows = checked_rows(rows, self._target.shape[0])
        self._held_out, self.n_held_out = rows, len(rows)
        self.held_out = <const int64_t *>address(rows)
        self.best_theta = np.array(self.theta)
        self.best = <char *>writable_address(self.best_theta)
        # A single class is predicted whatever the network says.
        self.one_class = self.labels != NULL and not self._target.any()
        self.by_r2 = is_regressors(self.network.output, self.network.loss)
        if self.by_r2 and self.Y == NULL:
            raise ValueError("a score of held_out by R2 needs a matrix of targets")
        self.score_sums = np.zeros(self.network.n_outputs)
        self.score_base = np.zeros(self.network.n_outputs)
        self._measure_base()

    cdef void _measure_base(self) noexcept nogil:
        """The held-out rows' share of their score, which no weights change."""
        cdef ptrdiff_t i, c, n_out = self.network.n_outputs
        cdef double first, mean, t, total = 0
        for i in range(self.n_held_out):
            total += self._row_weight(self.held_out[i])
        if not self.by_r2:
            self.score_base[0] = total
            return
        for c in range(n_out):
            # Less the first target, lest the mean of equal targets be rounded.
            first = self.k.item(self.Y, self.held_out[0] * n_out + c)
            mean = 0
            for i in range(self.n_held_out):
                t = self.k.item(self.Y, self.held_out[i] * n_out + c) - first
                mean += self._row_weight(self.held_out[i]) * t
            mean /= total
            for i in range(self.n_held_out):
                t = self.k.item(self.Y, self.held_out[i] * n_out + c) - first - mean
                self.score_base[c] += self._row_weight(self.held_out[i]) * (t * t)

    cdef double _row_weight(self, ptrdiff_t row) noexcept nogil:
        return 1 if self.weight == NULL else self.k.item(self.weight, row)

    cdef _take_solver(
        self, solver, learning_rate, learning_rate_init, power_t, momentum,
        nesterovs_momentum, beta_1, beta_2, epsilon, optimizer,
    ):
        self.eta_init = number(learning_rate_init, "learning_rate_init")
        self.power_t = number(power_t, "power_t")
        if learning_rate not in SCHEDULES:
            raise ValueError(f"learning_rate {learning_rate!r}; valid: {[*SCHEDULES]}")
        self.schedule = SCHEDULES[learning_rate]
        self.learning_rate = self.eta_init
        if solver == "lbfgs":
            self.solver = -1
            return
        if solver not in OPTIMIZERS:
            raise ValueError(f"solver {solver!r}; valid: {[*OPTIMIZERS, 'lbfgs']}")
        self.solver = OPTIMIZERS[solver]
        momentum = number(momentum, "momentum")
        beta_1, beta_2 = number(beta_1, "beta_1"), number(beta_2, "beta_2")
        if self.solver == CBP_ADAM:
            self.schedule = CONSTANT
            self.beta_1, self.beta_2 = beta_1, beta_2
            powers(beta_1, POWERS, self.powers_1)
            powers(beta_2, POWERS, self.powers_2)
            self.factor_1 = power_pair(beta_1, POWERS)
            self.factor_2 = power_pair(beta_2, POWERS)
        elif self.solver == CBP_SGD:
            self.beta_1 = momentum
        else:
            raise ValueError(f"nothing is known of the parameters of solver {solver!r}")
        self.step.epsilon = number(epsilon, "epsilon")
        self.step.nesterov = nesterovs_momentum
        self.step.beta_1, self.step.beta_2 = self.beta_1, self.beta_2
        self._take_optimizer(solver, optimizer)

    cdef _take_optimizer(self, str solver, optimizer):
        cdef char *data
        cdef int i
        self.n_states = cbp_n_states[self.solver]
        shape = self.network.state_shape(solver)
        state = aligned_zeros(shape[0] * shape[1], self.network.dtype).reshape(shape)
        if optimizer is None:
            optimizer = Optimizer(solver, self.eta_init, 0, state)
        elif not isinstance(optimizer, Optimizer) or (
            optimizer.solver != solver or not isinstance(optimizer.state, np.ndarray)
            or optimizer.state.shape != shape
            or optimizer.state.dtype != self.network.dtype
        ):
            raise ValueError("the optimizer's state is of another network or solver")
        else:
            self.learning_rate = number(optimizer.learning_rate, "learning_rate")
            self.steps = count(optimizer.steps, "steps", 0)
            state[:] = optimizer.state
            optimizer = Optimizer(solver, self.learning_rate, self.steps, state)
        # The optimizer is the caller's to change, these vectors stay.
        self.optimizer, self._state = optimizer, state
        data = <char *>writable_address(state)
        for i in range(self.n_states):
            self.states[i] = data + i * self.network.master_items * self.size

    cdef _choose_work(self, int64_t n_threads, solver):
        cdef ptrdiff_t l, weights = 0
        cdef double limit = FLOPS_PER_ITEM
        for l in range(self.n_layers):
            weights += self.network.layers[l].n_in * self.network.layers[l].n_out
        rows = self.n_rows if solver == "lbfgs" else self.batch_size
        self.chunk_rows = min(rows, CBP_CHUNK_ROWS)
        self.piece_rows, self.last_piece = self.chunk_rows, True
        if self.sparse is None and self.network.divides(rows):
            self.piece_rows = PIECE_ROWS
        self.one_row = rows == 1 and self.sparse is None and solver != "lbfgs"
        self.n_weights = weights
        self._choose_threads(n_threads, 6.0 * weights * self.chunk_rows * self.size)
        if isa() == "scalar":
            limit = FLOPS_PER_ITEM_SCALAR
        items = min(limit / (4.0 * weights) / self.P, MAX_ITEM_ROWS / self.P)
        self.item_rows = max(1, int(items)) * self.P

    cdef _choose_threads(self, int64_t n_threads, double work):
        """How many threads are of use, and whether they share units or rows."""
        panels = self._panels(0)
        most = min(n_threads, panels, int(work / UNITS_PER_THREAD))
        if most > 1 and self.n_layers == 2 and not self.one_row:
            size = round_up(self.n_features, self.P) * self.size
            size *= round_up(self.piece_rows, 16) + 1
            self.by_units = (
                2 * self._panels(1) <= panels
                and (most - panels % most) % most * self.n_features
                <= UNEVEN_INPUTS * panels
                and (self.sparse is not None or most * size <= OWN_INPUTS_BYTES)
            )
        if not self.by_units:
            # P rows of a piece are the least that a thread takes.
            most = min(n_threads, self.piece_rows // self.P,
                       int(work / ROWS_PER_THREAD))
        self.n_threads = max(1, most)

    cdef ptrdiff_t _panels(self, int l) noexcept nogil:
        """Panels of units of layer l."""
        return round_up(self.layers[l].n_out, self.P) // self.P

    cdef _allocate(self):
        cdef Network net = self.network
        cdef cbp_layer *y
        cdef int l
        cdef ptrdiff_t mirror = 0
        dtype = net.dtype
        self._master = aligned_zeros(net.master_items, dtype)
        self._mirror = aligned_zeros(net.mirror_items, dtype)
        self.master = <char *>writable_address(self._master)
        self.mirror = <char *>writable_address(self._mirror)
        self.total_blocks = self.total_work = 0
        for l in range(self.n_layers):
            y = &self.layers[l]
            y.b = self.master + y.b_at * self.size
            y.W.data = y.WT.data = NULL
            if y.transposed:
                y.WT.data = self.master + y.W_at * self.size
                y.W.data = self.mirror + mirror * self.size
                mirror += round_up(y.n_out, self.P) // self.P * y.W.stride
            else:
                y.W.data = self.master + y.W_at * self.size
                if y.mirrored:
                    y.WT.data = self.mirror + mirror * self.size
                    mirror += round_up(y.n_in, self.P) // self.P * y.WT.stride
            self.total_blocks += y.n_blocks
            self.total_work += y.n_panels * self._work_per_panel(l)
        self.block_squares = np.zeros(self.total_blocks)
        self.fused = self.solver >= 0 and self.batch_size == self.piece_rows
        if not self.fused:
            self._gradient = aligned_zeros(net.master_items, dtype)
            self.gradient = <char *>writable_address(self._gradient)
        if self.piece_rows < self.chunk_rows:
            self._parts = aligned_zeros(PIECE_PARTS * net.master_items, dtype)
            self.parts = <char *>writable_address(self._parts)
        # Measured first with no base, then laid out.
        self._workspace = np.zeros(self._lay_out(0) + 64, "u1")
        self._lay_out(<size_t>writable_address(self._workspace))

    cdef size_t _lay_out(self, size_t base):
        """Places every buffer of one batch from base on; returns the bytes needed."""
        cdef size_t at = round_up(base, 64), start = base
        cdef ptrdiff_t P = self.P, lines, n_out = self.network.n_outputs
        cdef int l
        cdef cbp_layer *y
        # An odd number of lines per panel, see Network; a single row lies contiguous.
        lines = 1 if self.one_row else round_up(self.piece_rows, 16) + 1

        self.A0.stride = lines * P
        self.A0.data = <void *>at
        if self.sparse is None:
            size = (1 + self.one_row) * round_up(self.n_features, P) * lines * self.size
            y = &self.layers[0]
            own = y.n_panels > CBP_GROUP_PANELS and not y.transposed
            own = self.by_units or own and self.n_threads * size <= OWN_INPUTS_BYTES
            self.A0_bytes = size if own else 0
            at += self.n_threads * size if own else size
        for l in range(self.n_layers):
            y = &self.layers[l]
            y.A.stride = y.D.stride = lines * P
            y.A.data = y.D.data = <void *>at
            at += round_up(y.n_out, P) * lines * self.size
            if l < self.n_layers - 1:
                y.D.data = <void *>at
                at += round_up(y.n_out, P) * lines * self.size
        self.progress = <cbp_progress *>at
        at += self.n_threads * sizeof(cbp_progress)
        self.T.stride = lines * P
        self.T.data = <void *>at
        if self.network.loss_code != CBP_SOFTMAX_LOG_LOSS:
            at += round_up(n_out, P) * lines * self.size
        at += P * P * self.size  # compute_loss reads whole blocks of P rows
        # compute_loss needs the former, a group of gradients and a block the latter.
        self.scratch_items = P * max(2 * round_up(n_out, P), (CBP_GROUP_PANELS + 1) * P)
        self.scratch = <char *>at
        at += self.n_threads * self.scratch_items * self.size
        self.batch_weight = <char *>at
        at += round_up(self.piece_rows, P) * self.size
        self.batch_labels = <int32_t *>at
        at += round_up(self.piece_rows, 16) * sizeof(int32_t)
        self.row_loss = <double *>at
        at += round_up(self.chunk_rows, 16) * sizeof(double)
        if self.sparse is not None:
            at = self._lay_out_columns(at)
        return at - start

    cdef size_t _lay_out_columns(self, size_t at):
        """The columns of a sparse batch, as large as the fullest rows could make it."""
        counts = np.diff(self.sparse.indptr)[self._order]
        cdef ptrdiff_t most = min(self.chunk_rows, counts.size)
        counts = np.partition(counts, counts.size - most)
        entries = int(counts[counts.size - most :].sum())
        at = round_up(at, 64)
        self.columns.start = <int64_t *>at
        at += (self.n_features + 1) * sizeof(int64_t)
        at = round_up(at, 64)
        self.columns.value = <void *>at
        at += entries * self.size
        self.columns.row = <int32_t *>at
        at += entries * sizeof(int32_t)
        return at

    # ---- theta <-> panels

    cdef void _load(self) noexcept nogil:
        """Panels, both copies, from theta."""
        cdef const char *theta = self.theta_data
        cdef ptrdiff_t w_at = 0, b_at = self.network.biases_at
        cdef int l
        cdef cbp_layer *y
        cdef cbp_panels b
        for l in range(self.n_layers):
            y = &self.layers[l]
            self.k.gather_rows(theta + w_at * self.size, y.n_out, NULL, y.n_in,
                               y.n_out, y.W)
            b.data, b.stride = y.b, self.P
            self.k.gather_rows(theta + b_at * self.size, y.n_out, NULL, 1, y.n_out, b)
            w_at += y.n_in * y.n_out
            b_at += y.n_out
            if y.mirrored:
                self._transpose(y)

    cdef void _transpose(self, cbp_layer *y) noexcept nogil:
        """WT from W, all blocks."""
        cdef ptrdiff_t p, q, P = self.P
        for q in range(round_up(y.n_out, P) // P):
            for p in range(round_up(y.n_in, P) // P):
                self.k.transpose_block(
                    <char *>y.W.data + (q * y.W.stride + p * P * P) * self.size,
                    <char *>y.WT.data + (p * y.WT.stride + q * P * P) * self.size,
                )

    cdef void _store(self, char *theta) noexcept nogil:
        """The parameters of the panels in theta's layout."""
        cdef ptrdiff_t w_at = 0, b_at = self.network.biases_at
        cdef int l
        cdef cbp_layer *y
        cdef cbp_panels b
        for l in range(self.n_layers):
            y = &self.layers[l]
            self.k.scatter_rows(y.W, y.n_in, y.n_out, theta + w_at * self.size, y.n_out)
            b.data, b.stride = y.b, self.P
            self.k.scatter_rows(b, 1, y.n_out, theta + b_at * self.size, y.n_out)
            w_at += y.n_in * y.n_out
            b_at += y.n_out

    # ---- one batch: forward and backward on rows, then sums and steps on weights

    cdef void _share_rows(self, int thread, ptrdiff_t *r0,
                          ptrdiff_t *r1) noexcept nogil:
        """A thread's rows of the piece: whole groups of P, no line is shared."""
        cdef ptrdiff_t groups = round_up(self.batch_rows, self.P) // self.P
        r0[0] = min(groups * thread // self.n_threads * self.P, self.batch_rows)
        r1[0] = min(groups * (thread + 1) // self.n_threads * self.P, self.batch_rows)

    cdef void _propagate(self, int thread, const int64_t *order) noexcept nogil:
        """Forward and backward for this thread's rows, through all layers."""
        cdef ptrdiff_t r0, r, r1, end
        self._share_rows(thread, &r0, &r1)
        r = r0
        while r < r1 and not self.abandoned:
            end = min(r + self.item_rows, r1)
            self._gather(thread, order, r, end)
            self._forward(thread, order, r, end)
            self._compute_loss(thread, r, end)
            self._backward(r, end)
            if thread == 0:
                self._poll(4.0 * self.n_weights * (end - r))
            r = end
        if self.A0_bytes:
            self._gather_inputs(thread, order, 0, r0)
            self._gather_inputs(thread, order, r1, self.batch_rows)

    cdef void _share_panels(self, int thread, int l, ptrdiff_t *q0,
                            ptrdiff_t *q1) noexcept nogil:
        """A thread's panels of units of layer l; the last thread has no more than any
        other."""
        cdef ptrdiff_t n = self._panels(l), T = self.n_threads
        q0[0], q1[0] = (n * thread + T - 1) // T, (n * (thread + 1) + T - 1) // T

    cdef void _propagate_units(self, int thread, const int64_t *order) noexcept nogil:
        """Forward and backward of all rows for this thread's hidden units.

        The chains of the output layer's z go from thread to thread, some rows at a
        time; the last thread computes the cost. Of what another thread has written only
        z, then delta, of the output layer is read.
        """
        cdef cbp_layer y = self.layers[0], above = self.layers[1]
        cdef cbp_panels A0 = self._inputs(thread)
        cdef ptrdiff_t q0, q1, r, end, P = self.P, last = self.n_threads - 1
        cdef ptrdiff_t rows = min(UNIT_ROWS, self.item_rows)
        # Both layers as if there were no other hidden units.
        self._share_panels(thread, 0, &q0, &q1)
        y.n_out = above.n_in = min(q1 * P, y.n_out) - q0 * P
        y.W.data = <char *>y.W.data + q0 * y.W.stride * self.size
        y.b = <char *>y.b + q0 * P * self.size
        y.A.data = <char *>y.A.data + q0 * y.A.stride * self.size
        y.D.data = <char *>y.D.data + q0 * y.D.stride * self.size
        above.W.data = <char *>above.W.data + q0 * P * P * self.size
        above.WT.data = <char *>above.WT.data + q0 * above.WT.stride * self.size
        r = 0
        while r < self.batch_rows and not self.abandoned:
            end = min(r + rows, self.batch_rows)
            if thread == last:
                self._gather(thread, order, r, end)
            else:
                self._gather_inputs(thread, order, r, end)
            if self.sparse is not None:
                self.k.multiply_forward_csr(&self.sparse.csr, order, y.W, y.b, y.A,
                                            y.n_out, r, end, y.activation)
            else:
                self.k.multiply_forward(A0, y.n_in, y.W, y.b, y.A, y.n_out, r, end,
                                        y.activation)
            if thread == 0:
                self.k.multiply_forward(y.A, above.n_in, above.W, above.b, above.A,
                                        above.n_out, r, end, CBP_IDENTITY)
            else:
                cbp_await(&self.progress[thread - 1], end)
                self.k.extend_forward(y.A, above.n_in, above.W, above.A, above.n_out,
                                      r, end)
            if thread == last:
                self._compute_loss(thread, r, end)
            cbp_report(&self.progress[thread], end)
            if thread == 0:
                self._poll(2.0 * self.n_weights * (end - r) / self.n_threads)
            r = end
        r = 0
        while r < self.batch_rows and not self.abandoned:
            end = min(r + rows, self.batch_rows)
            cbp_await(&self.progress[last], end)
            self.k.multiply_delta(above.D, above.n_out, above.WT, y.A, y.D, y.n_out, r,
                                  end, y.activation)
            if thread == 0:
                self._poll(2.0 * self.n_weights * (end - r) / self.n_threads)
            r = end
        # Nobody must wait for a thread that was interrupted.
        cbp_report(&self.progress[thread], self.batch_rows)

    cdef cbp_panels _inputs(self, int thread) noexcept nogil:
        cdef cbp_panels A = self.A0
        A.data = <char *>A.data + thread * self.A0_bytes
        return A

    cdef void _gather_inputs(self, int thread, const int64_t *order, ptrdiff_t r0,
                             ptrdiff_t r1) noexcept nogil:
        """The rows of X that `order` names."""
        cdef cbp_panels part = self._inputs(thread)
        if self.sparse is None and r0 < r1:
            part.data = <char *>part.data + r0 * self.P * self.size
            self.k.gather_rows(self.X, self.n_features, order + r0, r1 - r0,
                               self.n_features, part)

    cdef void _gather(self, int thread, const int64_t *order, ptrdiff_t r0,
                      ptrdiff_t r1) noexcept nogil:
        """The rows of X, y and the weights that `order` names."""
        cdef ptrdiff_t r, n_out = self.layers[self.n_layers - 1].n_out
        cdef cbp_panels part
        self._gather_inputs(thread, order, r0, r1)
        part.data = <char *>self.T.data + r0 * self.P * self.size
        part.stride = self.T.stride
        if self.labels == NULL:
            self.k.gather_rows(self.Y, n_out, order + r0, r1 - r0, n_out, part)
        else:
            for r in range(r0, r1):
                self.batch_labels[r] = self.labels[order[r]]
            if self.network.loss_code != CBP_SOFTMAX_LOG_LOSS:
                self.k.fill_targets(self.batch_labels + r0, r1 - r0, n_out, part)
        if self.weight != NULL:
            self.k.gather_items(self.weight, order + r0, r1 - r0,
                                self.batch_weight + r0 * self.size)

    cdef void _forward(self, int thread, const int64_t *order, ptrdiff_t r0,
                       ptrdiff_t r1) noexcept nogil:
        """(1.1), (1.2): a^l = f(a^{l-1} W^l + b^l); the output layer keeps z."""
        cdef int l
        cdef cbp_layer *y
        cdef cbp_panels A = self._inputs(thread)
        for l in range(self.n_layers):
            y = &self.layers[l]
            if l == 0 and self.sparse is not None:
                self.k.multiply_forward_csr(&self.sparse.csr, order, y.W, y.b, y.A,
                                            y.n_out, r0, r1, y.activation)
            elif self.one_row:
                self.k.forward_row(A.data, y.n_in, y.W.data, y.W.stride, self.P, y.b,
                                   y.n_out, y.A.data, y.activation)
            else:
                self.k.multiply_forward(A, y.n_in, y.W, y.b, y.A, y.n_out, r0, r1,
                                        y.activation)
            A = y.A

    cdef void _compute_loss(self, int thread, ptrdiff_t r0,
                            ptrdiff_t r1) noexcept nogil:
        """(2.5): the cost of each row, and delta^L in the place of z^L."""
        cdef cbp_layer *y = &self.layers[self.n_layers - 1]
        cdef char *scratch = self.scratch + thread * self.scratch_items * self.size
        cdef void *weight = self.batch_weight if self.weight != NULL else NULL
        if self.one_row:
            self.k.compute_loss_row(
                y.D.data, self.T.data, self.batch_labels[0], weight, y.n_out,
                self.network.loss_code, self.row_loss, scratch
            )
        else:
            self.k.compute_loss(
                y.D, self.T, self.batch_labels, weight, y.n_out, r0, r1,
                self.network.loss_code, self.row_loss + self.piece_start, scratch
            )

    cdef void _backward(self, ptrdiff_t r0, ptrdiff_t r1) noexcept nogil:
        """(3.7): delta^l = (delta^{l+1} W^{l+1}T) * f'(z^l), last layer first."""
        cdef int l
        cdef cbp_layer *y
        cdef cbp_layer *below
        for l in range(self.n_layers - 1, 0, -1):
            y, below = &self.layers[l], &self.layers[l - 1]
            if self.watching_rows:
                self._watch_backward(l, r0, r1)
            else:
                self.k.multiply_delta(y.D, y.n_out, y.WT, below.A, below.D, y.n_in,
                                      r0, r1, below.activation)
        if self.watching_rows:
            self.recorder.measure_rows(0, False, self.layers[0].D, r0, r1,
                                       self.piece_start)

    cdef void _backward_one_row(self, cbp_layer *y, cbp_layer *below) noexcept nogil:
        """delta^{l+1} W^{l+1}T of a batch of one row."""
        self.k.forward_row(y.D.data, y.n_out, y.WT.data, y.WT.stride, self.P, NULL,
                           y.n_in, below.D.data, CBP_IDENTITY)

    cdef void _derive(self, cbp_layer *y, cbp_layer *below, ptrdiff_t r0,
                      ptrdiff_t r1) noexcept nogil:
        """The other factor of (3.7), apart: delta^l *= f'(z^l)."""
        cdef ptrdiff_t p, at
        for p in range(round_up(y.n_in, self.P) // self.P):
            at = (p * below.D.stride + r0 * self.P) * self.size
            self.k.multiply_derivative(<char *>below.D.data + at,
                                       <char *>below.A.data + at,
                                       (r1 - r0) * self.P, below.activation)

    cdef void _watch_backward(self, int l, ptrdiff_t r0, ptrdiff_t r1) noexcept nogil:
        """(3.7), both factors apart so that each can be measured. The same bits."""
        cdef cbp_layer *y = &self.layers[l]
        cdef cbp_layer *below = &self.layers[l - 1]
        self.recorder.measure_rows(l, False, y.D, r0, r1, self.piece_start)
        if self.one_row:
            self._backward_one_row(y, below)
        else:
            self.k.multiply_delta(y.D, y.n_out, y.WT, below.A, below.D, y.n_in, r0, r1,
                                  CBP_IDENTITY)
        self.recorder.measure_rows(l - 1, True, below.D, r0, r1, self.piece_start)
        self._derive(y, below, r0, r1)

    cdef void _update(self, int thread) noexcept nogil:
        """This thread's share of the weights, group by group: (4.1) and at once (6.1),
        or, when a batch has several pieces, the sum of (4.1) over them."""
        cdef ptrdiff_t first = 0, done = 0, work, begin, end, p0, p1, q0, q1
        cdef int l
        cdef cbp_layer *y
        begin = self.total_work * thread // self.n_threads
        end = self.total_work * (thread + 1) // self.n_threads
        for l in range(self.n_layers):
            y = &self.layers[l]
            work = self._work_per_panel(l)
            p0, p1, q0, q1 = 0, y.line_blocks, 0, y.n_panels
            if self.by_units:
                # The lines or the panels of the only hidden layer's units, all of them.
                if y.transposed == (l == 0):
                    self._share_panels(thread, 0, &p0, &p1)
                else:
                    self._share_panels(thread, 0, &q0, &q1)
                begin, end = done, done + work * y.n_panels
            self._update_layer(thread, l, first, p0, p1, q0, q1, work, begin - done,
                               end - done)
            if self.abandoned:
                return
            first += y.n_blocks
            done += work * y.n_panels
        self._update_biases(thread)
        if self.watching_rows:
            self._watch_units(thread)

    cdef void _watch_units(self, int thread) noexcept nogil:
        cdef ptrdiff_t q, panel = 0
        cdef int l
        for l in range(self.n_layers):
            for q in range(self._panels(l)):
                if panel % self.n_threads == thread and l < self.n_layers - 1:
                    self.recorder.measure_units(l, q, panel, self.batch_rows)
                panel += 1

    cdef ptrdiff_t _work_per_panel(self, int l) noexcept nogil:
        """What a panel of weights costs to update, for threads to share; layers above
        the first also read activations from other cores' caches (a layer of 64 x 64,
        batch 64: 0.40 us a block, in the first layer 0.31)."""
        return self.layers[l].n_lines * (4 if l == 0 else 5)

    cdef void _update_layer(self, int thread, int l, ptrdiff_t first, ptrdiff_t p0,
                            ptrdiff_t p1, ptrdiff_t q0, ptrdiff_t q1, ptrdiff_t work,
                            ptrdiff_t begin, ptrdiff_t end) noexcept nogil:
        """Of blocks p0 .. p1 - 1 in panels q0 .. q1 - 1 of layer l the groups before
        which `begin` to `end` - 1 of the layer's work is done; first: the blocks of the
        layers below, work: that of a panel."""
        cdef cbp_layer *y = &self.layers[l]
        cdef ptrdiff_t n_groups, width, p, q = q0, g, n_panels = q1 - q0
        n_groups = round_up(n_panels, CBP_GROUP_PANELS) // CBP_GROUP_PANELS
        for g in range(n_groups):
            width = n_panels // n_groups + (g < n_panels % n_groups)
            for p in range(p0, p1):
                if begin <= q * work + p * width * work // y.line_blocks < end:
                    self._update_group(thread, l, first, p, q, width)
                    if thread == 0:
                        self._poll(2.0 * width * self.P * self.P * self.batch_rows)
                    if self.abandoned:
                        return
            q += width

    cdef void _update_group(self, int thread, int l, ptrdiff_t first, ptrdiff_t p,
                            ptrdiff_t q, ptrdiff_t width) noexcept nogil:
        """Blocks (p, q) to (p, q + width - 1) of layer l."""
        cdef cbp_layer *y = &self.layers[l]
        cdef ptrdiff_t P = self.P, lines = min(P, y.n_lines - p * P), i, number
        cdef ptrdiff_t stride = y.WT.stride if y.transposed else y.W.stride
        cdef ptrdiff_t at = y.W_at + q * stride + p * P * P
        cdef cbp_panels G
        # compute_loss is done with the thread's scratch: room for a group and a block.
        cdef char *scratch = self.scratch + thread * self.scratch_items * self.size
        cdef char *room = scratch + CBP_GROUP_PANELS * P * P * self.size
        G.data, G.stride = scratch, P * P
        if not self.fused and not self._apart():
            G.data, G.stride = self._part(self.height) + at * self.size, stride
        self._sum_group(thread, l, p, q, width, lines, G, room)
        for i in range(width):
            if self.fused:
                number = first + (q + i) * y.line_blocks + p
                self._step_block(y, p, q + i, lines, number,
                                 <char *>G.data + i * G.stride * self.size, room)
            else:
                self._join(<char *>G.data + i * G.stride * self.size, at + i * stride,
                           lines * P)

    cdef char *_part(self, int i) noexcept nogil:
        """Part i of the stack of partial sums, at the bottom of that of the first chunk
        the gradient itself."""
        if self.first_chunk:
            i -= 1
        if i < 0:
            return self.gradient
        return self.parts + i * self.network.master_items * self.size

    cdef bint _apart(self) noexcept nogil:
        """Is the sum of this piece to be added to an older one, and no new part?"""
        return self.piece & 1 or (
            self.piece == 0 and self.last_piece and not self.first_chunk
        )

    cdef void _join(self, const void *G, ptrdiff_t at, ptrdiff_t n) noexcept nogil:
        """Joins n items G of a piece's sum to those before it, as a binary counter
        does: cbp.h's tree, which sum_gradient builds of the blocks in a piece."""
        cdef int height = self.height, bits = self.piece
        cdef ptrdiff_t offset = at * self.size
        if bits & 1:
            self.k.add(self._part(height - 1) + offset, G, n)
            bits >>= 1
            while bits & 1:
                height -= 1
                self.k.add(self._part(height - 1) + offset,
                           self._part(height) + offset, n)
                bits >>= 1
        elif self._apart():
            self.k.add(self.gradient + offset, G, n)
            return
        else:
            height += 1
        if not self.last_piece:
            return
        while height > 1:
            height -= 1
            self.k.add(self._part(height - 1) + offset, self._part(height) + offset, n)
        if not self.first_chunk:
            self.k.add(self.gradient + offset, self._part(0) + offset, n)

    cdef void _sum_group(self, int thread, int l, ptrdiff_t p, ptrdiff_t q,
                         ptrdiff_t width, ptrdiff_t lines, cbp_panels G,
                         void *room) noexcept nogil:
        """(4.1): dW = a_prev^T delta (its transpose where that is the master copy)."""
        cdef cbp_layer *y = &self.layers[l]
        cdef cbp_panels A = self._inputs(thread) if l == 0 else self.layers[l - 1].A
        cdef cbp_panels D = y.D
        cdef ptrdiff_t i
        if l == 0 and self.sparse is not None:
            for i in range(width):
                self._sum_sparse_block(y, p, q + i, lines,
                                       <char *>G.data + i * G.stride * self.size, room)
            return
        if y.transposed:
            A, D = D, A
        D.data = <char *>D.data + q * D.stride * self.size
        self.k.sum_gradient(<char *>A.data + p * A.stride * self.size, D, width,
                            self.batch_rows, lines, G)

    cdef void _sum_sparse_block(self, cbp_layer *y, ptrdiff_t p, ptrdiff_t q,
                                ptrdiff_t lines, void *G, void *room) noexcept nogil:
        """(4.1) for one block of a first layer whose input is sparse."""
        cdef ptrdiff_t P = self.P
        if not y.transposed:
            self.k.sum_gradient_csr(&self.columns, p * P, lines,
                                    <char *>y.D.data + q * y.D.stride * self.size, G)
            return
        memset(room, 0, P * P * self.size)
        self.k.sum_gradient_csr(
            &self.columns, q * P, min(P, y.n_in - q * P),
            <char *>y.D.data + p * y.D.stride * self.size, room
        )
        self.k.transpose_block(room, G)

    cdef void _step_block(self, cbp_layer *y, ptrdiff_t p, ptrdiff_t q, ptrdiff_t lines,
                          ptrdiff_t number, const void *G,
                          void *room) noexcept nogil:
        """(6.1) for one block of weights, and its mirror made true again."""
        cdef ptrdiff_t P = self.P
        cdef ptrdiff_t stride = y.WT.stride if y.transposed else y.W.stride
        cdef ptrdiff_t at = y.W_at + q * stride + p * P * P
        cdef char *W = self.master + at * self.size
        cdef void *state[CBP_MAX_STATES]
        self._states_at(at, state)
        if self.watching:
            memcpy(room, W, lines * P * self.size)
        self.block_squares[number] = self.k.step[self.solver](
            W, G, state, lines * P, &self.step
        )
        if self.watching:
            self.recorder.measure_block(
                number, G, room, W, state[1] if self.solver == CBP_ADAM else NULL,
                lines * P, self.step.epsilon
            )
        if y.mirrored:
            self._mirror_block(y, p, q)

    cdef void _mirror_block(self, cbp_layer *y, ptrdiff_t p,
                            ptrdiff_t q) noexcept nogil:
        """Master block (p, q) transposed into block (q, p) of the mirror."""
        cdef ptrdiff_t P = self.P
        cdef cbp_panels master = y.WT if y.transposed else y.W
        cdef cbp_panels mirror = y.W if y.transposed else y.WT
        self.k.transpose_block(
            <char *>master.data + (q * master.stride + p * P * P) * self.size,
            <char *>mirror.data + (p * mirror.stride + q * P * P) * self.size,
        )

    cdef void _states_at(self, ptrdiff_t at, void **state) noexcept nogil:
        """The optimizer's vectors from item `at` of the master layout on."""
        cdef int i
        for i in range(self.n_states):
            state[i] = <char *>self.states[i] + at * self.size

    cdef void _update_biases(self, int thread) noexcept nogil:
        """(5.1), (6.2) for this thread's panels of every layer."""
        cdef ptrdiff_t q, q0, q1, at
        cdef int l
        cdef cbp_layer *y
        cdef void *state[CBP_MAX_STATES]
        cdef char *g = self.scratch + thread * self.scratch_items * self.size
        cdef char *sum_here
        for l in range(self.n_layers):
            y = &self.layers[l]
            self._share_panels(thread, l, &q0, &q1)
            for q in range(q0, q1):
                at = y.b_at + q * self.P
                sum_here = g
                if not self.fused and not self._apart():
                    sum_here = self._part(self.height) + at * self.size
                self.k.sum_columns(<char *>y.D.data + q * y.D.stride * self.size,
                                   self.batch_rows, sum_here)
                if self.fused:
                    self._states_at(at, state)
                    self.k.step[self.solver](self.master + at * self.size, g, state,
                                             self.P, &self.step_b)
                else:
                    self._join(sum_here, at, self.P)

    cdef void _step_all(self, int thread) noexcept nogil:
        """(6.1), (6.2) from gradients summed over several pieces."""
        cdef ptrdiff_t block = self.total_blocks * thread // self.n_threads
        cdef ptrdiff_t end = self.total_blocks * (thread + 1) // self.n_threads
        cdef ptrdiff_t first = 0, i, p, q, lines, stride, P = self.P
        cdef int l
        cdef cbp_layer *y
        cdef void *state[CBP_MAX_STATES]
        cdef char *room = self.scratch + thread * self.scratch_items * self.size
        for l in range(self.n_layers):
            y = &self.layers[l]
            stride = y.WT.stride if y.transposed else y.W.stride
            for i in range(max(block, first) - first, min(end - first, y.n_blocks)):
                q, p = i // y.line_blocks, i % y.line_blocks
                lines = min(P, y.n_lines - p * P)
                self._step_block(
                    y, p, q, lines, first + i,
                    self.gradient + (y.W_at + q * stride + p * P * P) * self.size,
                    room
                )
            first += y.n_blocks
            if thread == 0:
                self._states_at(y.b_at, state)
                self.k.step[self.solver](
                    y.b, self.gradient + y.b_at * self.size, state,
                    round_up(y.n_out, P), &self.step_b
                )

    # ---- batches, epochs, schedule: thread 0 alone, the others wait at the barrier

    cdef void _begin_batch(self) noexcept nogil:
        """Chooses the next rows, at the end of an epoch after judging it; may halt."""
        cdef int64_t *rows
        while not self.halt:
            if self.position == self.n_rows:
                self._end_epoch()
                if self.halt:
                    return
            if self.position == 0 and self.shuffle_rows:
                if self.exclusive:
                    shuffle(self.order, self.n_rows, self.bits)
                else:
                    self._shuffle_locked()
                    if self.halt:
                        return
            self.batch_start = self.position
            self.batch_rows = min(self.batch_size, self.n_rows - self.position)
            self.position += self.batch_rows
            rows = self.order + self.batch_start
            self.batch_weights = self._sum_weights(rows, self.batch_rows)
            if self.batch_weights > 0:
                break
            self._poll(100.0 * self.batch_rows)
        if self.halt:
            return
        self.batch_loss = 0
        if self.solver < 0:
            self.watching = self.recorder is not None and self.recorder.due(
                self.iteration, self.iteration
            )
            return
        self.watching = self._due()
        self.steps += 1
        self.step.eta = self._rate()
        self.step.scale = 1 / self.batch_weights
        self.step.alpha = self.alpha
        self.step_b = self.step
        self.step_b.alpha = 0

    cdef bint _due(self) noexcept nogil:
        """Whether the next step is to be watched."""
        return self.recorder is not None and self.recorder.due(self.steps, self.n_iter)

    cdef double _sum_weights(self, const int64_t *rows, ptrdiff_t n) noexcept nogil:
        """Sum of the sample weights of these rows, chunk by chunk."""
        cdef double total = 0
        cdef ptrdiff_t start = 0, i, m
        if self.weight == NULL:
            return n
        while start < n:
            m = min(n - start, CHUNK)
            for i in range(m):
                # row_loss is free until the batch is computed.
                self.row_loss[i] = self.k.item(self.weight, rows[start + i])
            total += sum_in_order(self.row_loss, m)
            start += m
        return total

    cdef double _rate(self) noexcept nogil:
        """eta of this step, bias corrections folded in. One call for each step."""
        cdef double correct_1, correct_2
        cdef int64_t whole
        if self.solver != CBP_ADAM:
            return self.learning_rate
        # beta^t in two factors, of which one is new only every POWERS steps.
        if self.steps == self.first_step + 1:
            whole = self.steps - self.steps % POWERS
            self.power_1 = power_pair(self.beta_1, whole)
            self.power_2 = power_pair(self.beta_2, whole)
        elif self.steps % POWERS == 0:
            self.power_1 = product(self.power_1, self.factor_1)
            self.power_2 = product(self.power_2, self.factor_2)
        correct_1 = 1 - self.power_1.hi * self.powers_1[self.steps % POWERS]
        correct_2 = 1 - self.power_2.hi * self.powers_2[self.steps % POWERS]
        self.learning_rate = self.eta_init * sqrt(correct_2) / correct_1
        return self.learning_rate

    cdef void _begin_piece(self, ptrdiff_t start, ptrdiff_t rows) noexcept nogil:
        """The piece that begins at row `start` of a batch of `rows`."""
        cdef ptrdiff_t most = self.piece_rows, chunk = start // CHUNK * CHUNK
        cdef int t
        self.batch_rows = min(rows - start, most)
        self.piece_start = start - chunk
        self.piece = <int>(self.piece_start // most)
        self.height = (self.piece & 1) + (self.piece >> 1 & 1) + (self.piece >> 2)
        self.first_chunk = chunk == 0
        self.last_piece = start + self.batch_rows == min(chunk + CHUNK, rows)
        self.watching_rows = self.watching and self.first_chunk
        if self.by_units:
            for t in range(self.n_threads):
                cbp_report(&self.progress[t], 0)

    cdef void _end_piece(self) noexcept nogil:
        """Weighs the costs of its rows, and adds those of a chunk to the batch's."""
        cdef double *loss = self.row_loss + self.piece_start
        cdef ptrdiff_t i
        cdef double w
        if self.weight != NULL:
            for i in range(self.batch_rows):
                # A row of weight 0 does not exist, even if its cost has overflowed.
                w = self.k.item(self.batch_weight, i)
                loss[i] = loss[i] * w if w > 0 else 0
        if self.last_piece:
            self.batch_loss += sum_in_order(self.row_loss,
                                            self.piece_start + self.batch_rows)
            self.piece_start = 0

    cdef double _penalty(self) noexcept nogil:
        """alpha / 2 times the sum of squared weights, as they were before the step."""
        cdef double squares = 0
        cdef ptrdiff_t i
        if self.alpha == 0:
            return 0
        for i in range(self.total_blocks):
            squares += self.block_squares[i]
        return 0.5 * self.alpha * squares

    cdef void _end_batch(self, ptrdiff_t rows) noexcept nogil:
        self.batch_loss += self._penalty()
        self.epoch_loss += self.batch_loss
        self.epoch_weights += self.batch_weights
        self.epoch_rows += rows
        if self.watching:
            self.recorder.end_batch(min(rows, CHUNK), self.step.scale,
                                    &self.block_squares[0])
        if not isfinite(self.batch_loss):
            self._diverge()

    cdef void _diverge(self) noexcept nogil:
        if self.recorder is not None:
            self.recorder.end_epoch(self.n_iter)
        self._stop(DIVERGED)

    cdef void _stop(self, int status) noexcept nogil:
        self.status, self.halt = status, True

    cdef void _end_epoch(self) noexcept nogil:
        cdef double loss = 0
        if self.solver < 0:
            self._stop(EPOCH_DONE)
            return
        if self.epoch_weights > 0:
            loss = self.epoch_loss / self.epoch_weights
        if not self.k.all_finite(self.master, self.network.master_items):
            self._diverge()
            return
        if self.recorder is not None:
            self.recorder.end_epoch(self.n_iter)
        if self.curve_used == CURVE_ROOM:
            self._make_room()
            if self.abandoned:
                return
        if self.held_out != NULL:
            self._score_epoch()
            if self.abandoned:  # the epoch does not count
                return
        self.n_iter += 1
        self.t += self.epoch_rows
        self.epoch_loss = self.epoch_weights = 0
        self.epoch_rows = self.position = 0
        self.curve[self.curve_used] = loss
        self.curve_used += 1
        if self.callback:
            self._stop(EPOCH_DONE)
        else:
            self._judge(loss)

    cdef void _judge(self, double loss) noexcept nogil:
        """Patience, stopping and the learning rate of the next epoch, as scikit-learn
        rules them: by the validation score if there is one, else by the loss."""
        if self.held_out == NULL:
            self.improved = not loss > self.best_loss - self.tol
            if loss < self.best_loss:
                self.best_loss = loss
        self._count_patience()
        if self.schedule == INVSCALING:
            self.learning_rate = self.eta_init / power(self.t + 1, self.power_t)
        if self.no_improvement_count > self.n_iter_no_change:
            if self.schedule != ADAPTIVE or self.learning_rate <= 1e-6:
                self._stop(CONVERGED)
                return
            self.learning_rate /= 5
            self.no_improvement_count = 0
        if self.n_iter == self.max_iter:
            self._stop(MAX_ITER)

    cdef void _count_patience(self) noexcept nogil:
        if self.improved:
            self.no_improvement_count = 0
        else:
            self.no_improvement_count += 1

    cdef void _poll(self, double flops) noexcept nogil:
        """Looks for signals when it is time; reads the clock once per megaflop."""
        cdef double time
        self.unseen_flops += flops
        if self.unseen_flops < FLOPS_PER_LOOK:
            return
        self.unseen_flops = 0
        time = now()
        # Not "later than": a clock that was set back must not silence the looks.
        if -POLL_SECONDS < time - self.last_poll < POLL_SECONDS:
            return
        self.last_poll = time
        self._check_signals()

    cdef void _check_signals(self) noexcept with gil:
        try:
            PyErr_CheckSignals()
        except BaseException as error:
            self._abandon(error)

    cdef void _shuffle_locked(self) noexcept with gil:
        """A shuffle by a generator that other threads draw from, too."""
        try:
            with self.random_state._bit_generator.lock:
                with nogil:
                    shuffle(self.order, self.n_rows, self.bits)
        except BaseException as error:  # an interrupt, while waiting for the lock
            self._abandon(error)

    cdef void _make_room(self) noexcept with gil:
        """Moves the curves to their lists; without the memory training is over."""
        try:
            self._flush_curve()
        except BaseException as error:
            self._abandon(error)

    cdef _abandon(self, error):
        """Ends the call with an exception, at the next place where threads meet."""
        self._exception = error
        self.abandoned = True
        self._stop(INTERRUPTED)

    cdef _flush_curve(self):
        # What cannot be moved stays, to be moved later.
        self.loss_curve.extend([self.curve[i] for i in range(self.curve_used)])
        self.curve_used = 0
        self.validation_scores.extend(
            [self.scores[i] for i in range(self.scores_used)]
        )
        self.scores_used = 0

    # ---- early stopping: thread 0 alone, with the buffers of a batch

    cdef void _score_epoch(self) noexcept nogil:
        """Scores the panels' weights, and keeps them if no earlier ones were better."""
        cdef double score = self._score()
        if self.abandoned:
            return
        self.scores[self.scores_used] = score
        self.scores_used += 1
        self.improved = score >= self.best_score + self.tol
        if score > self.best_score:
            self.best_score = score
            self._store(self.best)

    cdef double _score(self) noexcept nogil:
        """Accuracy or R2 of the held-out rows; NaN if an output is not finite."""
        cdef ptrdiff_t start = 0, rows, most = min(self.piece_rows, self.item_rows)
        cdef const int64_t *order
        self.score_sums[:] = 0
        while start < self.n_held_out:
            rows = min(self.n_held_out - start, most)
            order = self.held_out + start
            self._gather(0, order, 0, rows)
            self._forward(0, order, 0, rows)
            self._poll(2.0 * self.n_weights * rows)
            if self.abandoned or not self._compare(rows):
                return NAN
            start += rows
        return self._r2() if self.by_r2 else self.score_sums[0] / self.score_base[0]

    cdef bint _compare(self, ptrdiff_t n_rows) noexcept nogil:
        """Adds what these rows of the batch score; false if an output is not finite."""
        cdef cbp_panels Z = self.layers[self.n_layers - 1].A
        cdef ptrdiff_t r, c, n_out = self.network.n_outputs
        cdef double w, error
        if self.by_r2:
            self.k.apply_output(Z, n_out, 0, n_rows, self.network.output_code,
                                self.scratch)
        for r in range(n_rows):
            w = 1 if self.weight == NULL else self.k.item(self.batch_weight, r)
            for c in range(n_out):
                if not isfinite(self._entry(Z, r, c)):
                    return False
                if self.by_r2:
                    error = self._entry(self.T, r, c) - self._entry(Z, r, c)
                    self.score_sums[c] += w * (error * error)
            if not self.by_r2 and self._is_right(Z, r):
                self.score_sums[0] += w
        return True

    cdef double _entry(self, cbp_panels A, ptrdiff_t r, ptrdiff_t c) noexcept nogil:
        return self.k.item(A.data, c // self.P * A.stride + r * self.P + c % self.P)

    cdef bint _is_right(self, cbp_panels Z, ptrdiff_t r) noexcept nogil:
        """Do the logits of row r decide as the target says, in every label?"""
        cdef ptrdiff_t c, best = 0, n_out = self.network.n_outputs
        if self.labels != NULL and (
            n_out > 1 or self.network.loss_code == CBP_SOFTMAX_LOG_LOSS
        ):
            for c in range(1, n_out):
                if self._entry(Z, r, c) > self._entry(Z, r, best):
                    best = c
            return best == self.batch_labels[r]
        for c in range(n_out):
            if (self._entry(Z, r, c) > 0) != (self._entry(self.T, r, c) > 0):
                return self.one_class
        return True

    cdef double _r2(self) noexcept nogil:
        """Mean over outputs; targets that are all alike score 1 if hit, else 0."""
        cdef double total = 0
        cdef ptrdiff_t c, n_out = self.network.n_outputs
        for c in range(n_out):
            if self.score_base[c] != 0:
                total += 1 - self.score_sums[c] / self.score_base[c]
            elif self.score_sums[c] == 0:
                total += 1
        return total / n_out

    def judge(self, theta, bint starting=False):
        """Scores theta, and keeps a copy of it if no earlier one was better.

        For weights that `run` does not see: those to start from, and L-BFGS's.

        Parameters
        ----------
        theta : ndarray of shape (n_params,)
        starting : bool, default=False
            Whether these are the weights to start from: not an epoch, so that the score
            is not listed.

        Returns
        -------
        bool
            Whether patience has run out.

        Raises
        ------
        BaseException
            What a signal handler raised (KeyboardInterrupt).
        """
        if self.held_out == NULL:
            raise ValueError("judge needs held_out")
        self._claim()
        try:
            self._flush_curve()
            self._take_theta(theta)
            self._begin_call()
            with nogil:
                self._score_epoch()
            self._raise_abandoned()
            if starting:
                self.scores_used = 0
                return False
            self._flush_curve()
            self._count_patience()
            return self.no_improvement_count > self.n_iter_no_change
        finally:
            cbp_unclaim(&self.claim)

    # ---- the epochs, run by every thread in step

    cdef void _work(self, int thread) noexcept nogil:
        cdef ptrdiff_t start, rows = 0
        while True:
            if thread == 0:
                self._begin_batch()
                if not (self.halt or self.one_row):
                    self._begin_piece(0, self.batch_rows)
                self.ended = self.halt
            self._meet()
            # Not halt: an interrupt could set it before a slow thread has read it,
            # which would then leave the others waiting.
            if self.ended:
                return
            if self.one_row and self.watching:
                self._train_one_row()
                continue
            if self.one_row:
                self._train_rows()
                continue
            rows = min(self.batch_size, self.n_rows - self.batch_start)
            start = 0
            while True:
                self._work_piece(thread, start)
                start += self.piece_rows
                if start >= rows or self.abandoned:
                    break
                if thread == 0:
                    self._begin_piece(start, rows)
                self._meet()
            if self.solver < 0:
                continue
            if not self.fused and not self.abandoned:
                self._step_all(thread)
                self._meet()
            if thread == 0 and not self.abandoned:
                self._end_batch(rows)

    cdef void _work_piece(self, int thread, ptrdiff_t start) noexcept nogil:
        """One piece of the batch: propagate, meet, sum and perhaps step, meet."""
        cdef const int64_t *order = self.order + self.batch_start + start
        # Gradient flow is recorded row by row, over all units.
        cdef bint by_units = self.by_units and not self.watching
        if self.sparse is not None and thread == 0:
            self.k.transpose_csr(&self.sparse.csr, order, self.batch_rows,
                                 self.n_features, &self.columns)
        if by_units:
            self._propagate_units(thread, order)
        else:
            self._propagate(thread, order)
        # A thread sums for its own units what it has made itself, and reads delta of
        # the output layer, which it has awaited; but thread 0 makes CSR's columns.
        if not by_units or self.sparse is not None:
            self._meet()
        if not self.abandoned:
            if thread == self.n_threads - 1:  # by units, it has the costs at hand
                self._end_piece()
            self._update(thread)
        self._meet()

    cdef void _train_one_row(self) noexcept nogil:
        """A watched batch of one row, like any other batch."""
        cdef const int64_t *order = self.order + self.batch_start
        self.watching_rows = True
        self._gather(0, order, 0, 1)
        self._forward(0, order, 0, 1)
        self._compute_loss(0, 0, 1)
        self._backward(0, 1)
        self._update(0)
        self._end_piece()
        self._end_batch(1)
        self._poll(6.0 * self.n_weights)

    cdef void _train_rows(self) noexcept nogil:
        """Batches of one row, from the one just begun to the next one that is watched,
        at most as many as a look for signals can wait for."""
        cdef cbp_rows rows
        cdef int64_t first = self.steps - 1
        cdef ptrdiff_t n = 1, most
        cdef int i
        most = <ptrdiff_t>(FLOPS_PER_LOOK / (6.0 * self.n_weights))
        most = max(1, min(<ptrdiff_t>MAX_ROWS, most))
        self.rates[0] = self.step.eta
        while n < most and self.position < self.n_rows:
            if self.weight == NULL or self.k.item(
                self.weight, self.order[self.position]
            ) > 0:
                if self._due():
                    break
                self.steps += 1
                self.rates[n] = self._rate()
                n += 1
            self.position += 1
        rows.layers, rows.n_layers = self.layers, self.n_layers
        rows.solver, rows.loss_kind = self.solver, self.network.loss_code
        rows.step, rows.eta = self.step, self.rates
        rows.master = self.master
        for i in range(self.n_states):
            rows.state[i] = self.states[i]
        rows.X, rows.Y, rows.labels = self.X, self.Y, self.labels
        rows.weight, rows.order = self.weight, self.order + self.batch_start
        rows.n_rows = self.position - self.batch_start
        rows.T, rows.inputs, rows.scratch = self.T, self.A0.data, self.scratch
        rows.block_squares = &self.block_squares[0]
        rows.loss, rows.weights, rows.steps = self.epoch_loss, self.epoch_weights, 0
        self.k.train_rows(&rows)
        self.epoch_loss, self.epoch_weights = rows.loss, rows.weights
        self.epoch_rows += rows.steps
        self.steps = first + rows.steps
        if not isfinite(rows.last_loss):
            self._diverge()
        self._poll(6.0 * self.n_weights * rows.steps)

    cdef void _meet(self) noexcept nogil:
        cbp_barrier_wait(&self.barrier, self.n_threads)

    # ---- what Python calls

    cdef _claim(self):
        """Before each method that uses the buffers; cbp_unclaim behind it."""
        if not cbp_claim(&self.claim):
            raise RuntimeError("this Trainer is at work: neither its own callbacks nor "
                               "another thread may call it meanwhile")

    cdef void _begin_call(self):
        if self.recorder is not None:
            self.recorder.saturated_rows[:] = 0
        self._exception, self.halt, self.abandoned = None, False, False
        self.status, self.last_poll = RUNNING, now()

    cdef _raise_abandoned(self):
        """Raises what made the compiled loop give up, if anything."""
        error, self._exception = self._exception, None
        if error is not None:
            raise error

    cdef _take_theta(self, theta):
        """Panels from other parameters, theta too."""
        theta = np.asarray(theta)
        if theta.shape != self.theta.shape or theta.dtype.kind not in "fiu":
            raise ValueError(f"theta: want {self.network.n_params} numbers, got "
                             f"{theta.dtype} of shape {theta.shape}")
        self.theta[:] = theta
        self._load()

    def __enter__(self):
        """Starts the threads; they sleep between calls and end with the block."""
        self._claim()
        try:
            if self.team is not None:
                raise RuntimeError("the threads of this Trainer have been started")
            self._start_team()
        finally:
            cbp_unclaim(&self.claim)
        return self

    def __exit__(self, kind=None, error=None, traceback=None):
        # Not *exception: where no memory is left there is none for a tuple.
        self._claim()
        try:
            if self.team is None:
                raise RuntimeError("this Trainer was not entered")
            self._end_team()
        finally:
            cbp_unclaim(&self.claim)

    cdef _start_team(self):
        cdef Team team = Team(self)
        self.n_threads = team.start(self.n_threads)
        self.team = team

    cdef _end_team(self):
        cdef Team team = self.team
        self.team = None
        team.end()

    cdef _advance(self):
        """Compiled epochs until one of them has a reason to come back, by all threads
        of the team, or of one for this call."""
        cdef bint own = self.team is None
        if own:
            self._start_team()
        try:
            self._begin_call()
            if self.shuffle_rows:
                generator = self.random_state._bit_generator
                self.bits = <bitgen_t *>PyCapsule_GetPointer(
                    generator.capsule, "BitGenerator"
                )
            if self.shuffle_rows and self.exclusive:
                with generator.lock:
                    self.team.work()
            else:
                self.team.work()
        finally:
            if own:
                self._end_team()
        self._raise_abandoned()

    def run(self, max_iter, on_epoch=None):
        """Trains until patience runs out or max_iter epochs are done.

        Parameters
        ----------
        max_iter : int
        on_epoch : callable(epoch, loss), default=None
            Called after each epoch, theta written back. False stops.

        Returns
        -------
        {"max_iter", "converged", "diverged", "stopped"}

        Raises
        ------
        BaseException
            What a signal handler raised (KeyboardInterrupt), theta written back.
        """
        if self.solver < 0:
            raise ValueError('run needs solver="adam" or "sgd"')
        if not 1 <= max_iter < 2**31:
            raise ValueError(f"max_iter must lie in 1 .. {2**31 - 1}, got {max_iter}")
        if on_epoch is not None and not callable(on_epoch):
            raise ValueError("on_epoch must be callable")
        self._claim()
        try:
            self._run(max_iter, on_epoch)
            if self.status == DIVERGED:
                self.diverged_epoch = self.n_iter + 1
            return STATUS_NAMES[self.status]
        finally:
            cbp_unclaim(&self.claim)

    cdef _run(self, int max_iter, on_epoch):
        cdef bint own = self.team is None
        cdef double loss
        self.max_iter, self.n_iter, self.first_step = max_iter, 0, self.steps
        self.callback = on_epoch is not None
        try:
            if own:
                self._start_team()
            while True:
                self._advance()
                if self.status != EPOCH_DONE:
                    break
                loss = self.curve[self.curve_used - 1]
                self._flush_curve()
                self._store(self.theta_data)
                if on_epoch(self.n_iter, loss) is False:
                    self.status = STOPPED
                    break
                self.halt = False
                self._judge(loss)
                if self.halt:
                    break
        finally:
            if own and self.team is not None:
                self._end_team()
            # First what cannot fail, whatever memory there is.
            self._store(self.theta_data)
            self.optimizer.learning_rate = self.learning_rate
            self.optimizer.steps = self.steps
            self._flush_curve()

    def loss_gradient(self, theta):
        """Mean cost with penalty and its gradient over all rows, for solver "lbfgs".

        Parameters
        ----------
        theta : ndarray of shape (n_params,)

        Returns
        -------
        loss : float
        gradient : float64 ndarray of shape (n_params,)
        """
        self._claim()
        try:
            return self._loss_gradient(theta)
        finally:
            cbp_unclaim(&self.claim)

    cdef _loss_gradient(self, theta):
        cdef double scale
        if self.solver >= 0:
            raise ValueError('loss_gradient needs solver="lbfgs"')
        self._take_theta(theta)
        self.position = 0
        self._advance()
        scale = 1 / self.batch_weights
        if self.watching:
            self._measure_gradient(scale)
        W = self.theta[: self.network.biases_at].astype(np.float64, copy=False)
        gradient = self._flat_gradient().astype(np.float64, copy=False)
        add_penalty(gradient, self.alpha, W, scale)
        loss = self.batch_loss + 0.5 * self.alpha * sum_squares(W)
        return loss * scale, gradient

    def end_iteration(self, iteration, theta, before):
        """Records the gradient flow of the last `loss_gradient` if it was watched.

        Parameters
        ----------
        iteration : int
            Counted from 0.
        theta, before : ndarray of shape (n_params,)
            The parameters after the iteration and before it.
        """
        self._claim()
        try:
            self._end_iteration(iteration, theta, before)
        finally:
            cbp_unclaim(&self.claim)

    cdef _end_iteration(self, iteration, theta, before):
        cdef int l
        if not 0 <= iteration < 2**31 - 1:
            raise ValueError(f"iteration {iteration} is out of range")
        self.iteration = iteration + 1
        if self.solver >= 0 or not self.watching:
            return
        for l in range(self.n_layers):
            _, offset, shape, _ = self.network.segments[l]
            end = offset + shape[0] * shape[1]
            change = np.asarray(theta[offset:end] - before[offset:end], np.float64)
            self.recorder.sums[l, UPDATE_SQUARES] = np.mean(change * change)
        self.recorder.end_epoch(iteration)

    cdef _measure_gradient(self, double scale):
        """Fills the recorder from a gradient of all rows; only the last one is kept."""
        cdef ptrdiff_t P = self.P, number = 0, i, at, n, stride
        cdef int l
        cdef cbp_layer *y
        for l in range(self.n_layers):
            y = &self.layers[l]
            stride = y.WT.stride if y.transposed else y.W.stride
            for i in range(y.n_blocks):
                at = y.W_at + i // y.line_blocks * stride + i % y.line_blocks * P * P
                n = min(P, y.n_lines - i % y.line_blocks * P) * P
                self.recorder.block_gradient[number] = self.k.sum_squares(
                    self.gradient + at * self.size, n
                )
                self.block_squares[number] = self.k.sum_squares(
                    self.master + at * self.size, n
                )
                number += 1
        self.recorder.sums[:, :] = 0
        self.recorder.watched = 0
        self.recorder.end_batch(self.chunk_rows, scale, &self.block_squares[0])

    def backpropagate(self, theta):
        """The four equations as data, from the unfused twins of the kernels.

        Parameters
        ----------
        theta : ndarray of shape (n_params,)

        Returns
        -------
        dict
            "z", "a", "delta": lists of arrays (n_rows, n_out), a layer each, a of the
            output layer included; delta is of one row's cost times its weight. "loss"
            and "gradient": as `loss_gradient` returns them.
        """
        self._claim()
        try:
            return self._backpropagate(theta)
        finally:
            cbp_unclaim(&self.claim)

    cdef _backpropagate(self, theta):
        cdef ptrdiff_t start = 0, rows
        cdef int l
        loss, gradient = self._loss_gradient(theta)
        sizes = self.network.layer_sizes[1:]
        z, a, delta = (
            [np.empty((self.n_rows, n), self.network.dtype) for n in sizes]
            for _ in range(3)
        )
        while start < self.n_rows:
            rows = min(self.n_rows - start, self.piece_rows)
            self._gather(0, self.order + start, 0, rows)
            self._show_forward(start, rows, z, a)
            self._compute_loss(0, 0, rows)
            self._show_delta(self.n_layers - 1, start, rows, delta)
            for l in range(self.n_layers - 1, 0, -1):
                self.k.multiply_delta(
                    self.layers[l].D, self.layers[l].n_out, self.layers[l].WT,
                    self.layers[l - 1].A, self.layers[l - 1].D, self.layers[l].n_in,
                    0, rows, CBP_IDENTITY
                )
                self._derive(&self.layers[l], &self.layers[l - 1], 0, rows)
                self._show_delta(l - 1, start, rows, delta)
            start += rows
        return {"z": z, "a": a, "delta": delta, "loss": loss, "gradient": gradient}

    cdef _show_forward(self, ptrdiff_t start, ptrdiff_t rows, z, a):
        """(1.1) and (1.2) apart, each copied out; the output layer is left with z."""
        cdef int l
        cdef ptrdiff_t q
        cdef cbp_layer *y
        cdef cbp_panels A = self.A0
        for l in range(self.n_layers):
            y = &self.layers[l]
            if l == 0 and self.sparse is not None:
                self.k.multiply_forward_csr(&self.sparse.csr, self.order + start, y.W,
                                            y.b, y.A, y.n_out, 0, rows, CBP_IDENTITY)
            else:
                self.k.multiply_forward(A, y.n_in, y.W, y.b, y.A, y.n_out, 0, rows,
                                        CBP_IDENTITY)
            self._show(y.A, start, rows, z[l])
            if l == self.n_layers - 1:
                self.k.apply_output(y.A, y.n_out, 0, rows, self.network.output_code,
                                    self.scratch)
                self._show(y.A, start, rows, a[l])
                self.k.gather_rows(
                    <const char *>address(z[l]) + start * y.n_out * self.size, y.n_out,
                    NULL, rows, y.n_out, y.A
                )
                return
            for q in range(round_up(y.n_out, self.P) // self.P):
                self.k.activate(<char *>y.A.data + q * y.A.stride * self.size,
                                rows * self.P, y.activation)
            self._show(y.A, start, rows, a[l])
            # Through the copy once more, for the zeros in its padding columns.
            self.k.gather_rows(
                <const char *>address(a[l]) + start * y.n_out * self.size, y.n_out,
                NULL, rows, y.n_out, y.A
            )
            A = y.A

    cdef _show(self, cbp_panels panels, ptrdiff_t start, ptrdiff_t rows, out):
        """Rows of a chunk into their place in an array (n_rows, columns)."""
        cdef ptrdiff_t columns = out.shape[1]
        self.k.scatter_rows(
            panels, rows, columns,
            <char *>writable_address(out) + start * columns * self.size, columns
        )

    cdef _show_delta(self, int l, ptrdiff_t start, ptrdiff_t rows, delta):
        self._show(self.layers[l].D, start, rows, delta[l])

    cdef _flat_gradient(self):
        """The summed gradient in theta's layout."""
        cdef ptrdiff_t P = self.P, w_at = 0, i, p, q, stride
        cdef ptrdiff_t b_at = self.network.biases_at
        cdef int l
        cdef cbp_layer *y
        cdef cbp_panels block
        out = np.empty(self.network.n_params, self.network.dtype)
        cdef char *flat = <char *>writable_address(out)
        block.stride = 0
        for l in range(self.n_layers):
            y = &self.layers[l]
            stride = y.WT.stride if y.transposed else y.W.stride
            for i in range(y.n_blocks):
                q, p = i // y.line_blocks, i % y.line_blocks
                block.data = self.gradient + (
                    y.W_at + q * stride + p * P * P) * self.size
                if y.transposed:
                    self.k.transpose_block(block.data, self.scratch)
                    block.data = self.scratch
                    p, q = q, p
                self.k.scatter_rows(
                    block, min(P, y.n_in - p * P), min(P, y.n_out - q * P),
                    flat + (w_at + p * P * y.n_out + q * P) * self.size, y.n_out
                )
            block.data = self.gradient + y.b_at * self.size
            block.stride = P
            self.k.scatter_rows(block, 1, y.n_out, flat + b_at * self.size, y.n_out)
            w_at += y.n_in * y.n_out
            b_at += y.n_out
        return out


cdef void add_penalty(double[::1] gradient, double alpha, const double[::1] W,
                      double scale) noexcept:
    """gradient = (gradient + alpha W) * scale; biases have no penalty."""
    cdef ptrdiff_t i
    for i in range(W.shape[0]):
        gradient[i] += alpha * W[i]
    for i in range(gradient.shape[0]):
        gradient[i] *= scale


def sum_squares(const double[::1] x not None):
    """Sum of squares in the order of cbp.h."""
    cdef double squares[CBP_CHUNK_ROWS]
    cdef double total = 0
    cdef ptrdiff_t start = 0, i, m
    while start < x.shape[0]:
        m = min(x.shape[0] - start, CHUNK)
        for i in range(m):
            squares[i] = x[start + i] * x[start + i]
        total += sum_in_order(squares, m)
        start += m
    return total


# ---- threads ------------------------------------------------------------------------

# Without the GIL an object that another thread drops last ends when the thread that
# made it next runs Python's own code, which waiting for a lock is not.
_run_python = eval("lambda: None")


@cython.internal
@cython.final
cdef class Seat:
    """The place of one worker: it sits there in C, asleep between calls.

    Who sits cannot fail: until it is dismissed it needs neither Python nor memory. So
    no thread ever waits at the barrier for one that does not come.
    """

    cdef Trainer trainer
    cdef int number
    cdef PyThread_type_lock call   # opened to wake the worker
    cdef PyThread_type_lock done   # opened by it: it sits, has worked, has left
    cdef cbp_claimed taken         # by who sits down, or by who lets nobody sit down
    # Written by the worker before it opens `done`.
    cdef bint sits
    # Written by who waits for it, and read by it after `call` was opened.
    cdef bint asked                # a thread was started that is to sit here
    cdef bint seen                 # it is known whether it sits
    cdef bint closed               # to leave
    cdef object error              # raised by a signal handler in the meantime

    def __cinit__(self, Trainer trainer not None):
        self.trainer = trainer
        self.call, self.done = PyThread_allocate_lock(), PyThread_allocate_lock()
        if self.call == NULL or self.done == NULL:
            raise MemoryError("no memory for the locks of a thread")
        PyThread_acquire_lock(self.call, WAIT_LOCK)
        PyThread_acquire_lock(self.done, WAIT_LOCK)

    def __dealloc__(self):
        if self.call != NULL:
            PyThread_free_lock(self.call)
        if self.done != NULL:
            PyThread_free_lock(self.done)

    cdef void serve(self) noexcept nogil:
        """All that a worker does."""
        cdef int yields
        PyThread_release_lock(self.done)
        while True:
            yields = 0
            while not PyThread_acquire_lock(
                self.call, WAIT_LOCK if yields == YIELDS else NOWAIT_LOCK
            ):
                cbp_yield()
                yields += 1
            if self.closed:
                return
            self.trainer._work(self.number)
            PyThread_release_lock(self.done)

    cdef void wait(self) noexcept:
        with nogil:
            PyThread_acquire_lock(self.done, WAIT_LOCK)

    cdef void look(self) noexcept:
        """Waits until it is known whether the worker sits. If it is not known whether a
        thread was started, one that comes later will not sit down."""
        if not self.seen and (self.asked or not cbp_claim(&self.taken)):
            self.wait_for_word()
        self.seen = True

    cdef void wait_for_word(self) noexcept:
        """Waits for the worker or, if that died, for its ticket to open `done`."""
        cdef bint opened = False
        while not opened:
            with nogil:
                opened = PY_LOCK_ACQUIRED == PyThread_acquire_lock_timed(
                    self.done, MICROSECONDS_PER_LOOK, 0
                )
            if not opened:
                try:
                    _run_python()
                except BaseException as error:
                    self.error = error

    cdef void dismiss(self) noexcept:
        """Returns when the worker has left, or can no longer sit down."""
        self.look()
        if self.sits and not self.closed:
            self.closed = True
            PyThread_release_lock(self.call)
            self.wait()
        self.closed = True


@cython.internal
@cython.final
cdef class Ticket:
    """What a new thread comes with. If it dies before it sits, Python tells nobody;
    but then the ticket dies too, and tells. (Without the GIL it may die late, in the
    thread that waits: see `_run_python`.)"""

    cdef Seat seat

    def __cinit__(self, Seat seat not None):
        self.seat = seat

    def __dealloc__(self):
        if self.seat is not None and not self.seat.sits:
            PyThread_release_lock(self.seat.done)


def _sit(Ticket ticket not None):
    """All that a new thread does."""
    cdef Seat seat = ticket.seat
    if not cbp_claim(&seat.taken):
        return
    seat.sits = True
    with nogil:
        seat.serve()
    # The GIL is given up only when Python has forgotten the thread.
    PyThread_release_lock(seat.done)


@cython.internal
@cython.final
cdef class Team:
    """The threads of a `with trainer` block: asleep while Python runs."""

    cdef Trainer trainer
    cdef list seats
    cdef long process

    def __cinit__(self, Trainer trainer not None):
        self.trainer, self.seats = trainer, []
        self.process = cbp_process()

    cdef int start(self, int n_threads) except -1:
        """Seats them all, or as many as are to be had, or none if that is interrupted.
        How many threads there are then, the caller's included."""
        cdef Seat seat
        asked = []
        try:
            for _ in range(1, n_threads):
                seat = Seat(self.trainer)
                asked.append(seat)
                try:
                    _thread.start_new_thread(_sit, (Ticket(seat),))
                    seat.asked = True
                except RuntimeError:  # no more threads to be had: go on with fewer
                    seat.dismiss()
                    break
            for seat in asked:
                seat.look()
                if seat.error is not None:
                    raise seat.error
                if seat.sits and not seat.closed:
                    self.seats.append(seat)
                    seat.number = len(self.seats)
        except BaseException:
            for seat in asked:
                seat.dismiss()
            for seat in asked:
                if seat.error is not None:
                    raise seat.error
            raise
        return 1 + len(self.seats)

    cdef int work(self) except -1:
        """All threads work until the epochs halt."""
        cdef Seat seat
        if cbp_process() != self.process:
            raise RuntimeError("this process was forked while the Trainer was at work: "
                               "its threads are in the other one")
        for seat in self.seats:
            PyThread_release_lock(seat.call)
        with nogil:
            self.trainer._work(0)
        for seat in self.seats:
            seat.wait()
        return 0

    cdef void end(self) noexcept:
        """Returns when no thread is left."""
        cdef Seat seat
        if cbp_process() == self.process:
            for seat in self.seats:
                seat.closed = True
                PyThread_release_lock(seat.call)
            for seat in self.seats:
                seat.wait()
        self.seats = None


# ---- checks -------------------------------------------------------------------------

cdef double number(x, str name) except? -1:
    """x in C; no NaN, which no comparison would ever find."""
    cdef double value = x
    if isnan(value):
        raise ValueError(f"{name} is not a number")
    return value


cdef int64_t count(x, str name, int64_t least) except? -1:
    """x in C; so far from the greatest integer that no sum reaches that."""
    try:
        x = operator.index(x)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {x!r}") from None
    if not least <= x <= 2**62:
        raise ValueError(f"{name} must lie in {least} .. 2**62, got {x}")
    return x


cdef checked_rows(rows, ptrdiff_t n_samples):
    """Row numbers of X as an array of one's own."""
    rows = np.asarray(rows)
    if rows.size == 0:
        raise ValueError("no rows to train on, or to score")
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(f"rows: want one axis of integers, got {rows.dtype} of shape "
                         f"{rows.shape}")
    rows = np.array(rows, dtype=np.int64)
    if not 0 <= rows.min() <= rows.max() < n_samples:
        raise ValueError("rows beyond X")
    return rows
