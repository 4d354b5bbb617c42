"""The loss of a constant answer, against what it is in theory, over the ways a script makes a loss of torch's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from gradbelt.examine.functions import Functions
from gradbelt.examine.guess import SURE, Guesses
from gradbelt.testing import make_run
from gradbelt.trials.judge import judge_trial

ROWS, CLASSES = 400, 5
X = torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(0), requires_grad=True)
LABEL = torch.arange(ROWS) % CLASSES
PARTS = (X.detach() > 0).float()
VALUES = 3.0 + 2.0 * torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(1))
ALLOWED = 1 + SURE * math.sqrt(2 / (ROWS - 1))


class Notebook:
    looking = True

    def __init__(self):
        self.guesses = Guesses()

    def note(self, name, value):
        pass

    fact = note


def guess(make):
    """What is known of a loss that `make` makes, called as a script calls it."""
    notes = Notebook()
    functions = Functions(notes, lambda act, *args: act(*args))
    functions.put_on()
    try:
        loss = make()
    finally:
        functions.take_off()
    return notes.guesses.of(loss)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: functional.cross_entropy(X, LABEL), math.log(CLASSES)),
        (lambda: nn.CrossEntropyLoss(reduction="sum")(X, LABEL), ROWS * math.log(CLASSES)),
        (lambda: functional.cross_entropy(input=X, target=LABEL, label_smoothing=0.1), math.log(CLASSES)),
        (lambda: nn.CrossEntropyLoss(ignore_index=0)(X, LABEL), math.log(CLASSES)),
        (lambda: nn.NLLLoss()(X.log_softmax(1), LABEL), math.log(CLASSES)),
        (lambda: nn.BCEWithLogitsLoss()(X, PARTS), math.log(2)),
        (lambda: nn.BCELoss()(X.sigmoid(), PARTS), math.log(2)),
        (lambda: functional.mse_loss(X, VALUES), VALUES.var(0, correction=0).mean().item() * ALLOWED),
        (lambda: functional.l1_loss(X, VALUES), (VALUES - VALUES.mean(0)).abs().mean().item() * ALLOWED),
        (lambda: functional.cross_entropy(X, LABEL) / 8, math.log(CLASSES) / 8),
        (lambda: 0.5 * functional.cross_entropy(X, LABEL), math.log(CLASSES) / 2),
        (lambda: sum(functional.cross_entropy(X[i::4], LABEL[i::4]) for i in range(4)) / 4, math.log(CLASSES)),
        (lambda: functional.cross_entropy(X, LABEL) + nn.BCEWithLogitsLoss()(X, PARTS), math.log(2 * CLASSES)),
    ],
    ids=range(13),
)
def test_a_constant_answer_has_the_loss_it_has_in_theory(make, expected):
    assert guess(make) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: (X - VALUES).square().mean(),
        lambda: functional.cross_entropy(X, LABEL) + 1e-4 * X.square().sum(),
        lambda: functional.cross_entropy(X, LABEL, reduction="none").mean(),
        lambda: functional.cross_entropy(X, LABEL) * X.sum(),
        lambda: functional.mse_loss(X[:1], VALUES[:1]),
    ],
    ids=["by hand", "with another part", "row by row", "times another", "one row"],
)
def test_of_a_loss_that_is_not_torchs_alone_nothing_is_said(make):
    assert guess(make) is None


def test_a_run_that_ends_no_lower_than_a_guess_has_not_learnt_wherever_it_began():
    record = make_run("healthy")
    end = judge_trial(record, "clip_norm=1.0", seconds=1.0).loss

    def judged(guess):
        outcome = judge_trial(record, "clip_norm=1.0", seconds=1.0, guess=guess)
        return outcome.outcome, "same to everything" in outcome.note

    assert judged(None) == judged(1.1 * end) == ("learning", False)
    assert judged(0.9 * end) == judged(end) == ("finite_not_learning", True)
