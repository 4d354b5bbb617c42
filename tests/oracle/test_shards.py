"""Norms of gradients that lie in pieces on two ranks."""

import os

import pytest
import torch
import torch.distributed as dist

from gradbelt.kernels import oracle

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="no gloo")

BIG = 2e19


def _rank(rank: int, store: str, answers) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    from gradbelt.clip.dropin import clip_grad_norm_
    from gradbelt.errors import UsageError
    from gradbelt.kernels import (
        Moment,
        clamp_,
        clip_units_,
        look,
        read,
        read_p,
        rms_of_updates,
        scale_,
        scale_each_,
    )

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    whole = torch.arange(1.0, 16.0).view(5, 3)  # 5 rows on 2 ranks: uneven
    short = torch.full((1, 4), BIG)  # one row: the second rank's shard is empty
    grads = [
        distribute_tensor(whole, mesh, [Shard(0)]),
        distribute_tensor(whole, mesh, [Replicate()]),
        whole.clone(),
        distribute_tensor(short, mesh, [Shard(0)]),
    ]
    norms = read(grads).tolist()
    rms = rms_of_updates([
        Moment(gradient=g, square=g * 0 + 1.0, most=None, weight=g, decay=0.0, beta2=0.9, eps=1e-8, step=2)
        for g in grads[:3]
    ]).tolist()  # fmt: skip
    orders = [read_p(grads, p).tolist() for p in (0.5, 1.0, 3.0, float("inf"))]
    closely = look(grads, closely=True)
    assert closely.norm.tolist() == norms and closely.peak is None and closely.zeros is None
    scale_(grads, 0.5)
    scaled = read(grads).tolist()
    scale_each_(grads, [0.5, 1.0, 1.0, 0.5])
    each = read(grads).tolist()
    scale_each_(grads, [2.0, 1.0, 1.0, 2.0])
    units = clip_units_([whole, grads[1]], [whole.clone(), grads[1]], 10.0, 1.0)
    try:
        clip_units_([whole], [grads[0]], 0.01, 1e-3)
        unlike = ""
    except UsageError as error:
        unlike = str(error)
    clamp_(grads, 4.0)
    clamped = grads[0].full_tensor().max().item()
    parameter = torch.nn.Parameter(distribute_tensor(torch.zeros(5, 3), mesh, [Shard(0)]))
    parameter.grad = distribute_tensor(torch.arange(1.0, 16.0).view(5, 3), mesh, [Shard(0)])
    clipped = []
    for strict in (True, False):
        before = clip_grad_norm_([parameter], 2.0 if strict else 1.0, strict=strict)
        clipped += [float(before), float(parameter.grad.full_tensor().norm())]
    in_torchs_place = _in_torchs_place(parameter) if hasattr(torch.nn.utils, "get_total_norm") else None
    try:
        partial = grads[0].to_local().new_ones(2)
        from torch.distributed.tensor import DTensor, Partial

        read([DTensor.from_local(partial, mesh, [Partial()])])
        refused = ""
    except UsageError as error:
        refused = str(error)
    if rank == 0:
        answers.put((norms, orders, rms, scaled, each, units, unlike, clamped, clipped, refused, in_torchs_place))
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # a thread of gloo's that still runs would abort an orderly end, now and then


def _in_torchs_place(parameter) -> tuple[list[str], list[float]]:
    """Ours under torch's names: the kinds of norm that came back, and norm and gradient each time."""
    from gradbelt.clip import dropin

    for name in ("clip_grad_norm_", "get_total_norm", "clip_grads_with_norm_"):
        setattr(torch.nn.utils, name, getattr(dropin, name))
        within = name if hasattr(torch.nn.utils.clip_grad, name) else f"_{name}"
        setattr(torch.nn.utils.clip_grad, within, getattr(dropin, name))
    first = torch.nn.utils.clip_grad_norm_([parameter], 0.5)
    halved = float(parameter.grad.full_tensor().norm())
    second = torch.nn.utils.get_total_norm([parameter.grad])
    torch.nn.utils.clip_grads_with_norm_([parameter], 0.25, second)
    again = float(parameter.grad.full_tensor().norm())
    kinds = [type(norm).__name__ for norm in (first, second)]
    return kinds, [float(first.full_tensor()), halved, float(second.full_tensor()), again]


def test_a_sharded_gradient_has_the_norm_of_the_whole(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    torch.multiprocessing.spawn(_rank, (str(tmp_path / "store"), answers), nprocs=2)
    norms, orders, rms, scaled, each, units, unlike, clamped, clipped, refused, in_torchs_place = answers.get()
    whole = torch.arange(1.0, 16.0).norm().item()
    assert norms == pytest.approx([whole, whole, whole, 2 * BIG], rel=1e-6)
    assert rms == pytest.approx(
        [oracle.rms_of_update([*map(float, range(1, 16))], [1.0] * 15, [0.0] * 15, 0.9, 1e-8, 2)] * 3
    )
    for p, got in zip((0.5, 1.0, 3.0, float("inf")), orders, strict=True):
        whole_p = torch.arange(1.0, 16.0).norm(p).item()
        assert got == pytest.approx([whole_p] * 3 + [BIG * 4 ** (1 / p)], rel=1e-6)
    assert scaled == pytest.approx([whole / 2, whole / 2, whole / 2, BIG], rel=1e-6)
    assert each == pytest.approx([whole / 4, whole / 2, whole / 2, BIG / 2], rel=1e-6)
    assert units is False
    assert "clip.Each" in unlike
    assert clamped == 4.0
    assert clipped == pytest.approx([whole, 2.0, 2.0, 1.0], rel=1e-5)
    assert "redistribute" in refused
    if in_torchs_place is not None:  # a DTensor in gives a DTensor back, and doesn't send us round in a circle
        kinds, numbers = in_torchs_place
        assert kinds == ["DTensor", "DTensor"]
        assert numbers == pytest.approx([1.0, 0.5, 0.5, 0.25], rel=1e-5)
