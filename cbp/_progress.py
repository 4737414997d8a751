"""What a training run has reached: weights, counters, losses, scores.

A run begins with a fresh `Progress` or with that of the model it goes on from, keeps it
up to date, and shows it to those who listen after every epoch. The fitted attributes
that count something are made of it, in one function. Nothing is trained here. Imports
nothing of the package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """One record of what a run has reached.

    Attributes
    ----------
    theta : ndarray of shape (n_params,)
        The weights of the last epoch or iteration.
    best_theta : ndarray or None
        With early stopping those of the best score.
    n_iter : int
        Epochs or iterations of this run.
    t : int
        Rows seen by a stochastic solver since the weights were drawn.
    loss, best_loss : float
        Of the last epoch, and the least of all epochs.
    loss_curve, validation_scores : list of float
        One number per epoch since the weights were drawn, earlier runs included.
    scored : bool
        Whether early stopping scores the weights in this run.
    best_score : float or None
        The best validation score.
    no_improvement_count : int
        Epochs in a row without progress.
    optimizer : Optimizer or None
    outcome : str
        How training ended, as `FitSummary` has it.
    former_losses, former_scores : int
        How many losses and scores are those of earlier runs.
    """

    theta: Any = None
    best_theta: Any = None
    n_iter: int = 0
    t: int = 0
    loss: float = math.inf
    best_loss: float = math.inf
    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] = field(default_factory=list)
    scored: bool = False
    best_score: float | None = None
    no_improvement_count: int = 0
    optimizer: Any = None
    outcome: str = "interrupted"
    former_losses: int = 0
    former_scores: int = 0

    @classmethod
    def of_fitted(cls, fitted: Any, theta: Any, optimizer: Any) -> Progress:
        """Where the run of a fitted model goes on from, with copies of the lists.

        Parameters
        ----------
        fitted : Fitted
        theta : ndarray of shape (n_params,)
            The weights, to be trained in place.
        optimizer : Optimizer or None
            The state to go on with, if there is one that fits the network.
        """
        best_loss = fitted.get("best_loss_")
        curve = list(fitted.get("loss_curve_", []))
        scores = list(fitted.get("validation_scores_") or [])
        return cls(
            theta=theta,
            t=fitted.get("t_", 0),
            best_loss=math.inf if best_loss is None else best_loss,
            loss_curve=curve,
            validation_scores=scores,
            best_score=fitted.get("best_validation_score_"),
            no_improvement_count=fitted.get("_no_improvement_count", 0),
            optimizer=optimizer,
            former_losses=len(curve),
            former_scores=len(scores),
        )

    @property
    def chosen_theta(self) -> Any:
        """The weights to keep: with early stopping those of the best score."""
        has_scores = len(self.validation_scores) > self.former_scores
        return self.best_theta if self.scored and has_scores else self.theta

    def take(self, trainer: Any) -> None:
        """Take over what the trainer of a stochastic solver has counted."""
        self.n_iter = trainer.n_iter
        self.t = trainer.t
        self.loss_curve[self.former_losses :] = trainer.loss_curve
        self.loss = self.loss_curve[-1] if self.loss_curve else math.inf
        self.best_loss = trainer.best_loss
        self.optimizer = trainer.optimizer
        self.take_scores(trainer)

    def take_scores(self, trainer: Any) -> None:
        """Take over the validation scores and the patience that is left."""
        self.no_improvement_count = trainer.no_improvement_count
        if self.scored:
            self.validation_scores[self.former_scores :] = trainer.validation_scores
            self.best_score = trainer.best_score
            self.best_theta = trainer.best_theta

    def attributes(self, keeps_scores: bool) -> dict[str, Any]:
        """The fitted attributes that are made of this record.

        Parameters
        ----------
        keeps_scores : bool
            Whether the scores of an earlier run stay, if this one has none.
        """
        kept = self.scored or (keeps_scores and self.best_score is not None)
        return {
            "n_iter_": self.n_iter,
            "t_": self.t,
            "loss_": self.loss,
            "loss_curve_": self.loss_curve,
            "best_loss_": None if self.scored else self.best_loss,
            "validation_scores_": self.validation_scores if kept else None,
            "best_validation_score_": self.best_score if kept else None,
            "_no_improvement_count": self.no_improvement_count,
            "_optimizer": self.optimizer,
        }
