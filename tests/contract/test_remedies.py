"""What every remedy promises."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gradbelt.errors import NoSuchName, UsageError
from gradbelt.remedies import REMEDIES, parse, parts, spell

NAMES = {
    "clip_norm", "clip_value", "agc", "skip_step", "skip_spike", "zero_nan", "he_init", "xavier_init",
    "orthogonal_init", "lsuv", "norm_layer", "activation_swap", "skip_connection", "residual_scale",
    "gated_rnn", "lower_lr", "warmup", "truncated_bptt", "skip_batch", "impute_data", "normalise_input",
    "normalise_target", "eps_in_op", "mask_fix", "loss_reduction", "loss_scale", "zero_grad", "higher_eps",
    "lower_beta2", "optimizer_defaults", "precision", "qk_norm", "logit_scaling",
}  # fmt: skip


def test_the_names_are_the_fixed_ones():
    assert set(REMEDIES) == NAMES


@pytest.mark.parametrize("name", sorted(REMEDIES))
def test_a_remedy_says_where_it_comes_from_and_what_edit_it_stands_for(name):
    remedy = REMEDIES[name]
    assert remedy.SOURCE
    assert remedy.EDIT
    assert len(inspect.getdoc(remedy) or "") > 60


@pytest.mark.parametrize("name", sorted(REMEDIES))
def test_spelling_and_parsing_are_inverse(name):
    remedy = REMEDIES[name]()
    assert parse(spell(remedy)) == [remedy]


VALUED = sorted(name for name, kind in REMEDIES.items() if hasattr(kind(), "value"))
FLOATS = st.floats(min_value=0.0, exclude_min=True, allow_infinity=False, allow_nan=False)


@example([("clip_norm", 1e30), ("lower_lr", 5e-324)])
@given(st.lists(st.tuples(st.sampled_from(VALUED), FLOATS), min_size=1, max_size=4))
def test_every_number_is_read_back_to_the_last_bit_also_in_a_pair(wanted):
    """Also those whose exponent has a plus of its own."""
    remedies = [REMEDIES[name](value) for name, value in wanted]
    assert parse("+".join(map(spell, remedies))) == remedies
    written = [f"{name}={value!r}" for name, value in wanted]
    assert parts("+".join(written)) == written
    assert parse(" + ".join(written)) == remedies


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clip_norm=1.0+5", "takes a number, got '1.0\\+5'"),
        ("clip_nrom=1.0", "did you mean 'clip_norm'"),
        ("nothing", "there are:"),
        ("clip_norm=abc", "takes a number"),
        ("clip_norm=-1", "above zero"),
        ("skip_step=3", "takes no value"),
    ],
)
def test_a_remedy_that_cannot_be_honoured_says_why(text, said):
    with pytest.raises(UsageError, match=said):
        parse(text)


def test_an_unknown_name_is_its_own_error():
    with pytest.raises(NoSuchName):
        parse("cilp")
