"""A run on four ranks is the run on one: the same numbers on every rank, whatever lies where."""

from __future__ import annotations

import math

import pytest

LAYOUTS = {
    "ddp": 0,
    "fsdp": 1,
    "hsdp": 1,
    "cpu_offload": 1,
    "tp": 1,
    "fsdp_tp": 1,
    "fsdp_tp_leftover": 2,  # a mesh of four ranks, and for the layers beside it two of two
    "two_meshes_and_plain": 1,
}
"""Scenario -> collectives that the belt makes in a step."""

SEEN = ("totals", "after", "norms", "weights", "actions", "bad", "state", "collectives")


def reference(played, layout):
    return played("alone")[0]["split" if layout == "fsdp_tp" else "net"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_rank_sees_the_same_to_the_bit(played, layout):
    first, *others = played(layout)
    for other in others:
        for what in SEEN:
            assert other[what] == first[what], what


@pytest.mark.parametrize("layout", LAYOUTS)
def test_norms_and_clipped_weights_are_those_of_a_run_on_one_rank(played, layout):
    alone, found = reference(played, layout), played(layout)[0]
    assert found["totals"] == pytest.approx(alone["totals"], rel=1e-9)
    assert found["after"] == pytest.approx(alone["after"], rel=1e-9)
    assert found["actions"] == alone["actions"]
    assert "scale" in found["actions"]
    for mine, norms in zip(found["norms"], alone["norms"], strict=True):
        assert mine == pytest.approx(norms, rel=1e-6)  # rows are float32
    for name, numbers in alone["parameters"].items():
        assert flat(found["parameters"][name]) == pytest.approx(flat(numbers), rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_takes_one_collective_for_each_set_of_ranks(played, layout):
    found = played(layout)[0]
    assert any(weights is not None for weights in found["weights"])  # sampled weights go along
    assert found["collectives"] == [LAYOUTS[layout]] * len(found["totals"])


def test_shards_are_empty_on_some_ranks(played):
    assert [len(found["empty"]) for found in played("fsdp")] == [0, 2, 2, 6]


def test_where_no_group_has_just_the_ranks_of_a_mesh_its_dimensions_are_added_up_in_turn(played):
    whole = math.sqrt(sum(x * x for x in range(1, 15)))
    answers = played("per_dimension")
    for norms, total, collectives in answers:
        assert norms == pytest.approx([whole, whole], rel=1e-12)
        assert total == pytest.approx(whole * math.sqrt(2), rel=1e-12)
        assert collectives == 2
    assert len({repr(answer) for answer in answers}) == 1


def test_meshes_that_cross_do_not_wait_for_each_other_in_a_circle(played):
    whole = math.sqrt(sum(x * x for x in range(1, 15)))
    answers = played("crossing")
    assert answers[0] == (pytest.approx([whole, whole], rel=1e-12), pytest.approx(whole * math.sqrt(2), rel=1e-12))
    assert answers == [answers[0]] * 4


def test_stages_of_a_pipeline_may_hold_different_parameters(played):
    assert played("stages") == pytest.approx([3.0, 3.0, math.sqrt(3 * 36), math.sqrt(3 * 36)])


def test_a_gradient_on_other_ranks_counts_on_all(played):
    answers = played("elsewhere")
    assert answers == [pytest.approx(math.sqrt(9 + 4))] * 4
    assert len(set(answers)) == 1


def test_no_square_overflows_or_vanishes_on_its_way_and_no_collective_is_added(played):
    for sizes, norms, collectives in played("any_size"):
        assert norms[:-1] == pytest.approx([size * math.sqrt(6) for size in sizes], rel=1e-12, abs=0.0)
        assert 1.7e308 < norms[-1] < math.inf  # no float64 holds the norm; it is finite all the same
        assert collectives == 1


def test_partial_gradients_are_refused_on_every_rank(played):
    for said in played("partial"):
        assert "redistribute" in said


def flat(numbers):
    return [x for row in numbers for x in row] if isinstance(numbers[0], list) else numbers
