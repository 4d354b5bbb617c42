"""One rank of four: plays every scenario and leaves what it saw. `python play.py RANK FOLDER`"""

from __future__ import annotations

import functools
import math
import os
import pickle
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from gradbelt import clip, fasten
from gradbelt.clip.dropin import clip_grad_norm_, clip_grad_value_, get_total_norm
from gradbelt.errors import UsageError
from gradbelt.kernels import clip_units_, read, survey, what_is_bad

RANKS = 4
PATIENCE = 60  # seconds that a rank waits for another
SCENARIOS: dict[str, Callable[[], object]] = {}
RULES = {
    "norm": clip.Norm(0.3),
    "value": clip.Value(0.05),
    "auto": clip.Auto(),
    "schedule": clip.Schedule(((0, 0.5), (2, 0.2))),
    "ladder": clip.Ladder(),
    "ema": clip.Ema(),
    "median": clip.Median(),
    "percentile": clip.Percentile(),
    "zscore": clip.Zscore(),
    "each": clip.Each(0.1),
    "adagc": clip.AdaGC(start=0.3),
    "agc": clip.AGC(0.05, exclude=()),
    "modules": clip.Modules(0.05),
    "groups": clip.Groups({"*.bias": None, "down.*": 0.05, "*": 0.3}),
    "update": clip.Update(1.2),
}


def scenario(play: Callable[[], object]) -> Callable[[], object]:
    SCENARIOS[play.__name__] = play
    return play


