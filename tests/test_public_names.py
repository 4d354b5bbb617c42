"""The public face fits one screen and changes only on purpose."""

from __future__ import annotations

import pytest

import gradbelt


def test_the_public_names_are_these():
    assert gradbelt.__all__ == [
        "Belt", "__version__", "clip", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "errors",
        "fasten", "get_total_norm", "load_run",
    ]  # fmt: skip


def test_every_public_name_can_be_had():
    for name in gradbelt.__all__:
        assert getattr(gradbelt, name) is not None


def test_a_name_that_is_not_there_says_so():
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        gradbelt.nothing_of_the_kind
