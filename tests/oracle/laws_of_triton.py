"""What the Triton kernel promises, held against the oracle; run by test_triton.py. The interpreter takes 10 ms a
program, so tensors are few and small."""

from __future__ import annotations

import math
import os
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tests.oracle.test_kernels import REAL, gradients, tolerance

from gradbelt import kernels
from gradbelt.errors import UsageError
from gradbelt.kernels import gpu, oracle

kernel = pytest.importorskip("gradbelt.kernels.triton", reason="Triton is not installed", exc_type=ImportError)
BLOCK, CHUNK, PARTS, survey = kernel.BLOCK, kernel.CHUNK, kernel.PARTS, kernel.survey

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of what tl.where leaves out


def agree(got: Any, tensors: list[torch.Tensor]) -> None:
    for index, tensor in enumerate(tensors):
        numbers = oracle.numbers(tensor.cpu())
        near = {"rel": tolerance([tensor]), "abs": 0.0, "nan_ok": True}
        assert got.norm[index].item() == pytest.approx(oracle.norm(numbers), **near)
        assert got.peak[index].item() == pytest.approx(oracle.peak(numbers), rel=0.0, abs=0.0, nan_ok=True)
        assert got.zeros[index].item() == pytest.approx(oracle.zeros(numbers), rel=1e-15)
        assert got.nan[index].item() == any(map(math.isnan, numbers))
        assert got.inf[index].item() == any(map(math.isinf, numbers))


def away(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.to(DEVICE) for tensor in tensors]


def fair(tensor: torch.Tensor) -> bool:
    """Not what the interpreter takes for 0, bfloat16 below 1e-38, nor duplicates whose sum each device rounds anew."""
    if tensor.layout is torch.sparse_coo and not tensor.is_coalesced():
        return False
    below = torch.finfo(torch.bfloat16).smallest_normal
    small = tensor.dtype is torch.bfloat16 and any(0.0 < abs(x) < below for x in oracle.numbers(tensor))
    return not (INTERPRETED and small)


@settings(max_examples=40, deadline=None)
@given(gradients(bad=True))
def test_every_dtype_layout_and_size_in_one_survey(grads):
    grads = [grad for grad in grads if fair(grad)]
    agree(survey(away(grads)), grads)


@pytest.mark.parametrize("dtype", REAL)
def test_blocks_and_chunks_end_where_they_should(dtype):
    sizes = [BLOCK - 1, BLOCK, BLOCK + 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + BLOCK + 3]
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, generator=generator).to(dtype) for size in sizes]
    for tensor in tensors:
        tensor[-1], tensor[0] = 9.0, 0.0
    agree(survey(away(tensors)), tensors)


def test_more_chunks_than_are_added_up_at_a_time():
    num_chunks = PARTS + 5
    owner = torch.zeros(1, dtype=torch.float16, device=DEVICE)
    parts = torch.ones((5, num_chunks), dtype=torch.float64, device=DEVICE)
    rows = torch.empty((5, 1), dtype=torch.float64, device=DEVICE)
    table, _ = kernel._table((owner.data_ptr(),), (num_chunks * CHUNK,), (0,), 2, rows.device, 0)
    up_and_down = {name: kernel.RANGES[kernel.tl.float32][name] for name in ("DOWN", "UP")}
    parts[0] = parts[2] = 0.0
    kernel._tensors[(1,)](table, parts, rows, num_chunks, 1, 1, LARGEST=1e308, PARTS=PARTS, **up_and_down)
    assert rows[:3, 0].tolist() == [math.sqrt(num_chunks), 1.0, 1.0 / CHUNK]


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(torch.float32, 2e19), (torch.float32, 3e38), (torch.float32, 1e-25), (torch.float32, 1e-44),
     (torch.float16, 6e4), (torch.float16, 6e-8), (torch.bfloat16, 1e38), (torch.bfloat16, 1e-37),
     (torch.float64, 2e200), (torch.float64, 1.7e308), (torch.float64, 1e-200), (torch.float64, 5e-324)],
)  # fmt: skip
def test_no_square_overflows_or_vanishes(dtype, value):
    alone = torch.full((BLOCK + 5,), value, dtype=dtype)
    mixed = torch.cat([alone[:4], torch.ones(3, dtype=dtype), torch.zeros(2, dtype=dtype)])
    got = survey(away([alone, mixed]))
    want = [min(norm, sys.float_info.max) for norm in oracle.read([alone, mixed])]  # as `read` has it
    assert got.norm.tolist() == pytest.approx(want, rel=1e-6, abs=0.0)
    assert got.peak.tolist() == [alone[0].item(), max(alone[0].item(), 1.0)]
    assert not got.inf.any() and not got.nan.any()


