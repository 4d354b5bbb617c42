"""What one rank sees, all keep out."""

from __future__ import annotations

import math

import pytest


@pytest.mark.parametrize(("kind", "reason"), [("nan", "nan"), ("inf", "inf"), ("both", "inf")])
def test_one_bad_shard_is_left_out_by_all(played, kind, reason):
    """`both`: a nan on the first rank and an inf on the last, which is what it came from."""
    for found in (answer[kind] for answer in played("one_shard_is_bad")):
        assert found["actions"][2] == f"skip: {reason}"
        assert not any(action.startswith("skip") for action in found["actions"][:2] + found["actions"][3:])
        assert found["bad"][2] == {"up.weight": reason}
        assert found["untouched"] == [False, False, True, False, False]


@pytest.mark.parametrize("kind", ["nan", "inf", "both"])
def test_afterwards_it_is_as_if_it_had_never_been(played, kind):
    for answer in played("one_shard_is_bad"):
        found, never = answer[kind], answer["never"]
        assert found["parameters"] == never["parameters"]
        assert found["totals"][:2] + found["totals"][3:] == never["totals"]
        assert found["after"][:2] + found["after"][3:] == never["after"]
        assert found["state"]["histories"][0]["levels"] == never["state"]["histories"][0]["levels"]


@pytest.mark.parametrize("kind", ["nan", "inf", "both"])
def test_a_bad_step_takes_one_collective_more(played, kind):
    for answer in played("one_shard_is_bad"):
        assert answer[kind]["collectives"] == [1, 1, 2, 1, 1]


@pytest.mark.parametrize(("scenario", "reason"), [("one_plain_gradient_is_bad", "nan"), ("one_replica_is_bad", "inf")])
def test_a_copy_that_is_bad_on_one_rank_only_is_left_out_by_all(played, scenario, reason):
    answers = played(scenario)
    for found in answers:
        assert found["actions"][2] == f"skip: {reason}"
        assert found["untouched"][2]
        assert not math.isfinite(found["totals"][2])
        assert found["totals"][3:] == answers[0]["totals"][3:]
        assert all(map(math.isfinite, found["totals"][3:]))


def test_all_ranks_name_the_same_parameters(played):
    assert played("bad_in_some_names") == [{0: "inf", 2: "inf"}] * 4
