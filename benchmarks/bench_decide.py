"""What every clipping rule costs the host at each step: its decision, and its notes.

    python -m benchmarks decide

400 parameters named as a transformer's, lognormal norms. Rules see numbers only, so there is no tensor and no device
here; what a rule reads beyond the measurement (AGC, other norms than L2, Update) is not in these times.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np

from benchmarks.table import Table, median
from gradbelt import clip
from gradbelt._types import History, Scale
from gradbelt.belt.decide import decide, note, with_notes
from gradbelt.belt.derive import learn
from gradbelt.clip.rule import measured

PARTS = ("attn.qkv", "attn.proj", "mlp.up", "mlp.down")
NAMES = tuple(f"blocks.{i}.{part}.{kind}" for i in range(50) for part in PARTS for kind in ("weight", "bias"))
STEPS, WARM = 400, 220  # past the first hundred accepted steps, and until every window is full
RULES = (
    "norm:1", "norm:1,1", "norm:1,inf", "value:0.5", "schedule:0,1,9,2", "auto", "ladder", "ema", "median",
    "percentile", "zscore", "each:1", "each:0.05,1", "adagc", "modules:1", "modules:0.2,2", "agc", "update",
    "groups:*.attn.*=0.5;*=auto", "groups:*.attn.*=adagc;*=median", "groups:*.attn.*=norm:1,1;*=none",
)  # fmt: skip


def run(device: str) -> list[Table]:
    del device
    rows = []
    for name in RULES:
        deciding, noting = timed(name)
        rows.append((name, *(f"{seconds * 1e6:.0f} us" for seconds in (deciding, noting, deciding + noting))))
    return [
        Table(
            title=f"A rule's own time a step, {len(NAMES)} parameters",
            columns=("rule", "decide", "note", "both"),
            rows=tuple(rows),
            note=f"Medians over steps {WARM} to {STEPS}.",
        )
    ]


def timed(name: str) -> tuple[float, float]:
    """Median seconds of a decision and of its notes."""
    rule, history = clip.from_string(name), History()
    rng = np.random.default_rng(0)
    deciding, noting = [], []
    for step in range(STEPS):
        norms = 1.5 * rng.lognormal(0.0, 0.3, len(NAMES)) / math.sqrt(len(NAMES))
        seen = replace(measured(*norms.tolist()), names=NAMES, step=step)
        start = time.perf_counter()
        action = decide(seen, history, rule, guard=True)
        decided = time.perf_counter()
        notes = note(seen, history, rule, action)
        noted = time.perf_counter()
        left = seen.total * (action.coefficient if isinstance(action, Scale) else 1.0)
        history = with_notes(learn(history, seen, action, left), notes)
        if step >= WARM:
            deciding.append(decided - start)
            noting.append(noted - decided)
    return median(deciding), median(noting)
