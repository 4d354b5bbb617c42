"""The operation that broke is tried in higher precision, on the numbers that it was given."""

from __future__ import annotations

import pytest
import torch

from gradbelt.examine.follow import Follow

X = torch.full((4,), 300.0)
BREAKS = {
    "a square too large for half": (lambda: X.half() * X.half(), "mul", "float32"),
    "a cast to half": (lambda: (X * X).half(), "to_copy", "float32"),
    "a sum in half": (lambda: X.half().repeat(300).sum(), "sum", "float32"),
    "exp in single": (lambda: torch.exp(X), "exp", "float64"),
    "a pole": (lambda: torch.log(X - X), "log", "none"),
    "a pole in half": (lambda: torch.log((X - X).half()), "log", "none"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_it_says_in_which_precision_it_is_finite(name):
    act, op, finite_in = BREAKS[name]
    with Follow([], list, rehearsing=False) as follow:
        follow.arrived([act()])
    assert (follow.found["op"], follow.found["finite_in"]) == (op, finite_in)


def test_what_draws_random_numbers_is_not_drawn_again():
    """The run goes on with the numbers it would have drawn."""
    mean, std = torch.full((3,), 3e38), torch.full((3,), 3e38)
    torch.manual_seed(0)
    torch.normal(mean, std)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    with Follow([], list, rehearsing=False) as follow:
        follow.arrived([torch.normal(mean, std)])
    assert follow.found["finite_in"] is None
    assert torch.equal(torch.get_rng_state(), state)
