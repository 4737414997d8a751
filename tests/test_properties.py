"""Some hundred random configurations; for more call tests/properties.py by hand."""

import numpy as np
import properties
import pytest
from random_cases import NEWER, Case


@pytest.mark.thread_unsafe(reason="hypothesis, and counts of the whole process")
@pytest.mark.parametrize("seed", range(3))
def test_random_configurations_come_to_what_others_say(seed):
    """A hundred in each of three tests, which may run side by side."""
    n = properties.run(100, seed)
    # Each kind of comparison is met often, else the configurations would prove little.
    assert n["gradients"] > 90 and n["trainings"] > 30 and n["scikit-learn"] > 5


@pytest.fixture
def case():
    data = {"seed": 3, "rows": 40, "features": 5, "dtype": np.float64, "zeros": 0.0}
    data |= {"sparse": False, "weights": "uniform" if NEWER else None}
    parameters = {"hidden_layer_sizes": (7,), "activation": "tanh", "solver": "sgd"}
    parameters |= {"alpha": 0.1, "batch_size": 64, "max_iter": 3, "random_state": 5}
    parameters |= {"init": "glorot", "tol": 0.0, "loss": "log_loss", "dropout": 0.0}
    parameters |= {"input_dropout": 0.0, "max_grad_norm": None}
    targets = {"kind": "two", "n": 2, "labels": "str", "sparse_y": False}
    return Case(data, parameters, targets, "fit", "", [])


CHECKS = (
    properties.check_gradient,
    properties.check_training,
    properties.check_scikit_learn,
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("check", CHECKS)
def test_another_answer_is_noticed(case, check):
    model = case.fit()
    properties.seen.clear()
    check(case, model)
    assert properties.seen.total() == 1
    case.parameters["alpha"] = 0.2
    with pytest.raises(AssertionError, match="allowed"):
        check(case, model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", properties.INVARIANTS)
def test_invariants_hold(case, name):
    properties.INVARIANTS[name](case, case.fit())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    ["a_clone_fits_the_same", "threads_change_no_bit", "a_sparse_X_changes_no_bit"],
)
def test_another_bit_is_noticed(case, name):
    model = case.fit()
    model._theta[-1] = 3.0
    with pytest.raises(AssertionError):
        properties.INVARIANTS[name](case, model)


def test_the_command_says_what_it_has_done(capsys):
    properties.main(["--number", "3", "--seed", "1"])
    printed = capsys.readouterr().out
    assert "3 configurations, seed 1" in printed and "gradients 3" in printed
