"""Signals, History -> Parts: where in the model a jump of the gradient lies, and in which words that is said."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from gradbelt._told import tell
from gradbelt._types import Finding, History, Parts, Signals
from gradbelt.belt.trend import AWAY, left_first

MOST = 3  # parts that are named
LEAST = 0.01  # a smaller share is not worth a name


def attribute(signals: Signals, history: History) -> Parts | None:
    """The parts that hold most of what the squared norm gained over its usual level, and those that left it first.

    None where no parameter is known yet, or all are within their past. Of a gradient that is not finite only those
    that had left before are known: what broke is in `bad`, and a share of inf is none.
    """
    first, since = left_first(history.layers)
    if not math.isfinite(signals.total):
        return Parts(first=first, since=since) if first else None
    if not first:
        away = np.flatnonzero(signals.apart > AWAY)
        ranked = away[np.argsort(-signals.apart[away], kind="stable")][:MOST].tolist()
        first, since = tuple(signals.names[i] for i in ranked), signals.step
    if not first:
        return None
    gain = np.maximum(np.square(signals.norm.astype(np.float64)) - np.square(np.nan_to_num(signals.usual)), 0.0)
    total = float(gain.sum())
    if not total > 0:
        return Parts(first=first, since=since)
    shares = dict(zip(signals.names, (gain / total).tolist(), strict=True))
    modules: dict[str, float] = {}
    for name, share in shares.items():
        module = name.rpartition(".")[0] or name
        modules[module] = modules.get(module, 0.0) + share
    return Parts(parameters=_largest(shares), modules=_largest(modules), first=first, since=since)


def placed(finding: Finding, parts: Parts | None, worst: tuple[str, ...]) -> Finding:
    """The finding with where in the model it lies; said in the second half of its sentence.

    Of a jump the parameter that holds most of it is named in any case, by its norm (`worst`) where it has no past yet.
    """
    if finding.shape == "growth" or finding.kind == "grad_wall":  # no jump of a gradient
        return finding
    if parts is None:
        if finding.shape != "jump" or not worst:
            return finding
        named = tell("{said}; most of it in {name}", said=finding.message, name=worst[0])
        return replace(finding, where=worst[0], message=named)
    said: str = finding.message
    where = finding.where
    if parts.parameters:
        name, share = parts.parameters[0]
        where = name if finding.shape in ("jump", "ramp") and finding.kind == "grad_explosion" else where
        said = tell("{said}; {share} of the jump is in {name}", said=said, share=f"{share:.0%}", name=name)
    if parts.since is not None and parts.since < finding.step:
        said = tell(
            "{said}; {name} left its past first, at step {since}", said=said, name=parts.first[0], since=parts.since
        )
    return replace(finding, where=where, message=said, parts=parts)


def _largest(shares: dict[str, float]) -> tuple[tuple[str, float], ...]:
    """Of equal ones the later, as in `worst`."""
    ranked = sorted(shares.items(), key=lambda item: item[1])[: -MOST - 1 : -1]
    return tuple((name, share) for name, share in ranked if share >= LEAST)
