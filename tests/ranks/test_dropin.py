"""`clip_grad_norm_` on DTensors: torch's answer under strict=True, more layouts under strict=False."""

from __future__ import annotations

import math

import pytest


def test_strict_answers_as_torch_does(played):
    for found in played("drop_in"):
        placements, norm, left = found[True]
        assert (placements, norm) == found["torch"]
        assert left == pytest.approx(0.1, rel=1e-5)


def test_not_strict_answers_the_same_number_as_a_plain_tensor(played):
    answers = played("drop_in")
    for found in answers:
        dtensor, norm, left = found[False]
        assert dtensor is False
        assert norm == pytest.approx(found["torch"][1], rel=1e-9)
        assert left == pytest.approx(0.1, rel=1e-9)
    assert len({found[False][1] for found in answers}) == 1


def test_not_strict_takes_several_meshes_and_plain_tensors(played):
    answers = played("drop_in_on_two_meshes")
    for refused, norms, left, highest, alone in answers:
        assert "strict=False" in refused
        assert norms == pytest.approx(alone, rel=1e-9)
        assert left == pytest.approx(0.1, rel=1e-9)
        assert highest == pytest.approx(0.01)
    assert len({tuple(norms) for _, norms, *_ in answers}) == 1


def test_a_nan_on_one_rank_is_in_the_norm_on_all(played):
    for norms in played("drop_in_on_bad_shards"):
        assert not any(map(math.isfinite, norms))
