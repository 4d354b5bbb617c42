"""What a closer look sees, against the oracle."""

import numpy as np
import pytest
import torch
from hypothesis import given
from tests.oracle.test_kernels import REAL, fast, gradients

from gradbelt.kernels import look, oracle, read
from gradbelt.kernels.foreach import CHUNK, ROW, SMALL, numbers
from gradbelt.kernels.reading import extremes_anywhere


def fair(grads):
    """Without duplicate half-precision entries, whose sum is rounded: `read` is tested on those."""
    return [grad for grad in grads if grad.layout is not torch.sparse_coo or grad.is_coalesced()]


@fast
@given(gradients(bad=True))
def test_peaks_and_zeros_are_right_for_every_dtype_layout_and_shape(grads):
    grads = fair(grads)
    seen, every = look(grads, closely=True), [oracle.numbers(grad) for grad in grads]
    assert np.array_equal(seen.norm, read(grads), equal_nan=True)
    assert np.array_equal(seen.peak, [oracle.peak(each) for each in every], equal_nan=True)
    assert seen.zeros.tolist() == pytest.approx([oracle.zeros(each) for each in every])
    assert seen.norm.dtype == seen.peak.dtype == seen.zeros.dtype == np.float64


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("size", [SMALL - 1, SMALL, ROW + 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3])
def test_no_element_of_a_large_tensor_is_passed_over(dtype, size):
    generator = torch.Generator().manual_seed(size)
    x = torch.randint(-3, 4, (size,), generator=generator).to(dtype)
    x[-1] = -7.0
    seen = look([x, x[: size - size % 2].view(2, -1).t()], closely=True)
    half = oracle.numbers(x[: size - size % 2])
    assert seen.peak.tolist() == [7.0, oracle.peak(half)]
    assert seen.zeros.tolist() == pytest.approx([oracle.zeros(oracle.numbers(x)), oracle.zeros(half)], rel=1e-12)
    x[0] = float("nan")
    assert np.isnan(look([x], closely=True).peak[0])


@fast
@given(gradients(bad=True))
def test_on_a_device_without_a_kernel_of_its_own_it_is_the_same(grads):
    for grad in fair(grads):
        each = oracle.numbers(grad)
        peak, num_zeros = extremes_anywhere(numbers(grad)).tolist()
        assert [peak, num_zeros] == pytest.approx([oracle.peak(each), each.count(0.0)], rel=0, abs=0, nan_ok=True)


def test_a_look_that_is_not_close_costs_no_second_read():
    assert look([torch.ones(3)]).peak is None and look([torch.ones(3)]).zeros is None
    nothing = look([], closely=True)
    assert nothing.norm.shape == nothing.peak.shape == nothing.zeros.shape == (0,)


def test_a_gradient_that_carries_a_graph_can_be_looked_at_closely():
    for size in (3, SMALL):
        w = torch.ones(size, requires_grad=True)
        (g,) = torch.autograd.grad((w**3).sum(), w, create_graph=True)
        assert look([g], closely=True).peak.tolist() == [3.0]
