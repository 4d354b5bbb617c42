"""gradbelt's clipping beside its peers': what a step costs, and what one nan leaves behind.

    pip install -e '.[peers]'
    python -m benchmarks peers

Each peer does what it does by default, on the same gradients, in one process; they don't compute the same thing, and
the tables say what each one computes. A peer that isn't installed is listed as that.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import gradbelt
from benchmarks.bench_clip import SETS
from benchmarks.table import Table, interleaved, median, milliseconds, ratio

CALM = 120  # steps before the nan: the longest warm-up of them all is 100
SETTLE = 30  # steps before anything is timed
SPIKE = 1e4  # times the usual norm: enough for every clipper to have something to do
ROUNDS = 15
WARM = 3

Step = Callable[[], object]
"""Clips the gradients of the parameters it was made for, in place; the belt answers what it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A clipper: `make` imports it, and hands on a Step for a model and the norm that its gradients have when calm."""

    name: str
    computes: str
    make: Callable[[nn.ParameterList, float], Step]
    package: str = ""  # as pip knows it


class Unmoved(torch.optim.Optimizer):
    """An optimizer that does nothing, for what hooks into one."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 1e-3})

    def step(self, closure: Any = None) -> None:
        """Leaves everything as it is."""


def torchs(model: nn.ParameterList, calm: float) -> Step:
    return lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.2 * calm)


def dropin(model: nn.ParameterList, calm: float) -> Step:
    return lambda: gradbelt.clip_grad_norm_(model.parameters(), 1.2 * calm)


def dropin_safe(model: nn.ParameterList, calm: float) -> Step:
    from gradbelt.clip.dropin import clip_grad_norm_

    return lambda: clip_grad_norm_(model.parameters(), 1.2 * calm, strict=False)


def belted(rule: str | None = None) -> Callable[[nn.ParameterList, float], Step]:
    def make(model: nn.ParameterList, calm: float) -> Step:
        optimizer = Unmoved(model.parameters())
        belt = gradbelt.fasten(None, optimizer, rule or 1.2 * calm)

        def step() -> str:
            optimizer.step()
            assert belt.last is not None
            return belt.last.action

        return step

    return make


def zclip(model: nn.ParameterList, calm: float) -> Step:
    from zclip import ZClip

    clipper = ZClip(max_grad_norm=None)
    return lambda: clipper.step(model)


def autoclip(**how: Any) -> Callable[[nn.ParameterList, float], Step]:
    def make(model: nn.ParameterList, calm: float) -> Step:
        from autoclip.torch import QuantileClip

        return QuantileClip(model.parameters(), quantile=0.9, **how).step

    return make


def smartclip(kind: str, scope: str) -> Callable[[nn.ParameterList, float], Step]:
    def make(model: nn.ParameterList, calm: float) -> Step:
        import smartclip

        clipper = getattr(smartclip, kind)(scope=scope)
        return lambda: smartclip.apply(model, clipper)

    return make


def timm_agc(model: nn.ParameterList, calm: float) -> Step:
    # the file alone: importing timm needs a torchvision built for this torch, and agc.py doesn't
    found = importlib.util.find_spec("timm")
    assert found is not None
    assert found.origin is not None
    spec = importlib.util.spec_from_file_location("timm_agc", Path(found.origin).parent / "utils" / "agc.py")
    assert spec is not None
    assert spec.loader is not None
    agc = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(agc)
    return lambda: agc.adaptive_clip_grad(model.parameters())


def agc_optims(model: nn.ParameterList, calm: float) -> Step:
    from agc_optims.clipper import AGC

    return AGC(Unmoved(model.parameters())).step


class Optax:
    """A jitted optax transform; what it makes of the gradients lies in new arrays, `clipped`."""

    def __init__(self, transform: Callable[[Any, float], Any], model: nn.ParameterList, calm: float) -> None:
        os.environ.setdefault("NPROC", str(torch.get_num_threads()))  # as many threads for XLA as for torch
        import jax
        import optax

        self.jax, self.model = jax, model
        chain = transform(optax, calm)
        self.weights = [jax.numpy.asarray(p.detach().numpy()) for p in model]
        self.state, self.update = chain.init(self.weights), jax.jit(chain.update)
        self.clipped: list[Any] = []

    def ready(self) -> None:
        """Hands the gradients over to jax: called untimed."""
        self.grads = [self.jax.numpy.asarray(p.grad.numpy()) for p in self.model if p.grad is not None]

    def __call__(self) -> None:
        self.clipped, self.state = self.update(self.grads, self.state, self.weights)
        self.jax.block_until_ready(self.clipped)

    def norm(self) -> float:
        """Of what came out."""
        return math.sqrt(sum(float(self.jax.numpy.vdot(x, x)) for x in self.clipped))


def optax(transform: Callable[[Any, float], Any]) -> Callable[[nn.ParameterList, float], Step]:
    return lambda model, calm: Optax(transform, model, calm)


