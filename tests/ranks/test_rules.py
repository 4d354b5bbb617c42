"""Every rule does on shards what it does on the whole."""

from __future__ import annotations

import pytest
from tests.ranks.test_layouts import flat

from gradbelt.clip import RULES

pytestmark = pytest.mark.slow

ORDERS = ["norm, p = 1.0", "norm, p = 3.0", "norm, p = inf"]
COLLECTIVES = {
    "value": {1, 2},  # measured again after
    "agc": {1, 3},  # and vectors lie in pieces
    "update": {1, 3},  # the sums over gradients of g^2 / v, for each step that has some
    "norm, p = 1.0": {1, 3},  # the largest, then the powers
    "norm, p = 3.0": {1, 3},
    "norm, p = inf": {1, 2},
}


def test_no_rule_is_left_out(played):
    assert set(played("rules")[0]) == {*RULES, *ORDERS}


@pytest.mark.parametrize("rule", [*RULES, *ORDERS])
def test_a_rule_does_on_shards_what_it_does_on_the_whole(played, rule):
    answers = [answer[rule] for answer in played("rules")]
    for found, alone in answers:
        assert found["actions"] == alone["actions"]
        assert found["totals"] == pytest.approx(alone["totals"], rel=1e-9)
        assert found["after"] == pytest.approx(alone["after"], rel=1e-9)
        assert found["state"] == answers[0][0]["state"]
        assert set(found["collectives"]) <= COLLECTIVES.get(rule, {1})
        for name, numbers in alone["parameters"].items():
            assert flat(found["parameters"][name]) == pytest.approx(flat(numbers), rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("rule", sorted({*RULES, *ORDERS} - {"median"}))
def test_these_runs_are_clipped(played, rule):
    found, _ = played("rules")[0][rule]
    assert set(found["actions"]) != {"keep"}


@pytest.mark.parametrize("layout", ["tp", "fsdp_tp"])
def test_agc_clips_rows_that_lie_in_pieces(played, layout):
    for answer in played("agc_split"):
        found, alone = answer[layout], answer["alone"]
        assert "agc" in alone["actions"]
        assert found["actions"] == alone["actions"]
        assert found["after"] == pytest.approx(alone["after"], rel=1e-9)
        for name, numbers in alone["parameters"].items():
            assert flat(found["parameters"][name]) == pytest.approx(flat(numbers), rel=1e-9, abs=1e-12), name


def test_agc_tells_every_rank_that_one_may_have_scaled(played):
    for clipped, left in played("agc_one_rank_is_above"):
        assert clipped is True
        assert left == [[1e-3, 1e-3]] * 7 + [[0.5, 0.5]]


def test_agc_that_had_nothing_to_scale_on_any_rank_kept_the_step(played):
    for found in played("agc_within"):
        assert set(found["actions"]) == {"keep"}
        assert found["after"] == found["totals"]
