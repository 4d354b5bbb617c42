"""Runs and stories made up for tests: deterministic, without torch, without a training script."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from gradbelt._told import tell
from gradbelt._types import (
    ClipAdvice,
    Event,
    Finding,
    Floats,
    Level,
    Origin,
    Outcome,
    Prescription,
    RunRecord,
    StepRecord,
    Story,
    Suspicion,
)

Kind: TypeAlias = Literal["explodes", "healthy", "all_nan", "empty", "one_step"]

LOSS_SITE = "train.py:61"
PARTS = ("attn.qkv.weight", "attn.proj.weight", "mlp.up.weight", "mlp.down.weight")
PATCH = """\
--- a/train.py
+++ b/train.py
@@ -52,7 +52,7 @@
 model = Decoder(width=256, depth=6)
-optimizer = torch.optim.AdamW(model.parameters(), lr=3e-1)
+optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
 scheduler = None
 for step, (x, y) in enumerate(batches):
"""


def make_run(
    kind: Kind = "explodes",
    *,
    steps: int = 60,
    params: int = 8,
    clip: float | None = None,
    folder: Path = Path("runs/20261121-120000-train-a1b2"),
) -> RunRecord:
    """A run of `steps` steps over `params` parameters, the same one at every call.

    "explodes" learns for the first 80 % of the steps, then its gradients grow by a factor a step until, at the last
    step, half of them are nan; the loss after it is nan. "all_nan" is nan from the first step on, "empty" has no step,
    "one_step" has one. With `clip`, total norms above it are scaled down and what is not finite is skipped.

    >>> run = make_run("explodes", steps=20)
    >>> run.num_steps, run.steps[-1].total
    (20, nan)
    """
    steps = {"empty": 0, "one_step": 1}.get(kind, steps)
    rng = np.random.default_rng(0)
    names = _names(params)
    depth = np.linspace(0.0, 1.0, params) if params else np.zeros(0)
    bad_from = _turn(steps)
    rows = []
    for step in range(steps):
        norm = 0.3 * np.exp(-1.2 * depth) * (1 + 3 / (1 + step)) * rng.lognormal(0, 0.25, size=params)
        loss = 0.4 + 1.9 * math.exp(-3 * step / max(steps, 1)) + 0.03 * float(rng.standard_normal())
        if kind == "explodes" and step >= bad_from:
            growth = (step - bad_from + 1) / max(steps - bad_from, 1)
            norm = norm * np.exp(14 * growth * (0.4 + 0.6 * depth))
            loss *= math.exp(6 * growth)
        if kind == "all_nan":
            norm, loss = np.full(params, np.nan), math.nan
        elif kind == "explodes" and step == steps - 1:
            norm = np.where(depth >= 0.5, np.nan, norm)
        rows.append(_row(step, names, norm, loss, clip))
    meta = {
        "schema": 1,
        "gradbelt": "0.1.0",
        "script": "train.py",
        "argv": ["--epochs", "3"],
        "started": "2026-11-21T12:00:00",
        "finished": "2026-11-21T12:00:05",
        "seed": 0,
        "exit_code": 0,
        "environment": {"python": "3.11.7", "torch": "2.13.0", "device": "cpu"},
    }
    events: tuple[Event, ...] = ()
    if kind == "explodes":
        events = (Event(call=steps - 1, step=steps - 1, kind="skip", message="the loss scaler skipped this step"),)
    tail = {LOSS_SITE: math.nan} if kind in ("explodes", "all_nan") else {}
    return RunRecord(folder=folder, meta=meta, steps=tuple(rows), events=events, tail=tail)


def make_story(kind: Kind = "explodes", *, steps: int = 60, trials: bool = True) -> Story:
    """The story of `make_run(kind, steps=steps)`: with causes, trials and prescriptions where it exploded.

    >>> story = make_story(steps=20)
    >>> story.exploded, story.first_warning_step, story.first_bad_step
    (True, 16, 19)
    """
    steps = {"empty": 0, "one_step": 1}.get(kind, steps)
    if kind not in ("explodes", "all_nan"):
        advice = ClipAdvice(
            needed=False, threshold=None, clip_rate=None, why=tell("no total norm was far from the median")
        )
        return Story(
            version="0.1.0", script="train.py", argv=("--epochs", "3"), exploded=False, steps=steps,
            first_warning_step=None, first_bad_step=None, symptoms=(), origin=None, causes=(), trials=(),
            prescriptions=(), clip=advice, reproduced=None, seconds={"watch": 5.1}, exit_code=0,
        )  # fmt: skip
    warning = None if kind == "all_nan" else _turn(steps)
    bad = 0 if kind == "all_nan" else steps - 1
    nan = Finding(
        kind="nan_loss", step=bad, level=Level.ALARM, where=LOSS_SITE, value=math.nan,
        message=tell("step {step}: the loss at {where} is {kind}", step=bad, where=LOSS_SITE, kind="nan"),
    )  # fmt: skip
    explosion = Finding(
        kind="grad_explosion", step=warning or 0, level=Level.WARN, where="blocks.1.mlp.down.weight",
        value=41.5, limit=7.9,
        message=tell(
            "{said}; most of it in {name}", name="blocks.1.mlp.down.weight",
            said=tell(
                "step {step}: gradient norm {value}, {ratio} times its median", step=warning, value="41.5", ratio="52"
            ),
        ),
    )  # fmt: skip
    return Story(
        version="0.1.0", script="train.py", argv=("--epochs", "3"), exploded=True, steps=steps,
        first_warning_step=warning, first_bad_step=bad,
        symptoms=(nan,) if warning is None else (explosion, nan),
        origin=Origin(
            stage="forward", op="log", module="decoder.out", file="train.py", line=42,
            message=tell("log of a number that is not positive"),
        ),
        causes=(
            Suspicion(
                cause="learning_rate", confidence=0.81,
                evidence=(
                    tell("a tenth of the learning rate learns"),
                    tell("the weights grew by a factor of 12 before the first nan"),
                ),
                against=(tell("the first 40 steps learned"),),
            ),
            Suspicion(
                cause="numeric_op", confidence=0.12,
                evidence=(tell("log is applied to an output without a floor"),),
            ),
        ),
        trials=_trials(steps) if trials else (),
        prescriptions=(
            Prescription(
                rank=1, remedies=("lower_lr=0.1",), verified=trials, why=tell("the run learns to the end"), patch=PATCH
            ),
            Prescription(
                rank=2, remedies=("clip_norm=1.0", "warmup=50"), verified=False, why=tell("keeps the updates small")
            ),
        ),
        clip=ClipAdvice(
            needed=True, threshold=1.0, clip_rate=0.04, why=tell("rare norms far above the median carry the explosion")
        ),
        reproduced=True, seconds={"watch": 5.1, "examine": 6.0, "trials": 31.0} if trials else {"watch": 5.1},
        exit_code=0,
    )  # fmt: skip


def _turn(steps: int) -> int:
    """The step at which an exploding run turns."""
    return int(0.8 * steps)


def _names(params: int) -> tuple[str, ...]:
    return tuple(f"blocks.{i // len(PARTS)}.{PARTS[i % len(PARTS)]}" for i in range(params))


def _row(step: int, names: tuple[str, ...], norm: Floats, loss: float, clip: float | None) -> StepRecord:
    total = float(np.sqrt(np.sum(np.square(norm))))
    action, after = "keep", total
    if clip is not None and not math.isfinite(total):
        action, after = "skip: not finite", 0.0
    elif clip is not None and total > clip:
        action, after = "scale", clip
    return StepRecord(
        call=step, step=step, optimizer=0, time=0.02 * step, lr=0.3, total=total, total_after=after, action=action,
        losses={LOSS_SITE: loss}, names=names, norm=norm.astype(np.float32), weight=None,
        bad={name: "nan" for name, value in zip(names, norm, strict=True) if math.isnan(value)}
        if math.isnan(total)
        else {},
    )  # fmt: skip


def _trials(steps: int) -> tuple[Outcome, ...]:
    def falling(start: float, end: float) -> tuple[tuple[int, float], ...]:
        return tuple((step, end + (start - end) * math.exp(-4 * step / max(steps, 1))) for step in range(steps))

    wild = tuple((step, math.nan if step == steps - 1 else 2.3 * math.exp(18 * step / steps)) for step in range(steps))
    return (
        Outcome(remedy="", outcome="nonfinite", steps=steps, loss=math.nan, metric=None, seconds=4.0, curve=wild),
        Outcome(
            remedy="lower_lr=0.1", outcome="learning", steps=steps, loss=0.52, metric=None, seconds=4.1,
            curve=falling(2.3, 0.52),
        ),
        Outcome(
            remedy="clip_norm=1.0", outcome="finite_not_learning", steps=steps, loss=2.26, metric=None, seconds=4.3,
            clip_rate=0.71, curve=falling(2.3, 2.26), note=tell("it stayed finite and learned nothing"),
        ),
        Outcome(
            remedy="warmup=50+clip_norm=1.0", outcome="learning", steps=steps, loss=0.61, metric=None, seconds=4.4,
            clip_rate=0.2, curve=falling(2.4, 0.61),
        ),
    )  # fmt: skip