PEERS = (
    Peer(name="torch clip_grad_norm_", package="torch", make=torchs, computes="global L2 at a fixed number"),
    Peer(name="gradbelt drop-in", package="gradbelt", make=dropin, computes="the same"),
    Peer(
        name="gradbelt drop-in, strict=False", package="gradbelt", make=dropin_safe, computes="the same, overflow-safe"
    ),
    Peer(
        name="gradbelt belt, norm",
        package="gradbelt",
        make=belted(),
        computes="the same; with it a norm per tensor, finite check, detectors, step record",
    ),
    Peer(
        name="gradbelt belt, auto", package="gradbelt", make=belted("auto"), computes="quantile of clipped global norms"
    ),
    Peer(
        name="gradbelt belt, zscore", package="gradbelt", make=belted("zscore"), computes="z-score of the global norm"
    ),
    Peer(name="gradbelt belt, adagc", package="gradbelt", make=belted("adagc"), computes="EMA of each tensor's norm"),
    Peer(name="gradbelt belt, agc", package="gradbelt", make=belted("agc"), computes="each row against its weights"),
    Peer(
        name="optax clip_by_global_norm",
        package="optax",
        make=optax(lambda o, calm: o.clip_by_global_norm(1.2 * calm)),
        computes="global L2 at a fixed number; jitted, into new arrays",
    ),
    Peer(
        name="optax the same in apply_if_finite",
        package="optax",
        make=optax(lambda o, calm: o.apply_if_finite(o.clip_by_global_norm(1.2 * calm), max_consecutive_errors=5)),
        computes="the same, all zero where an element is nan or inf",
    ),
    Peer(
        name="optax adaptive_grad_clip",
        package="optax",
        make=optax(lambda o, calm: o.adaptive_grad_clip(0.01)),
        computes="each column (JAX's unit) against its weights; jitted, into new arrays",
    ),
    Peer(name="timm adaptive_clip_grad", package="timm", make=timm_agc, computes="each row against its weights"),
    Peer(name="agc-optims AGC", package="agc-optims", make=agc_optims, computes="each column against its weights"),
    Peer(name="zclip ZClip", package="zclip", make=zclip, computes="z-score of the global norm"),
    Peer(
        name="autoclip QuantileClip, global",
        package="autoclip",
        make=autoclip(global_threshold=True),
        computes="quantile of the global norms",
    ),
    Peer(name="autoclip QuantileClip", package="autoclip", make=autoclip(), computes="quantile of each tensor's norms"),
    Peer(
        name="smartclip AutoClip, global",
        package="smartclip",
        make=smartclip("AutoClip", "global"),
        computes="median and 3 deviations of the global norms",
    ),
    Peer(
        name="smartclip ZScoreClip, per_param",
        package="smartclip",
        make=smartclip("ZScoreClip", "per_param"),
        computes="z-score of each tensor's norm",
    ),
)


def run(device: str) -> list[Table]:
    here = torch.device(device)
    peers = [peer for peer in PEERS if here.type == "cpu" or peer.package != "optax"]
    warnings.filterwarnings("ignore", category=UserWarning)
    return [
        Table(
            title="Peers: what each computes",
            columns=("clipper", "version", "computes"),
            rows=tuple((peer.name, version(peer), peer.computes) for peer in peers),
            note="Not installed: pip install -e '.[peers]'. optax runs where jax has the device, here on CPU only.",
        ),
        *(
            time_of(name, shapes, [peer for peer in peers if version(peer) != ABSENT], here)
            for name, shapes in SETS.items()
        ),
        Table(
            title="Peers: what one nan leaves behind",
            columns=(
                "clipper",
                "calm step",
                "nan step",
                "calm, 1 later",
                "calm, 30 later",
                "spike after",
                "spike, no nan",
            ),
            rows=tuple(after_a_nan(peer) for peer in peers if version(peer) != ABSENT),
            note=(
                f"{CALM} calm steps of five tensors, total norm 10 % up and down; then one element is nan; 30 more "
                "calm steps; then a gradient a thousand times as large. In each cell the norm that the optimizer gets, "
                "over the calm norm: 1 is untouched; left out: it gets none. spike, no nan: without the nan step."
            ),
        ),
    ]


ABSENT = "not installed"


def version(peer: Peer) -> str:
    if peer.package == "gradbelt":
        return gradbelt.__version__
    try:
        return importlib.metadata.version(peer.package)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT


class Gradients:
    """Parameters whose gradients lie in one buffer, filled anew before each step."""

    def __init__(self, shapes: list[tuple[int, ...]], device: torch.device, norm: float | None = None) -> None:
        torch.manual_seed(0)
        self.model = nn.ParameterList([nn.Parameter(0.02 * torch.randn(shape, device=device)) for shape in shapes])
        sizes = [p.numel() for p in self.model]
        self.flat = torch.zeros(sum(sizes), device=device)
        # so small that clipping by rows, at a hundredth of the weights, leaves it alone
        self.source = torch.randn(sum(sizes), device=device) * 1e-6
        if norm is not None:
            self.source *= norm / self.source.norm()
        self.norm = float(self.source.norm())
        self.pieces = [piece.view(p.shape) for p, piece in zip(self.model, self.flat.split(sizes), strict=True)]

    def fill(self, factor: float) -> None:
        for p, piece in zip(self.model, self.pieces, strict=True):
            p.grad = piece
        torch.mul(self.source, factor, out=self.flat)

    def calm(self, step: int) -> None:
        self.fill(1.0 + 0.1 * math.sin(1.7 * step))

    def hand_to(self, step: object) -> None:
        if isinstance(step, Optax):
            step.ready()

    def norm_after(self, step: object) -> float:
        """What the optimizer would get, over the calm norm."""
        return (step.norm() if isinstance(step, Optax) else float(self.flat.norm())) / self.norm


