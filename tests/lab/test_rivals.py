"""What others call sick, re-stated: each speaks where its source says it does, faults included."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradbelt.lab.calibrate.rivals import RIVALS
from gradbelt.symptoms.rows import recorded

RULES = {rival.name: rival.rule for rival in RIVALS}


def spoke(name, losses, norms=None, **known):
    """The steps at which a rule speaks, over losses and norms; norms are 1 where none are given."""
    norms = [1.0] * len(losses) if norms is None else norms
    rows = [recorded(i, loss, norm, **known) for i, (loss, norm) in enumerate(zip(losses, norms, strict=True))]
    return [i for i, word in enumerate(RULES[name](rows, {"layers.0.weight": 100})) if word]


CALM = [1.0 + 0.01 * (i % 7) for i in range(300)]


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("z > 2.5", "SageMaker", "UMLAUT")])
def test_quiet_over_a_loss_and_a_norm_that_stay_where_they_are(name):
    assert not spoke(name, CALM, [0.9 + 0.01 * (i % 5) for i in range(300)])


@pytest.mark.parametrize("name", RULES)
def test_an_answer_for_every_row_and_none_from_the_rows_after_it(name):
    """A rule judges a run while it goes on: what comes later changes nothing of what was said."""
    rng = np.random.default_rng(0)
    losses, norms = rng.lognormal(0, 1, 200).tolist(), rng.lognormal(0, 1, 200).tolist()
    losses[150], norms[170] = math.nan, math.inf
    rows = [recorded(i, *both) for i, both in enumerate(zip(losses, norms, strict=True))]
    whole = list(RULES[name](rows, {}))
    assert len(whole) == len(rows)
    for end in (1, 50, 151, 171):
        assert list(RULES[name](rows[:end], {})) == whole[:end]


@pytest.mark.parametrize(
    "name", [name for name in RULES if name not in ("z > 2.5", "OLMo skip step", "llm-foundry", "trainscope")]
)
def test_a_nan_loss_and_gradient_is_seen_by_all_but_those_whose_comparison_lets_it_through(name):
    assert 200 in spoke(name, [*CALM[:200], math.nan, *CALM[:5]], [1.0] * 200 + [math.nan] + [1.0] * 5)


@pytest.mark.parametrize("name", ["z > 2.5", "llm-foundry", "trainscope"])
def test_and_those_let_it_through(name):
    quiet = spoke(name, CALM[:200])
    assert 200 not in spoke(name, [*CALM[:200], math.nan], [1.0] * 200 + [math.nan])
    assert quiet == spoke(name, CALM[:200])


def test_olmo_skips_129_steps_for_one_nan():
    """The nan stays in its window of 128 until it has moved out."""
    found = spoke("OLMo skip step", [*CALM[:200], math.nan, *CALM[:200]])
    assert found == list(range(200, 329))


def test_olmo_skips_what_stands_six_deviations_above_the_last_128():
    past = CALM[:200]
    mean, spread = np.mean(past[-128:]), np.std(past[-128:], ddof=1)
    assert spoke("OLMo skip step", [*past, mean + 6.1 * spread]) == [200]
    assert spoke("OLMo skip step", [*past, mean + 5.9 * spread]) == []
    assert spoke("OLMo skip step", [1.0, 1e9]) == []  # before it has seen 64


def test_megatron_needs_ten_times_the_largest_of_its_first_hundred():
    past = [12.7, *CALM[:150]]
    assert spoke("Megatron spiky", [*past, 126.0]) == []
    assert spoke("Megatron spiky", [*past, 127.0]) == [151]


def test_lightning_misses_a_language_models_spike_and_any_jump_through_zero():
    assert spoke("Lightning", [2.2] * 50 + [6.0]) == []
    assert spoke("Lightning", [2.2] * 50 + [6.7]) == [50]
    assert spoke("Lightning", [-3.0] * 50 + [2.0]) == []


def test_foundry_counts_four_in_a_row_and_speaks_at_the_fifth():
    assert spoke("llm-foundry", [1.0] * 100 + [2.5] * 4 + [1.0]) == []
    assert spoke("llm-foundry", [1.0] * 100 + [2.5] * 6) == [104, 105]


def test_autotrainer_goes_by_the_first_kernel_over_the_last():
    rows = [recorded(0, 1.0, 71.0, 5.0, 1.0), recorded(1, 1.0, 69.0, 5.0, 1.0), recorded(2, 1.0, 9e-5, 1.0, 1.0)]
    assert list(RULES["AutoTrainer"](rows, {})) == [True, False, True]
    assert list(RULES["AutoTrainer"]([recorded(0, 1.0, 9e-4, 1.0)], {})) == [False]  # small beside the last, not small


def test_sagemaker_wants_a_tenth_of_a_percent_in_ten_steps():
    assert spoke("SageMaker", [0.999 ** (i / 10) * (1 - 1e-6 * i) for i in range(60)]) == []
    assert spoke("SageMaker", [1.0] * 25) == [10, 20]
    assert spoke("SageMaker", [0.9**i for i in range(9)], [2e-6] * 4 + [5e-7] * 5) == [4, 5, 6, 7, 8]


def test_umlaut_goes_by_the_rate_alone():
    assert len(spoke("UMLAUT", CALM, lr=0.1)) == 300
    assert spoke("UMLAUT", CALM, lr=1e-3) == []


def test_zclip_cries_on_plain_noise():
    """As its authors mean it: z > 2.5 is for clipping, not for an alarm."""
    norms = np.random.default_rng(0).lognormal(0, 0.3, 4000).tolist()
    assert 60 < len(spoke("z > 2.5", [1.0] * 4000, norms)) < 300


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=200),
    st.sampled_from([0.125, 8.0, 1024.0]),
    st.sampled_from(["OLMo skip step", "Megatron spiky", "Lightning", "llm-foundry", "10x per layer", "AutoTrainer"]),
)
def test_those_that_go_by_ratios_have_no_unit(values, factor, name):
    """By powers of two, which leave every rounding alone; AutoTrainer's one unit, 1e-4, lies below these norms."""
    scaled = [value * factor for value in values]
    assert spoke(name, values, values) == spoke(name, scaled, scaled)