class Net(nn.Module):
    """Two layers that tensor parallelism splits, two that it leaves, and a bias of one number: most ranks have none."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 5)
        self.scale, self.head = nn.LayerNorm(5), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.scale(self.down(self.up(x).tanh())))


class Split(Net):
    """Only layers that tensor parallelism splits."""

    def __init__(self) -> None:
        super().__init__()
        del self.scale, self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).tanh())


def batches(count: int = 5) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(8, 6) * size for size in (1.0, 3.0, 0.3, 1.0, 10.0, 1.0)[:count]]


def train(
    net: nn.Module,
    run: nn.Module | None = None,
    *,
    part: int = 0,
    parts: int = 1,
    rule: object = 0.3,
    kind: Callable[..., torch.optim.Optimizer] = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    data: list[Tensor] | None = None,
    meddle: Callable[[int, nn.Module], None] = lambda step, net: None,
) -> dict[str, object]:
    """Trains on this part of every batch; what the belt saw, and what became of the weights."""
    optimizer = kind(net.parameters())
    rows, collectives, before = [], [], []
    # what modules put out is each rank's own, and when it is looked at goes by the clock
    with fasten(net, optimizer, clip=rule, write=rows.append, activations=0.0) as belt:
        for step, batch in enumerate(data or batches()):
            loss = (run or net)(batch.chunk(parts)[part]).square().mean()
            whole = loss.detach().clone()
            dist.all_reduce(whole)
            belt.see(whole / RANKS)
            loss.backward()
            meddle(step, net)
            before.append([local(p).clone() for p in net.parameters()])
            with CommDebugMode() as comm:
                optimizer.step()
            collectives.append(comm.get_total_counts())
            optimizer.zero_grad()
        state = belt.state_dict()
    after = [local(p) for p in net.parameters()]
    return {
        "totals": [row.total for row in rows],
        "after": [row.total_after for row in rows],
        "norms": [dict(zip(row.names, row.norm.tolist(), strict=True)) for row in rows],
        "weights": [None if row.weight is None else row.weight.tolist() for row in rows],
        "actions": [row.action for row in rows],
        "bad": [dict(row.bad) for row in rows],
        "state": state,
        "collectives": collectives,
        "untouched": [all(map(torch.equal, now, then)) for now, then in zip(before, [*before[1:], after], strict=True)],
        "parameters": {name: full(p).tolist() for name, p in net.named_parameters()},
        "empty": [name for name, p in net.named_parameters() if local(p).numel() == 0],
    }


def local(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def rank() -> int:
    return dist.get_rank()


def sharded(net: nn.Module, **options) -> nn.Module:
    for layer in (net.up, net.down):
        fully_shard(layer, **options)
    return fully_shard(net, **options)


def flat():
    return init_device_mesh("cpu", (RANKS,))


def grid():
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))


SPLIT = {"up": ColwiseParallel(), "down": RowwiseParallel()}

# ---------------------------------------------------------------------------------------------------------- layouts


@scenario
def alone():
    """What every layout must come to."""
    return {"net": train(Net()), "split": train(Split())}


@scenario
def ddp():
    net = Net()
    return train(net, DistributedDataParallel(net), part=rank(), parts=RANKS)


@scenario
def fsdp():
    return train(sharded(Net()), part=rank(), parts=RANKS)


@scenario
def hsdp():
    return train(sharded(Net(), mesh=grid()), part=rank(), parts=RANKS)


@scenario
def cpu_offload():
    return train(sharded(Net(), offload_policy=CPUOffloadPolicy(pin_memory=False)), part=rank(), parts=RANKS)


@scenario
def tp():
    """`scale` and `head` stay plain tensors."""
    return train(parallelize_module(Net(), flat(), SPLIT))


@scenario
def fsdp_tp():
    mesh = grid()
    net = parallelize_module(Split(), mesh["tp"], SPLIT)
    return train(sharded(net, mesh=mesh["dp"]), part=mesh.get_local_rank("dp"), parts=2)


@scenario
def fsdp_tp_leftover():
    """`scale` and `head` lie on the meshes of two ranks, the others on that of four."""
    mesh = grid()
    net = parallelize_module(Net(), mesh["tp"], SPLIT)
    return train(sharded(net, mesh=mesh["dp"]), part=mesh.get_local_rank("dp"), parts=2)


@scenario
def two_meshes_and_plain():
    """One layer on a mesh of 4, one on a mesh of 2 x 2, two plain ones whose gradients the script averages."""
    net = Net()
    fully_shard(net.up, mesh=flat())
    fully_shard(net.down, mesh=grid())

    def average(step: int, net: Net) -> None:
        for p in (*net.scale.parameters(), *net.head.parameters()):
            dist.all_reduce(p.grad, op=dist.ReduceOp.AVG if dist.get_backend() == "nccl" else dist.ReduceOp.SUM)
            p.grad /= RANKS

    return train(net, part=rank(), parts=RANKS, meddle=average)


@scenario
def per_dimension():
    """As where a stage of a pipeline lies on two dimensions: no group has just its ranks."""
    with patch("gradbelt.kernels.shards.torch.distributed.get_world_size", lambda: RANKS + 1):
        mesh = grid()
        whole = torch.arange(1.0, 15.0).view(7, 2)
        grads = [distribute_tensor(whole, mesh, placed) for placed in ([Shard(0), Shard(1)], [Replicate(), Shard(0)])]
        with CommDebugMode() as comm:
            norms, _, total = survey(grads)
    return norms.tolist(), total, comm.get_total_counts()


@scenario
def crossing():
    """Gradients on the rows and on the columns of a 2 x 2 mesh: ranks that share one don't share the other."""
    mesh = grid()
    whole = torch.arange(1.0, 15.0).view(7, 2)
    grads = [distribute_tensor(whole, mesh[name], [Shard(0)]) for name in ("tp", "dp")]
    norms, _, total = survey(grads)
    return norms.tolist(), total


