"""Long series drawn short keep what a reader looks for."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gradbelt._types import Activation
from gradbelt.report.series import FINITE, INF, NAN, ZERO, gradients, grid, scales, thin
from gradbelt.testing import make_run

VALUES = st.lists(st.floats(width=32), max_size=400)


@given(VALUES, st.integers(4, 60))
def test_thinning_keeps_the_extremes_the_ends_and_each_kind_of_alarm(values: list[float], most: int) -> None:
    y = np.array(values, dtype=float)
    line = thin(np.arange(y.size), y, most)
    finite = y[np.isfinite(y)]
    assert line.x.size <= most + 2
    assert np.all(np.diff(line.x) > 0)
    assert np.array_equal(y[line.x], line.y)
    if finite.size:
        assert line.y.min() == finite.min()
        assert line.y.max() == finite.max()
        assert {np.flatnonzero(np.isfinite(y))[0], np.flatnonzero(np.isfinite(y))[-1]} <= set(line.x.tolist())
    assert bool(line.nan.size) == bool(np.isnan(y).any())
    assert bool(line.inf.size) == bool(np.isinf(y).any())


def test_one_nan_among_thousands_of_steps_is_a_cell_of_its_own() -> None:
    run = make_run("healthy", steps=3000, params=5)
    row = run.steps[1234]
    norm = row.norm.copy()
    norm[2], norm[3], norm[4] = np.nan, np.inf, 0
    one = [r for r in run.steps if r.step != 1234]
    cells = grid(gradients((*one, dataclasses.replace(row, norm=norm))))
    assert cells.level.shape[0] == 5
    assert cells.level.shape[1] <= 400
    assert np.count_nonzero(cells.code == NAN) == 1
    assert np.count_nonzero(cells.code == INF) == 1
    assert not np.any(cells.code == ZERO)  # the other steps of its column have a norm
    assert np.all(np.isfinite(cells.level) == (cells.code == 0))


def test_two_optimizers_with_parameters_of_their_own_share_the_steps() -> None:
    first, second = make_run("healthy", steps=10, params=2), make_run("healthy", steps=10, params=3)
    renamed = [dataclasses.replace(r, optimizer=1, names=("a", "b", "c")) for r in second.steps]
    cells = grid(gradients((*first.steps, *renamed)))
    assert cells.names == (*first.steps[0].names, "a", "b", "c")
    assert cells.steps.tolist() == list(range(10))
    assert np.all(cells.code == 0)


def test_a_parameter_without_a_gradient_is_a_hole() -> None:
    run = make_run("healthy", steps=4, params=2)
    late = dataclasses.replace(run.steps[2], names=("late",), norm=np.array([1.0], np.float32))
    cells = grid(gradients((run.steps[0], late)))
    assert cells.code[cells.names.index("late")].tolist() == [-1, -1, 0]


def test_activations_stand_in_the_order_in_which_they_ran_at_the_steps_that_were_looked_at() -> None:
    """A column a sampled step, a row a place; what is inf or exactly 0 is marked as with gradients."""
    (row,) = make_run("one_step").steps
    first = (Activation(name="fc", rms=1.0), Activation(name="fc", kind="tanh", rms=0.1))
    later = (Activation(name="fc", rms=math.inf), Activation(name="fc", kind="tanh", rms=0.0))
    steps = [dataclasses.replace(row, step=i, activations={3: first, 50: later}.get(i, ())) for i in range(60)]
    cells = grid(scales(steps)).closed_up()
    assert cells.names == ("fc", "fc tanh") and cells.steps.tolist() == [3, 50]
    assert cells.level[:, 0].tolist() == [0.0, -1.0] and cells.code.tolist() == [[FINITE, INF], [FINITE, ZERO]]