def time_of(name: str, shapes: list[tuple[int, ...]], peers: list[Peer], device: torch.device) -> Table:
    grads = Gradients(shapes, device)
    steps: dict[str, Step] = {}
    for peer in peers:
        steps[peer.name] = peer.make(grads.model, grads.norm)
        for step in range(SETTLE):
            grads.calm(step)
            grads.hand_to(steps[peer.name])
            steps[peer.name]()
    limits: dict[str, Step] = {"read": grads.flat.sum, "read and write": lambda: grads.flat.mul_(0.5)}

    def synchronised(call: Step) -> Step:
        def once() -> None:
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return once

    def timed(factor: float) -> tuple[dict[str, list[float]], dict[str, int]]:
        clipped = dict.fromkeys(steps, 0)

        def fill(key: str) -> None:
            grads.fill(factor)
            grads.hand_to(steps.get(key))

        def look(key: str) -> None:
            if key in steps:
                clipped[key] += not grads.norm_after(steps[key]) > 0.999 * factor

        tasks = {key: synchronised(call) for key, call in {**limits, **steps}.items()}
        return interleaved(tasks, rounds=ROUNDS, warm=WARM, before=fill, after=look), clipped

    keeps, kept = timed(0.95)
    clips, cut = timed(SPIKE)
    read = keeps["read"]
    both = [a + b for a, b in zip(clips["read"], clips["read and write"], strict=True)]
    gigabytes = 4e-9 * grads.flat.numel()
    rounds = WARM + ROUNDS
    rows = [
        ("limit: one read", milliseconds(median(read)), "", "1.00", "0 %", "", "", "", ""),
        ("limit: one read, one read and write", "", "", "", "", milliseconds(median(both)), "", "1.00", "100 %"),
    ]
    for peer in peers:
        calm, spike = keeps[peer.name], clips[peer.name]
        rows.append(
            (
                peer.name,
                milliseconds(median(calm)),
                f"{ratio(calm, keeps['torch clip_grad_norm_']):.2f}",
                f"{ratio(calm, read):.2f}",
                f"{kept[peer.name] / rounds:.0%}",
                milliseconds(median(spike)),
                f"{ratio(spike, clips['torch clip_grad_norm_']):.2f}",
                f"{ratio(spike, both):.2f}",
                f"{cut[peer.name] / rounds:.0%}",
            )
        )
    return Table(
        title=f"Peers: {name}",
        columns=("clipper", "calm", "/ torch", "/ limit", "clipped", "spike", "/ torch", "/ limit", "clipped"),
        rows=tuple(rows),
        note=(
            f"Medians of {ROUNDS} rounds, interleaved, each on gradients filled anew ({grads.flat.numel():,} float32); "
            f"ratios are medians within a round. calm: 0.95 times the usual norm; spike: {SPIKE:,.0f} times. clipped: "
            "in how many of the rounds the norm came out smaller; smartclip and adagc have a warm-up of 100 steps, and "
            f"are timed after {SETTLE}. The limit is x.sum() of these bytes, {gigabytes / median(read):.1f} GB/s; at a "
            "spike x.mul_() besides. The belt's rows hold a whole step of it; after a spike it reads the weights too."
        ),
    )


def after_a_nan(peer: Peer) -> tuple[str, ...]:
    with_nan, without = (course(peer, nan) for nan in (True, False))
    return (peer.name, *with_nan, without[-1])


def course(peer: Peer, nan: bool) -> list[str]:
    """What the optimizer gets at a calm step, at the nan, one and thirty steps later, and at a spike."""
    grads = Gradients([(8, 4), (8,), (4, 8), (4,), (2, 3, 4)], torch.device("cpu"), norm=1e-4)
    step = peer.make(grads.model, grads.norm)

    def taken(factor: float | None = None, *, number: int = 0, broken: bool = False) -> str:
        grads.calm(number) if factor is None else grads.fill(factor)
        if broken:
            grads.flat[3] = math.nan
        grads.hand_to(step)
        did = step()
        if isinstance(did, str) and did.startswith("skip"):
            return "left out"
        norm = grads.norm_after(step)
        return "nan" if math.isnan(norm) else f"{norm:.2g}" if norm < 10 else f"{norm:.0f}"

    for number in range(CALM):
        taken(number=number)
    usual = taken(1.0)
    at_the_nan = taken(1.0, broken=nan)
    later = [taken(1.0) if number in (0, 29) else taken(number=number) for number in range(30)]
    return [usual, at_the_nan, later[0], later[-1], taken(1000.0)]
