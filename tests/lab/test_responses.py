"""Each fault of the lab answers to what mends it, and to nothing that only seems to."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import pytest

from gradbelt.blackbox import load_run
from gradbelt.lab import source
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.starter import Starter
from gradbelt.trials.judge import judge_trial

SLOWER, NEXT_TO_NOTHING = ("lower_lr=0.1", "lower_lr=0.01"), ("skip_step", "precision")
RESPONSES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "activation": (("norm_layer+skip_connection",), ("clip_norm=1.0", *SLOWER, *NEXT_TO_NOTHING, "normalise_input")),
    "attention_logits": (("lsuv",), ("clip_norm=1.0", *SLOWER, *NEXT_TO_NOTHING)),
    "batchnorm_without_skip": (
        ("norm_layer+skip_connection",),
        ("clip_norm=1.0", *SLOWER, *NEXT_TO_NOTHING, "lsuv", "norm_layer"),
    ),
    "data_outlier": (("skip_batch", "skip_spike=10"), (*SLOWER, "precision")),
    "depth": (("he_init+skip_connection",), ("clip_norm=1.0", *SLOWER, *NEXT_TO_NOTHING, "normalise_input")),
    "half_precision": (("precision",), ("clip_norm=1.0", *SLOWER, "normalise_input", "lsuv")),
    "init": (("norm_layer",), (*SLOWER, *NEXT_TO_NOTHING)),
    "inputs_raw": (("normalise_input",), ("clip_norm=1.0", *SLOWER, *NEXT_TO_NOTHING, "lsuv")),
    "learning_rate_adam": (("lower_lr=0.1", "lower_lr=0.01"), (*NEXT_TO_NOTHING, "lsuv", "normalise_input")),
    "learning_rate_regression": (("lower_lr=0.01",), (*NEXT_TO_NOTHING, "lsuv", "normalise_input")),
    "learning_rate_relu": (("lower_lr=0.01",), (*NEXT_TO_NOTHING, "normalise_input")),
    "loss_summed": (("lower_lr=0.01",), (*NEXT_TO_NOTHING, "lsuv", "normalise_input")),
    "masked_row": (("mask_fix",), ("clip_norm=1.0", *SLOWER, "precision", "lsuv")),
    "never_cleared": (("zero_grad",), (*NEXT_TO_NOTHING, "normalise_input")),
    "output_logits": (("orthogonal_init",), NEXT_TO_NOTHING),
    "recurrence": (("gated_rnn",), (*SLOWER, *NEXT_TO_NOTHING, "normalise_input")),
    "residual_scaling": (("residual_scale", "norm_layer"), ("clip_norm=1.0", *SLOWER, *NEXT_TO_NOTHING)),
    "square_root": (("eps_in_op",), ("clip_norm=1.0", *SLOWER, "precision", "normalise_input")),
    "targets_raw": (("normalise_target",), (*NEXT_TO_NOTHING, "normalise_input")),
    "healthy": (("clip_norm=1.0", "lsuv", "norm_layer", "skip_step", "precision", "normalise_input"), ()),
}
"""Fault -> what makes the script learn, and what does not."""

CLASSES = {"attention_logits": 8} | dict.fromkeys(
    ("activation", "batchnorm_without_skip", "depth", "init", "inputs_raw", "learning_rate_adam", "learning_rate_relu",
     "output_logits", "residual_scaling", "healthy"), 4,
)  # fmt: skip
"""Of those that classify: a guess has a loss of ln of so many."""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """outcome(fault, seed, remedies) -> "learning" or another."""
    home = tmp_path_factory.mktemp("lab")
    for name in RESPONSES:
        (home / f"{name}.py").write_text(source(name))

    def planned(name, seed, remedies):
        folder, words = home / f"{name}.{seed}" / (remedies or "none"), ("--seed", str(seed))
        given = (remedies,) if remedies else ()
        return Plan(
            script=str(home / f"{name}.py"), argv=words, folder=str(folder), seed=seed, remedies=given, quiet=True
        )

    starter = Starter(planned("healthy", 0, ""), {"OMP_NUM_THREADS": "1"})

    @functools.cache
    def played(name, seed, remedies):
        plan = planned(name, seed, remedies)
        starter.start(plan).wait()
        guess = math.log(CLASSES[name]) if name in CLASSES else None
        return judge_trial(load_run(Path(plan.folder)), remedies, seconds=0.0, guess=guess).outcome

    yield played
    starter.close()


def cells(name, seed, outcome):
    """(remedies, whether it answered as it should) of everything that is put on a fault."""
    mends, others = RESPONSES[name]
    answers = {remedies: outcome(name, seed, remedies) for remedies in ("", *mends, *others)}
    print(
        f"\n{name:26s} {seed} " + ", ".join(f"{remedies or 'unchanged'} {what}" for remedies, what in answers.items())
    )
    learns = {*mends, ""} if name == "healthy" else set(mends)
    return [(remedies, (what == "learning") == (remedies in learns)) for remedies, what in answers.items()]


@pytest.mark.slow
@pytest.mark.parametrize("name", RESPONSES)
def test_a_fault_answers_to_what_mends_it_and_to_nothing_else(name, outcome):
    assert [remedies for remedies, right in cells(name, 0, outcome) if not right] == []


@pytest.mark.whole
def test_over_four_seeds_it_does_in_nineteen_of_twenty(outcome):
    answers = [(name, seed, *cell) for name in RESPONSES for seed in range(4) for cell in cells(name, seed, outcome)]
    wrong = [answer[:3] for answer in answers if not answer[3]]
    print(f"\n{len(answers)} answers, other than they should be: {wrong}")
    assert len(wrong) <= 0.05 * len(answers)
