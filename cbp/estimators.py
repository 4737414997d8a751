"""BPClassifier and BPRegressor: their parameters, and what these mean.

The signatures are those of scikit-learn's MLPClassifier and MLPRegressor. The methods
stand in _classifier.py and _regressor.py, and what both share in _base.py. Where the
behaviour differs from scikit-learn's, docs/differences.md says how and why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from cbp._base import BaseBP
from cbp._catalog import LABEL_LOSSES, LOSS_INTERVALS, OUTPUT_OF
from cbp._classifier import Classifier
from cbp._divergence import DivergenceError
from cbp._parameters import Names
from cbp._regressor import Regressor

__all__ = ["BPClassifier", "BPRegressor", "DivergenceError"]


class BPClassifier(Classifier):
    """Multilayer perceptron classifier, trained by compiled backpropagation [1]_.

    Takes the place of :class:`sklearn.neural_network.MLPClassifier`: the same
    `random_state` gives the same weights, up to rounding.

    Parameters
    ----------
    hidden_layer_sizes : int or array-like of int, default=(100,)
        Units of every hidden layer, first to last. An int is one hidden layer; ``()``
        is none, which makes the model a generalised linear one.

    activation : str or sequence of str, default='relu'
        Activation of all hidden layers, or one per hidden layer: 'relu', 'tanh',
        'logistic' (or 'sigmoid', another name of it), 'identity', 'leaky_relu' (0.01 z
        below 0), 'elu' (Clevert et al., 2016), 'selu' (Klambauer et al., 2017),
        'gelu' (Hendrycks and Gimpel, 2016; the exact one, with erf), 'silu' (or
        'swish'; Elfwing et al., 2018), 'mish' (Misra, 2020) or 'softplus', as PyTorch
        has them.

    loss : {'log_loss', 'squared_error'}, default='log_loss'
        'log_loss' is the cross-entropy of softmax outputs, or of logistic outputs for
        two classes and for multilabel targets; `label_smoothing` and `focal_gamma`
        change it. 'squared_error' is half the squared distance between logistic outputs
        and the targets 0 and 1, summed over outputs; for more than two classes there is
        one output per class. If y has several columns of labels, every class of every
        column has an output, 'log_loss' takes a softmax over each column's, and the
        costs of the columns are added.

    solver : {'adam', 'sgd', 'lbfgs'}, default='adam'
        Adam [3]_, stochastic gradient descent, or SciPy's L-BFGS-B [4]_ on all rows at
        once. The other two take `batch_size` rows per step.

    alpha : float, default=0.0001
        Strength of the L2 penalty, in [0, inf): ``alpha / 2`` times the sum of the
        squared weights (not biases), divided by the sum of the sample weights of a
        batch, is added to the loss.

    batch_size : int or 'auto', default='auto'
        Rows per step; 'auto' is ``min(200, n_samples)``. A larger number than there are
        rows is clipped, with a warning.

    learning_rate : str or callable, default='constant'
        What the learning rate follows. SGD's only, Adam ignores them:

        - 'constant': `learning_rate_init`, with Adam, too;
        - 'invscaling': ``learning_rate_init / (t_ + 1) ** power_t``, set after every
          epoch;
        - 'adaptive': `learning_rate_init`, divided by 5 whenever training would stop
          because progress is too small; training stops when it is 1e-6 or less.

        SGD's and Adam's, `learning_rate_init` times a factor that changes with every
        step; p in [0, 1) is the share of `max_iter` epochs that is done:

        - 'cosine': ``(1 + cos(pi p)) / 2`` [5]_;
        - 'linear': ``1 - p``;
        - 'exponential': ``0.01 ** p``;
        - 'one_cycle': up from 1/25 to 1, then down to 1/250,000, both along a half
          cosine [6]_; the rise takes the share `warmup` of training, or 0.3;
        - a callable: ``learning_rate(p)``, a number >= 0, asked before every epoch for
          all of its steps. To be pickled it must be a function of a module, no lambda.

        `partial_fit` does not know p and refuses the latter.

    learning_rate_init : float, default=0.001
        First learning rate of SGD and Adam, in (0, inf).

    power_t : float, default=0.5
        Exponent of the schedule 'invscaling', in [0, inf).

    max_iter : int, default=200
        At most this many epochs (passes over the data), or iterations of L-BFGS.

    shuffle : bool, default=True
        Whether SGD and Adam take the rows in a new random order in every epoch.

    random_state : int, RandomState instance or None, default=None
        Source of the first weights, of the split for early stopping and of the order of
        rows, drawn in this order. An int gives the same model every time, and the same
        draws as scikit-learn's estimator.

    tol : float, default=0.0001
        An epoch is progress if it lowers the best loss, or raises the best validation
        score, by at least this much, in [0, inf). For L-BFGS: training ends when no
        entry of the (projected) gradient is larger.

    verbose : bool or int, default=False
        Whether to print the loss, and the validation score, of every epoch. 2 shows one
        line instead, which is rewritten: epoch, loss, score, samples per second, and
        the time left until `max_iter`. Where `sys.stdout` is neither a terminal nor a
        notebook, that line is written anew at each twentieth of `max_iter` and after
        ten seconds. All other numbers above 0 are as 1, as in scikit-learn.

    warm_start : bool, default=False
        Whether `fit` goes on from the present weights, with a new optimizer. The layers
        must have kept their sizes.

    momentum : float, default=0.9
        Momentum of SGD, in [0, 1].

    nesterovs_momentum : bool, default=True
        Whether SGD's momentum is Nesterov's.

    early_stopping : bool, default=False
        Whether to hold out part of the rows (or take `X_val`), to score the model on
        them after every epoch, to let this score, not the loss, decide when training
        ends, and to keep a copy of the weights that scored best. Works with every
        solver. The split is stratified by class, and every class stays in training. For
        multilabel targets and several columns of labels it is not stratified, and
        training may lack a class. `partial_fit` ignores this setting.

    validation_fraction : float, default=0.1
        Share of the rows held out by early stopping, in (0, 1). At least two rows, and
        one per class, are held out.

    beta_1 : float, default=0.9
        Decay of Adam's mean of gradients, in [0, 1).

    beta_2 : float, default=0.999
        Decay of Adam's mean of squared gradients, in [0, 1).

    epsilon : float, default=1e-8
        Added to the root of Adam's mean of squared gradients, in (0, inf).

    n_iter_no_change : int or inf, default=10
        Patience: training ends after more than this many epochs in a row without
        progress.

    max_fun : int, default=15000
        At most this many evaluations of the loss by L-BFGS.

    n_jobs : int or None, default=None
        Threads that train; None is one, or what ``joblib.parallel_config`` says, -1 all
        cores. The model has the same bits for every number of threads.

    precision : {'float32', 'float64'} or None, default=None
        Type to compute in. None follows X: float32 stays float32, all else is computed
        in float64. A fitted model that is trained further keeps its type under None.

    monitor : bool, default=True
        Whether to record gradient flow, for `diagnose` and `gradient_flow_`. Costs one
        or two percent of the time of a fit of hundreds of batches, and never changes
        the model. If data and weights take less than 1 MB, a copy of the data is kept
        until `diagnose`, a pickle or a deep copy has looked at it, which takes about 10
        milliseconds. Set False for the many small networks of an ensemble.

    weight_decay : float, default=0.0
        Decoupled decay of Adam's and SGD's weights (AdamW, SGDW) [7]_, in [0, inf):
        each step takes the share ``weight_decay`` times the learning rate of the
        schedule from the weights, not from biases, and no gradient knows it. The
        penalty `alpha`, which is part of the gradient, acts besides; 0 turns it off.

    max_grad_norm : float or None, default=None
        The length that the gradient of all weights and biases, penalty included, has
        at most before a step of Adam or SGD; a longer one is shortened. None sets no
        limit.

    warmup : float, default=0.0
        Share of training, in [0, 1), in which the learning rate rises from 0 in
        proportion; times what `learning_rate` follows. Of `max_iter` epochs. Meanwhile
        epochs without improvement are not counted. Not in `partial_fit`.

    average : float, default=0.0
        Decay, in [0, 1), of an exponential mean of the weights over the steps of Adam
        or SGD [8]_. If it is above 0, the mean is what is scored and kept. The first
        steps count more: after n of them it is ``min(average, n / (n + 9))``. Not in
        `partial_fit`.

    init : {'glorot', 'he', 'lecun', 'orthogonal'}, default='glorot'
        How first weights are drawn, for all layers. 'glorot': uniform within
        ``sqrt(f / (n_in + n_out))`` (Glorot and Bengio, 2010), biases, too; f is 6, for
        'logistic' 2, as in scikit-learn, for 'leaky_relu' and 'selu' times PyTorch's
        squared gain. 'he': variance ``2 / n_in`` (He et al., 2015). 'lecun': variance
        ``1 / n_in``, which 'selu' is made for (Klambauer et al., 2017). 'orthogonal':
        orthonormal rows or columns (Saxe et al., 2014). The last three start with
        biases of 0.

    dropout : float or sequence of float, default=0.0
        The rate of dropout of all hidden layers, or one per hidden layer, in [0, 1): at
        each step so many units, drawn at random for each row, are set to 0, and the
        others are divided by ``1 - dropout`` (Srivastava et al., 2014). Rates
        above 0 are rounded to 1, 2, ... or 65535 parts of 65536. Prediction and scores
        of held-out rows use all units; `loss_curve_` does not. Not with lbfgs.

    input_dropout : float, default=0.0
        The same for the columns of X. Not with lbfgs.

    class_weight : dict, list of dicts, 'balanced' or None, default=None
        Weights >= 0 of classes, ``{label: weight}``, by which `sample_weight` is
        multiplied; labels that are missing have weight 1. 'balanced' gives each class
        the same weight in sum: ``n_samples / (n_classes * np.bincount(y))``; not in
        `partial_fit`. For multilabel targets and several columns of labels a list with
        one dict for each column; the weights of a row's labels are multiplied. Rows
        that are held out are weighted, too.

    scoring : str, callable or None, default=None
        What rows that are held out are scored by after every epoch: None is `score`,
        'loss' their mean loss without penalty (negated, so that more is better). A name
        of :func:`sklearn.metrics.get_scorer_names`, or ``scorer(estimator, X, y)``, is
        called from Python after every epoch, with sample_weight if there is one. For
        several columns of labels no name is valid.

    label_smoothing : float, default=0.0
        Share, in [0, 1), of the target that is spread evenly over all classes [9]_: of
        K classes the right one has ``1 - label_smoothing + label_smoothing / K``. A
        logistic output has two. Only with ``loss='log_loss'``, whose least value then
        is above 0.

    focal_gamma : float, default=0.0
        Exponent, in [0, inf), of the focal loss [10]_: the log loss of each class,
        ``-log(p)``, is multiplied by ``(1 - p) ** focal_gamma``, so that rows that are
        clear already count less, and rare classes more. Of smoothed targets each share
        is multiplied. Probabilities are then less extreme than frequencies. Only with
        ``loss='log_loss'``.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,) or list of such
        Labels seen in `fit` or given to `partial_fit`, sorted; for multilabel targets
        the numbers of the columns; for several columns of labels a list with the labels
        of each.

    coefs_ : list of n_layers_ - 1 arrays
        Weights; ``coefs_[i]`` has shape (units of layer i, units of layer i + 1). The
        arrays are views of one vector. They may be changed in place or replaced by
        others of the same shape: the next call uses what it finds.

    intercepts_ : list of n_layers_ - 1 arrays
        Biases; ``intercepts_[i]`` has shape (units of layer i + 1,).

    loss_ : float
        Loss of the last epoch or iteration, penalty included.

    loss_curve_ : list of float
        Loss of every epoch or iteration since the weights were drawn: the mean over
        batches by their sample weight.

    best_loss_ : float or None
        Least loss of all epochs; None with early stopping.

    validation_scores_ : list of float or None
        Score of the held-out rows after every epoch, accuracy unless `scoring` says
        otherwise; None if no rows were held out. NaN where a prediction was not finite,
        and last if training diverged.

    validation_loss_curve_ : list of float or None
        Mean loss of the held-out rows after every epoch, penalty not included; None if
        no rows were held out.

    best_validation_score_ : float or None
        Best of `validation_scores_`; with early stopping the score of the weights that
        were kept.

    best_iter_ : int or None
        Epoch or iteration of the last call after which the score was best, counted from
        1; 0 if that of the weights that training began with was never reached again.
        None if no rows were held out.

    n_iter_ : int
        Epochs or iterations of the last call.

    t_ : int
        Training rows seen by SGD or Adam since the weights were drawn.

    n_layers_ : int
        Layers, input and output included.

    n_outputs_ : int
        Units of the output layer, not columns of y: for several columns of labels one
        for each class of each column.

    out_activation_ : str
        Activation of the output layer: 'softmax' or 'logistic'.

    n_features_in_ : int
        Columns of X seen in `fit`.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of these columns; only if X had names that all are strings.

    gradient_flow_ : GradientFlow
        What the last call recorded of its gradients, or of several short calls of
        `partial_fit` the last that was recorded; only with ``monitor=True``.

    See Also
    --------
    BPRegressor : The same for real-valued targets.
    sklearn.neural_network.MLPClassifier : Model for this class's interface.

    Notes
    -----
    An interrupt (Ctrl-C) during `fit` or `partial_fit` is raised again after the
    weights reached by then have been stored, so the model is usable (if they have
    overflowed, they are not stored). Every other error leaves the model as it was
    before the call.

    After `partial_fit` up to 4 MB of buffers are kept for the next call. During a fit
    the memory in use is the data, at most four times the parameters (SGD:
    three), and the workspace of one batch (its inputs again for each thread); on top
    come a second copy of the parameters in the layout of the kernels, the best weights
    of early stopping, the former model until the call succeeds, at most 4 MiB of
    partial sums for batches of more than 512 rows, and for L-BFGS about 25 vectors of
    SciPy's.

    A pickle holds the optimizer's state only after `partial_fit` or with
    ``warm_start=True``.

    References
    ----------
    .. [1] D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by
       back-propagating errors", Nature 323, 533-536, 1986.
    .. [2] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep
       feedforward neural networks", AISTATS 2010.
    .. [3] D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    .. [4] R. H. Byrd, P. Lu, J. Nocedal, C. Zhu, "A limited memory algorithm for bound
       constrained optimization", SIAM J. Sci. Comput. 16, 1190-1208, 1995.
    .. [5] I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm
       restarts", ICLR 2017.
    .. [6] L. N. Smith, N. Topin, "Super-convergence: very fast training of neural
       networks using large learning rates", SPIE 11006, 2019.
    .. [7] I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019.
    .. [8] B. T. Polyak, A. B. Juditsky, "Acceleration of stochastic approximation by
       averaging", SIAM J. Control Optim. 30, 838-855, 1992.
    .. [9] C. Szegedy et al., "Rethinking the Inception architecture for computer
       vision", CVPR 2016.
    .. [10] T.-Y. Lin et al., "Focal loss for dense object detection", ICCV 2017.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from cbp import BPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(
    ...     StandardScaler(),
    ...     BPClassifier(
    ...         (20, 10),
    ...         ("tanh", "relu"),
    ...         learning_rate_init=0.01,
    ...         max_iter=500,
    ...         random_state=0,
    ...     ),
    ... )
    >>> bool(model.fit(X, y).score(X, y) > 0.95)
    True
    """

    _parameter_constraints: dict = {
        **BaseBP._parameter_constraints,
        "class_weight": [Names(["balanced"]), dict, list, None],
        "loss": [Names(LABEL_LOSSES)],
        "label_smoothing": [LOSS_INTERVALS["label_smoothing"]],
        "focal_gamma": [LOSS_INTERVALS["focal_gamma"]],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str | Sequence[str] = "relu",
        *,
        loss: Literal["log_loss", "squared_error"] = "log_loss",
        solver: Literal["lbfgs", "sgd", "adam"] = "adam",
        alpha: float = 0.0001,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate: str | Callable[[float], float] = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int | float = 10,
        max_fun: int = 15000,
        n_jobs: int | None = None,
        precision: Literal["float32", "float64"] | None = None,
        monitor: bool = True,
        scoring: str | Callable[..., float] | None = None,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = None,
        warmup: float = 0.0,
        average: float = 0.0,
        init: str = "glorot",
        dropout: float | Sequence[float] = 0.0,
        input_dropout: float = 0.0,
        class_weight: dict | list[dict] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
        focal_gamma: float = 0.0,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.loss = loss
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.n_jobs = n_jobs
        self.precision = precision
        self.monitor = monitor
        self.scoring = scoring
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.warmup = warmup
        self.average = average
        self.init = init
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.focal_gamma = focal_gamma


class BPRegressor(Regressor):
    """Multilayer perceptron regressor, trained by compiled backpropagation [1]_.

    Takes the place of :class:`sklearn.neural_network.MLPRegressor`: for one output, the
    same `random_state` gives the same weights, up to rounding. With several outputs the
    squared error is summed over them, in the loss as in its gradient.

    Parameters
    ----------
    loss : str, default='squared_error'
        Summed over outputs. With identity outputs:

        - 'squared_error': half the squared error; its best answer is the mean;
        - 'absolute_error': its best answer is the median;
        - 'huber': the squared error as far as `huber_delta`, from there on the absolute
          one [9]_, which outliers move less;
        - 'quantile': the pinball loss of `quantile` [10]_.

        With exponential outputs, whose best answer is the mean, half a deviance:

        - 'poisson': of counts, y >= 0;
        - 'gamma': of y > 0 whose spread grows with their mean;
        - 'tweedie': of the power `power`, for y >= 0, of which many may be 0 [11]_; for
          y > 0 if ``power=2``.

    hidden_layer_sizes : int or array-like of int, default=(100,)
        Units of every hidden layer, first to last. An int is one hidden layer; ``()``
        is none, which makes the model a generalised linear one.

    activation : str or sequence of str, default='relu'
        Activation of all hidden layers, or one per hidden layer: 'relu', 'tanh',
        'logistic' (or 'sigmoid', another name of it), 'identity', 'leaky_relu' (0.01 z
        below 0), 'elu' (Clevert et al., 2016), 'selu' (Klambauer et al., 2017),
        'gelu' (Hendrycks and Gimpel, 2016; the exact one, with erf), 'silu' (or
        'swish'; Elfwing et al., 2018), 'mish' (Misra, 2020) or 'softplus', as PyTorch
        has them.

    solver : {'adam', 'sgd', 'lbfgs'}, default='adam'
        Adam [3]_, stochastic gradient descent, or SciPy's L-BFGS-B [4]_ on all rows at
        once. The other two take `batch_size` rows per step.

    alpha : float, default=0.0001
        Strength of the L2 penalty, in [0, inf): ``alpha / 2`` times the sum of the
        squared weights (not biases), divided by the sum of the sample weights of a
        batch, is added to the loss.

    batch_size : int or 'auto', default='auto'
        Rows per step; 'auto' is ``min(200, n_samples)``. A larger number than there are
        rows is clipped, with a warning.

    learning_rate : str or callable, default='constant'
        What the learning rate follows. SGD's only, Adam ignores them:

        - 'constant': `learning_rate_init`, with Adam, too;
        - 'invscaling': ``learning_rate_init / (t_ + 1) ** power_t``, set after every
          epoch;
        - 'adaptive': `learning_rate_init`, divided by 5 whenever training would stop
          because progress is too small; training stops when it is 1e-6 or less.

        SGD's and Adam's, `learning_rate_init` times a factor that changes with every
        step; p in [0, 1) is the share of `max_iter` epochs that is done:

        - 'cosine': ``(1 + cos(pi p)) / 2`` [5]_;
        - 'linear': ``1 - p``;
        - 'exponential': ``0.01 ** p``;
        - 'one_cycle': up from 1/25 to 1, then down to 1/250,000, both along a half
          cosine [6]_; the rise takes the share `warmup` of training, or 0.3;
        - a callable: ``learning_rate(p)``, a number >= 0, asked before every epoch for
          all of its steps. To be pickled it must be a function of a module, no lambda.

        `partial_fit` does not know p and refuses the latter.

    learning_rate_init : float, default=0.001
        First learning rate of SGD and Adam, in (0, inf).

    power_t : float, default=0.5
        Exponent of the schedule 'invscaling', in [0, inf).

    max_iter : int, default=200
        At most this many epochs (passes over the data), or iterations of L-BFGS.

    shuffle : bool, default=True
        Whether SGD and Adam take the rows in a new random order in every epoch.

    random_state : int, RandomState instance or None, default=None
        Source of the first weights, of the split for early stopping and of the order of
        rows, drawn in this order. An int gives the same model every time, and the same
        draws as scikit-learn's estimator.

    tol : float, default=0.0001
        An epoch is progress if it lowers the best loss, or raises the best validation
        score, by at least this much, in [0, inf). For L-BFGS: training ends when no
        entry of the (projected) gradient is larger.

    verbose : bool or int, default=False
        Whether to print the loss, and the validation score, of every epoch. 2 shows one
        line instead, which is rewritten: epoch, loss, score, samples per second, and
        the time left until `max_iter`. Where `sys.stdout` is neither a terminal nor a
        notebook, that line is written anew at each twentieth of `max_iter` and after
        ten seconds. All other numbers above 0 are as 1, as in scikit-learn.

    warm_start : bool, default=False
        Whether `fit` goes on from the present weights, with a new optimizer. The layers
        must have kept their sizes.

    momentum : float, default=0.9
        Momentum of SGD, in [0, 1].

    nesterovs_momentum : bool, default=True
        Whether SGD's momentum is Nesterov's.

    early_stopping : bool, default=False
        Whether to hold out part of the rows (or take `X_val`), to score the model on
        them after every epoch, to let this score, not the loss, decide when training
        ends, and to keep a copy of the weights that scored best. Works with every
        solver. `partial_fit` ignores this setting.

    validation_fraction : float, default=0.1
        Share of the rows held out by early stopping, in (0, 1). At least two rows are
        held out.

    beta_1 : float, default=0.9
        Decay of Adam's mean of gradients, in [0, 1).

    beta_2 : float, default=0.999
        Decay of Adam's mean of squared gradients, in [0, 1).

    epsilon : float, default=1e-8
        Added to the root of Adam's mean of squared gradients, in (0, inf).

    n_iter_no_change : int or inf, default=10
        Patience: training ends after more than this many epochs in a row without
        progress.

    max_fun : int, default=15000
        At most this many evaluations of the loss by L-BFGS.

    n_jobs : int or None, default=None
        Threads that train; None is one, or what ``joblib.parallel_config`` says, -1 all
        cores. The model has the same bits for every number of threads.

    precision : {'float32', 'float64'} or None, default=None
        Type to compute in. None follows X: float32 stays float32, all else is computed
        in float64. A fitted model that is trained further keeps its type under None.

    monitor : bool, default=True
        Whether to record gradient flow, for `diagnose` and `gradient_flow_`. Costs one
        or two percent of the time of a fit of hundreds of batches, and never changes
        the model. If data and weights take less than 1 MB, a copy of the data is kept
        until `diagnose`, a pickle or a deep copy has looked at it, which takes about 10
        milliseconds. Set False for the many small networks of an ensemble.

    weight_decay : float, default=0.0
        Decoupled decay of Adam's and SGD's weights (AdamW, SGDW) [7]_, in [0, inf):
        each step takes the share ``weight_decay`` times the learning rate of the
        schedule from the weights, not from biases, and no gradient knows it. The
        penalty `alpha`, which is part of the gradient, acts besides; 0 turns it off.

    max_grad_norm : float or None, default=None
        The length that the gradient of all weights and biases, penalty included, has
        at most before a step of Adam or SGD; a longer one is shortened. None sets no
        limit.

    warmup : float, default=0.0
        Share of training, in [0, 1), in which the learning rate rises from 0 in
        proportion; times what `learning_rate` follows. Of `max_iter` epochs. Meanwhile
        epochs without improvement are not counted. Not in `partial_fit`.

    average : float, default=0.0
        Decay, in [0, 1), of an exponential mean of the weights over the steps of Adam
        or SGD [8]_. If it is above 0, the mean is what is scored and kept. The first
        steps count more: after n of them it is ``min(average, n / (n + 9))``. Not in
        `partial_fit`.

    init : {'glorot', 'he', 'lecun', 'orthogonal'}, default='glorot'
        How first weights are drawn, for all layers. 'glorot': uniform within
        ``sqrt(f / (n_in + n_out))`` (Glorot and Bengio, 2010), biases, too; f is 6, for
        'logistic' 2, as in scikit-learn, for 'leaky_relu' and 'selu' times PyTorch's
        squared gain. 'he': variance ``2 / n_in`` (He et al., 2015). 'lecun': variance
        ``1 / n_in``, which 'selu' is made for (Klambauer et al., 2017). 'orthogonal':
        orthonormal rows or columns (Saxe et al., 2014). The last three start with
        biases of 0.

    dropout : float or sequence of float, default=0.0
        The rate of dropout of all hidden layers, or one per hidden layer, in [0, 1): at
        each step so many units, drawn at random for each row, are set to 0, and the
        others are divided by ``1 - dropout`` (Srivastava et al., 2014). Rates
        above 0 are rounded to 1, 2, ... or 65535 parts of 65536. Prediction and scores
        of held-out rows use all units; `loss_curve_` does not. Not with lbfgs.

    input_dropout : float, default=0.0
        The same for the columns of X. Not with lbfgs.

    scoring : str, callable or None, default=None
        What rows that are held out are scored by after every epoch: None is `score`,
        'loss' their mean loss without penalty (negated, so that more is better). A name
        of :func:`sklearn.metrics.get_scorer_names`, or ``scorer(estimator, X, y)``, is
        called from Python after every epoch, with sample_weight if there is one. For
        several quantiles no name is valid.

    huber_delta : float, default=1.0
        The error, in (0, inf), beyond which ``loss='huber'`` grows in proportion. In
        the units of y.

    quantile : float or sequence of float, default=0.5
        The share of targets, in (0, 1), that ``loss='quantile'`` wants below the
        prediction. An increasing sequence asks for several at once, of one column of
        y: there is an output for each, the loss is summed over them, and `predict`
        sorts them, so that no column is ever above the next one. `score`, and so early
        stopping, is not R2 but :func:`sklearn.metrics.d2_pinball_score`, of several its
        mean.

    power : float, default=1.5
        The power of the mean, in [1, 2], by which the variance of y grows with
        ``loss='tweedie'``: 1 is the Poisson deviance, 2 the gamma deviance, which needs
        y > 0.

    Attributes
    ----------
    coefs_ : list of n_layers_ - 1 arrays
        Weights; ``coefs_[i]`` has shape (units of layer i, units of layer i + 1). The
        arrays are views of one vector. They may be changed in place or replaced by
        others of the same shape: the next call uses what it finds.

    intercepts_ : list of n_layers_ - 1 arrays
        Biases; ``intercepts_[i]`` has shape (units of layer i + 1,).

    loss_ : float
        Loss of the last epoch or iteration, penalty included.

    loss_curve_ : list of float
        Loss of every epoch or iteration since the weights were drawn: the mean over
        batches by their sample weight.

    best_loss_ : float or None
        Least loss of all epochs; None with early stopping.

    validation_scores_ : list of float or None
        Score of the held-out rows after every epoch, R2 (of quantiles D2) unless
        `scoring` says otherwise; None if no rows were held out. NaN where a prediction
        was not finite, and last if training diverged.

    validation_loss_curve_ : list of float or None
        Mean loss of the held-out rows after every epoch, penalty not included; None if
        no rows were held out.

    best_validation_score_ : float or None
        Best of `validation_scores_`; with early stopping the score of the weights that
        were kept.

    best_iter_ : int or None
        Epoch or iteration of the last call after which the score was best, counted from
        1; 0 if that of the weights that training began with was never reached again.
        None if no rows were held out.

    n_iter_ : int
        Epochs or iterations of the last call.

    t_ : int
        Training rows seen by SGD or Adam since the weights were drawn.

    n_layers_ : int
        Layers, input and output included.

    n_outputs_ : int
        Units of the output layer.

    out_activation_ : str
        Activation of the output layer: 'identity', or 'exp' for the losses 'poisson',
        'gamma' and 'tweedie'.

    n_features_in_ : int
        Columns of X seen in `fit`.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of these columns; only if X had names that all are strings.

    gradient_flow_ : GradientFlow
        What the last call recorded of its gradients, or of several short calls of
        `partial_fit` the last that was recorded; only with ``monitor=True``.

    See Also
    --------
    BPClassifier : The same for class labels.
    sklearn.neural_network.MLPRegressor : Model for this class's interface.

    Notes
    -----
    An interrupt (Ctrl-C) during `fit` or `partial_fit` is raised again after the
    weights reached by then have been stored, so the model is usable (if they have
    overflowed, they are not stored). Every other error leaves the model as it was
    before the call.

    After `partial_fit` up to 4 MB of buffers are kept for the next call. During a fit
    the memory in use is the data, at most four times the parameters (SGD:
    three), and the workspace of one batch (its inputs again for each thread); on top
    come a second copy of the parameters in the layout of the kernels, the best weights
    of early stopping, the former model until the call succeeds, at most 4 MiB of
    partial sums for batches of more than 512 rows, and for L-BFGS about 25 vectors of
    SciPy's.

    A pickle holds the optimizer's state only after `partial_fit` or with
    ``warm_start=True``.

    References
    ----------
    .. [1] D. E. Rumelhart, G. E. Hinton, R. J. Williams, "Learning representations by
       back-propagating errors", Nature 323, 533-536, 1986.
    .. [2] X. Glorot, Y. Bengio, "Understanding the difficulty of training deep
       feedforward neural networks", AISTATS 2010.
    .. [3] D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015.
    .. [4] R. H. Byrd, P. Lu, J. Nocedal, C. Zhu, "A limited memory algorithm for bound
       constrained optimization", SIAM J. Sci. Comput. 16, 1190-1208, 1995.
    .. [5] I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm
       restarts", ICLR 2017.
    .. [6] L. N. Smith, N. Topin, "Super-convergence: very fast training of neural
       networks using large learning rates", SPIE 11006, 2019.
    .. [7] I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019.
    .. [8] B. T. Polyak, A. B. Juditsky, "Acceleration of stochastic approximation by
       averaging", SIAM J. Control Optim. 30, 838-855, 1992.
    .. [9] P. J. Huber, "Robust estimation of a location parameter", Ann. Math. Statist.
       35, 73-101, 1964.
    .. [10] R. Koenker, G. Bassett, "Regression quantiles", Econometrica 46, 33-50,
       1978.
    .. [11] B. Jorgensen, "Exponential dispersion models", J. R. Statist. Soc. B 49,
       127-162, 1987.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from cbp import BPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = make_pipeline(
    ...     StandardScaler(),
    ...     BPRegressor(
    ...         hidden_layer_sizes=20, solver="sgd", max_iter=500, random_state=0
    ...     ),
    ... )
    >>> bool(model.fit(X, y).score(X, y) > 0.5)
    True
    """

    _parameter_constraints: dict = {
        **BaseBP._parameter_constraints,
        "loss": [Names(OUTPUT_OF)],
        "huber_delta": [LOSS_INTERVALS["huber_delta"]],
        "quantile": [LOSS_INTERVALS["quantile"], "array-like"],
        "power": [LOSS_INTERVALS["power"]],
    }

    def __init__(
        self,
        loss: Literal[
            "squared_error",
            "absolute_error",
            "huber",
            "quantile",
            "poisson",
            "gamma",
            "tweedie",
        ] = "squared_error",
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str | Sequence[str] = "relu",
        *,
        solver: Literal["lbfgs", "sgd", "adam"] = "adam",
        alpha: float = 0.0001,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate: str | Callable[[float], float] = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int | float = 10,
        max_fun: int = 15000,
        n_jobs: int | None = None,
        precision: Literal["float32", "float64"] | None = None,
        monitor: bool = True,
        scoring: str | Callable[..., float] | None = None,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = None,
        warmup: float = 0.0,
        average: float = 0.0,
        init: str = "glorot",
        dropout: float | Sequence[float] = 0.0,
        input_dropout: float = 0.0,
        huber_delta: float = 1.0,
        quantile: float | Sequence[float] = 0.5,
        power: float = 1.5,
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.n_jobs = n_jobs
        self.precision = precision
        self.monitor = monitor
        self.scoring = scoring
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.warmup = warmup
        self.average = average
        self.init = init
        self.dropout = dropout
        self.input_dropout = input_dropout
        self.huber_delta = huber_delta
        self.quantile = quantile
        self.power = power