def test_storage_that_begins_anywhere_and_dtypes_by_turns():
    whole = torch.randn(BLOCK + 50, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    tensors = [whole.to(dtype)[skip:] for skip in (1, 3) for dtype in REAL]
    tensors += [whole[:12].view(3, 4).t()[::2], whole[:24].view(2, 3, 2, 2).to(memory_format=torch.channels_last)]
    agree(survey(tensors), tensors)


def test_what_lay_there_before_is_not_remembered():
    """Where tensors lie is kept from call to call, what is in them is not."""
    tensor = torch.ones(5, device=DEVICE)
    assert survey([tensor]).norm.item() == pytest.approx(math.sqrt(5))
    tensor.mul_(2.0)
    assert survey([tensor]).norm.item() == pytest.approx(math.sqrt(20))
    assert survey([tensor[:4]]).norm.item() == pytest.approx(4.0)


def test_the_same_numbers_give_the_same_bits_whatever_lies_beside_them():
    a, b = (torch.randn(CHUNK + 77, generator=torch.Generator().manual_seed(seed)).to(DEVICE) for seed in (2, 3))
    first, again, other = survey([a, b]), survey([a, b]), survey([b.clone(), b[:3], a.clone()])
    assert torch.equal(first.rows, again.rows)
    assert torch.equal(first.rows, other.rows[:, [2, 0]])


def test_nothing_and_next_to_nothing():
    assert survey([]).rows.shape == (5, 0)
    assert survey([torch.zeros(0, device=DEVICE), torch.zeros((), device=DEVICE)]).rows.tolist() == [
        [0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]
    ]  # fmt: skip


def test_more_numbers_than_32_bits_can_count():
    """No chunk lies past the end of a tensor of 20 GB, nor at an address that was cut short."""
    size, base = 5 * 2**30 + 3, 0x7F00_0000_0000
    table, num_chunks = kernel._table((base,), (size,), (0,), 4, torch.device("cpu"), 0)
    addresses, counts = table[:num_chunks], table[num_chunks : 2 * num_chunks]
    assert int(counts.sum()) == size and int(counts[-1]) == 3
    assert torch.equal(addresses, base + torch.arange(num_chunks) * CHUNK * 4)


def test_several_devices_are_refused_with_what_to_do():
    with pytest.raises(UsageError, match="once for each"):
        survey([torch.ones(2), torch.ones(2, device="meta")])
    with pytest.raises(UsageError, match="float16, bfloat16"):
        survey([torch.ones(2, dtype=torch.int32)])


# ------------------------------------------------------------------------------------------------- through kernels.read


@pytest.fixture
def used(monkeypatch):
    """Calls of the kernel by `read` and `look`, which take it for where these tensors lie."""
    calls = []

    def counted(tensors):
        calls.append(len(tensors))
        return survey(tensors)

    monkeypatch.setattr(gpu, "DEVICE", DEVICE)
    monkeypatch.setattr(gpu, "_without", False)
    monkeypatch.setattr(kernel, "survey", counted)
    return calls


def test_read_and_look_go_through_the_kernel(used):
    grads = away([torch.randn(7), torch.randn(3, 5).double(), torch.tensor([0.0, math.nan]), torch.full((2,), 2e19)])
    assert kernels.read(grads) == pytest.approx(oracle.read([g.cpu() for g in grads]), rel=1e-6, nan_ok=True)
    seen = kernels.look(grads)
    assert used == [4, 4]
    assert seen.peak[2:] == pytest.approx([math.nan, 2e19], nan_ok=True) and seen.zeros.tolist() == [0.0, 0.0, 0.5, 0.0]
    assert seen.norm.dtype == seen.peak.dtype == np.float64


def test_a_kernel_that_fails_is_tried_once_and_nobody_notices(used, monkeypatch, recwarn, capfd):
    tries = []

    def broken(tensors):
        tries.append(len(tensors))
        raise RuntimeError("no ptxas")

    monkeypatch.setattr(kernel, "survey", broken)
    grads = away([torch.full((4,), 3.0)])
    assert kernels.read(grads).tolist() == kernels.look(grads, closely=True).norm.tolist() == [6.0]
    assert tries == [1]
    assert not recwarn.list and capfd.readouterr() == ("", "")


def test_a_gradient_that_cannot_be_read_does_not_count_as_a_broken_kernel(used):
    with pytest.raises(UsageError):
        kernels.read(away([torch.ones(2, dtype=torch.int32)]))
    kernels.read(away([torch.ones(2)]))
    assert used == [1]