@scenario
def stages():
    """Two stages of a pipeline: other parameters, and more of them, on ranks 2 and 3."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "dp"))
    stage = mesh.get_local_rank("pp")
    grads = [distribute_tensor(torch.full((3, 3), 1.0 + stage), mesh["dp"], [Shard(0)]) for _ in range(1 + 2 * stage)]
    return survey(grads)[2]


@scenario
def elsewhere():
    """A gradient on a mesh that this rank may be no part of."""
    from torch.distributed.device_mesh import DeviceMesh

    first = DeviceMesh("cpu", [0, 1])
    grads = [
        distribute_tensor(torch.ones(3, 3), first, [Shard(0)]),
        distribute_tensor(torch.ones(4), flat(), [Shard(0)]),
    ]
    return survey(grads)[2]


@scenario
def any_size():
    """Norms whose squares no float64 holds, and whether a collective more is needed for them."""
    mesh = flat()
    sizes = (1e300, 1e-300, 1e160, 1e-200, 1.0, 0.0)
    grads = [distribute_tensor(torch.full((6,), size), mesh, [Shard(0)]) for size in sizes]
    grads.append(distribute_tensor(torch.full((6,), 1.7e308), mesh, [Shard(0)]))
    with CommDebugMode() as comm:
        norms = read(grads)
    return sizes, norms.tolist(), comm.get_total_counts()


@scenario
def partial():
    try:
        read([DTensor.from_local(torch.ones(2), flat(), [Partial()])])
    except UsageError as error:
        return str(error)


# ------------------------------------------------------------------------------------------------------- bad gradients


def spoil(what: dict[int, float], name: str = "up.weight", at: int = 2) -> Callable[[int, nn.Module], None]:
    def meddle(step: int, net: nn.Module) -> None:
        if step == at and rank() in what:
            local(net.get_parameter(name).grad).view(-1)[0] = what[rank()]

    return meddle


def without(data: list[Tensor], step: int) -> list[Tensor]:
    return [batch for index, batch in enumerate(data) if index != step]


@scenario
def one_shard_is_bad():
    spoilt = {
        "nan": {2: torch.nan},
        "inf": {1: torch.inf},
        "both": {0: torch.nan, 3: torch.inf},
    }
    found = {
        kind: train(sharded(Net()), part=rank(), parts=RANKS, rule="ema", meddle=spoil(what))
        for kind, what in spoilt.items()
    }
    found["never"] = train(sharded(Net()), part=rank(), parts=RANKS, rule="ema", data=without(batches(), 2))
    return found


@scenario
def one_plain_gradient_is_bad():
    """A plain tensor beside sharded ones: only rank 1 sees the nan."""
    net = parallelize_module(Net(), flat(), SPLIT)
    return train(net, meddle=spoil({1: torch.nan}, name="head.weight"))


@scenario
def one_replica_is_bad():
    """A layer outside of tensor parallelism: ranks 0 and 2 have one copy of it, 1 and 3 the other."""
    mesh = grid()
    net = sharded(parallelize_module(Net(), mesh["tp"], SPLIT), mesh=mesh["dp"])
    spoiled = spoil({0: torch.inf}, name="scale.weight")
    return train(net, part=mesh.get_local_rank("dp"), parts=2, meddle=spoiled)


@scenario
def bad_in_some_names():
    mesh = flat()
    grads = [torch.ones(8) for _ in range(3)]
    grads[0][7], grads[2][0], grads[2][7] = torch.inf, torch.nan, torch.inf  # on the last rank, the first, the last
    grads = [distribute_tensor(grad, mesh, [Shard(0)]) for grad in grads]
    return what_is_bad(grads, read(grads))


# ------------------------------------------------------------------------------------------------------------- rules


@scenario
def rules():
    found = {}
    orders = {f"norm, p = {p}": clip.Norm(0.3, p) for p in (1.0, 3.0, math.inf)}
    for name, rule in {**RULES, **orders}.items():
        more = {"rule": rule, "data": batches(6)}
        if name == "update":
            more["kind"] = functools.partial(torch.optim.Adam, lr=0.1, betas=(0.9, 0.99))
        found[name] = (train(sharded(Net()), part=rank(), parts=RANKS, **more), train(Net(), **more))
    return found


@scenario
def agc_split():
    """Rows that lie in pieces: rowwise tensor parallelism, with and without FSDP2 over it."""
    mesh, rule = grid(), clip.AGC(0.05, exclude=())
    both = sharded(parallelize_module(Split(), mesh["tp"], SPLIT), mesh=mesh["dp"])
    return {
        "alone": train(Split(), rule=rule),
        "tp": train(parallelize_module(Split(), flat(), SPLIT), rule=rule),
        "fsdp_tp": train(both, part=mesh.get_local_rank("dp"), parts=2, rule=rule),
    }


@scenario
def agc_one_rank_is_above():
    """Only the rows of rank 3 are above their limit; every rank must come to measure again."""
    mesh = flat()
    weight, grad = torch.ones(8, 2), torch.full((8, 2), 1e-3)
    grad[7] = 5.0
    weight, grad = (distribute_tensor(whole, mesh, [Shard(0)]) for whole in (weight, grad))
    clipped = clip_units_([weight], [grad], 0.5, 1e-3)
    return clipped, grad.full_tensor().tolist()


@scenario
def agc_within():
    """No row is above its limit, though the norms of whole gradients can't rule it out."""
    return train(
        sharded(Net()), part=rank(), parts=RANKS, rule=clip.AGC(1e3, 1e-9, exclude="scale.bias"), data=batches(2)
    )


# ----------------------------------------------------------------------------------------------------------- drop-in


def _gradients(net: nn.Module, part: int = 0, parts: int = 1) -> list[nn.Parameter]:
    net(batches()[1].chunk(parts)[part]).square().mean().backward()
    return list(net.parameters())


@scenario
def drop_in():
    found = {}
    for strict in (True, False):
        params = _gradients(sharded(Net()), rank(), RANKS)
        norm = clip_grad_norm_(params, 0.1, strict=strict)
        dtensor = isinstance(norm, DTensor)
        number = float(norm.full_tensor() if dtensor else norm)
        left = float(torch.cat([p.grad.full_tensor().flatten() for p in params]).norm())
        found[strict] = (dtensor and str(norm.placements), number, left)
    params = _gradients(sharded(Net()), rank(), RANKS)
    theirs = torch.nn.utils.clip_grad_norm_(params, 0.1)
    found["torch"] = (str(theirs.placements), float(theirs.full_tensor()))
    return found


@scenario
def drop_in_on_two_meshes():
    net = Net()
    fully_shard(net.up, mesh=flat())
    fully_shard(net.down, mesh=grid())
    params = _gradients(net)  # the same batch everywhere: plain gradients agree
    refused = ""
    try:
        clip_grad_norm_(params, 0.1)
    except RuntimeError as error:
        refused = " ".join([str(error), *getattr(error, "__notes__", [])])
    orders = (1.0, 3.0, math.inf)
    norms = [float(get_total_norm([p.grad for p in params], order, strict=False)) for order in orders]
    norm = clip_grad_norm_(params, 0.1, strict=False)
    left = float(torch.cat([full(p.grad).flatten() for p in params]).norm())
    clip_grad_value_(params, 0.01)
    highest = max(float(full(p.grad).abs().max()) for p in params)
    grads = [p.grad for p in _gradients(Net())]
    alone = [float(torch.nn.utils.get_total_norm(grads, order)) for order in (2.0, *orders)]
    return refused, [float(norm), *norms], left, highest, alone


@scenario
def drop_in_on_bad_shards():
    found = []
    for order in (1.0, 2.0, math.inf):
        params = _gradients(sharded(Net()), rank(), RANKS)
        if rank() == 2:
            local(params[0].grad)[0] = torch.nan
        found.append(float(clip_grad_norm_(params, 0.1, order, strict=False)))
    return found


def main() -> None:
    me, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # so that layouts may differ by nothing but a mistake
    store = dist.FileStore(str(folder / "store"), RANKS)
    patience = timedelta(seconds=PATIENCE)
    dist.init_process_group("gloo", store=store, rank=me, world_size=RANKS, timeout=patience)
    for name, play in SCENARIOS.items():
        try:
            result = (True, play())
        except Exception:
            result = (False, traceback.format_exc())
        (folder / f"{name}.{me}.tmp").write_bytes(pickle.dumps(result))
        (folder / f"{name}.{me}.tmp").rename(folder / f"{name}.{me}")
        if not result[0]:
            break  # the ranks are no longer at the same place
        dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # a thread of gloo's that still runs would abort an orderly end, now and then


if __name__ == "__main__":
    main()
