"""What clipping did to a run, in a few numbers, and what that says: too tight, too loose, not needed, or right.

Numbers in, advice out; nothing here looks at a tensor. Thresholds: Google's tuning playbook (more than half of the
steps clipped is aggressive), and controlled runs on light- and heavy-tailed tasks.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from gradbelt._told import Told, tell
from gradbelt._types import Floats

EARLY = 50  # steps before which nothing is said
RARE, OFTEN, ALWAYS = 0.001, 0.5, 0.9  # of the steps clipped
CALM = 3.0  # times the median norm: the 99th percentile of a run whose gradients have no tail
WILD = 10.0  # times the median norm: what a belt is there for
AGREE = 0.5  # cosine of one gradient with the next, above which the noise is far off
CRAWL = 0.1  # of the loss: less than that over the window is slow
BENT = 0.95  # cosine of raw and clipped gradient below which the direction is not the raw one's
BIASED = 0.3  # of the mean gradient's length

Fit: TypeAlias = Literal["early", "not_needed", "too_loose", "fits", "often", "too_tight"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clipped:
    """What was seen of the steps: newest last, without those that were left out."""

    before: Sequence[float]  # total norm as the script computed it
    after: Sequence[float]  # as the optimizer got it
    losses: Sequence[float] = ()
    cosine: float | None = None  # mean over the clipped steps, between raw and clipped gradient
    bias: float | None = None  # |mean of clipped - mean of raw| / |mean of raw|
    turn: float | None = None  # cosine between these two means
    agreement: float | None = None  # median cosine of a raw gradient with that of the step before
    adaptive: bool = False  # the optimizer divides by the gradient's own size, so a common factor hardly matters


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """How the clipping fits. `str` of it can be read; None is what was not measured.

    `bias` and `turn` are estimates from a sample of coordinates and steps; during them the weights move.
    """

    fit: Fit
    steps: int
    clip_rate: float
    cosine: float | None
    bias: float | None
    turn: float | None
    agreement: float | None
    said: tuple[Told, ...] = field(repr=False)

    def __str__(self) -> str:
        return ". ".join(self.said)


def advise(seen: Clipped) -> Advice:
    """What the numbers say, and no more than they do.

    >>> calm = [1.0, 1.1, 0.9, 1.2] * 50
    >>> print(advise(Clipped(before=calm, after=calm)))
    none of 200 steps was clipped, and the 99th percentile of the norms is 1.1 times their median: clipping was not ...
    >>> advise(Clipped(before=calm, after=[0.5] * 200)).fit
    'often'
    """
    pairs = [(b, a) for b, a in zip(seen.before, seen.after, strict=True) if np.isfinite(b) and b > 0]
    steps = len(pairs)
    rate = sum(a < b * (1 - 1e-6) for b, a in pairs) / steps if steps else 0.0
    fit, said = _fit(seen, np.array([b for b, _ in pairs]), rate)
    if fit != "early" and rate:
        said = (*said, *_direction(seen))
    return Advice(
        fit=fit,
        steps=steps,
        clip_rate=rate,
        cosine=seen.cosine,
        bias=seen.bias,
        turn=seen.turn,
        agreement=seen.agreement,
        said=said,
    )


def typed(value: float) -> float:
    """Two significant digits, upwards: a threshold someone would type.

    >>> typed(0.123), typed(41.2)
    (0.13, 42.0)
    """
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.2g}")


def _fit(seen: Clipped, before: Floats, rate: float) -> tuple[Fit, tuple[Told, ...]]:
    steps = len(before)
    if steps < EARLY:
        return "early", (tell("{steps} steps are too few to say anything about clipping", steps=steps),)
    middle = float(np.median(before))
    tail, most = (float(x) / middle for x in (np.quantile(before, 0.99), before.max()))
    clipped = round(rate * steps)
    if rate <= RARE and most > WILD:
        return "too_loose", (
            tell(
                "{count} of {steps} steps were clipped, though the largest norm was {most} times the median: the "
                "threshold is probably too loose to hold what it is there for",
                count=clipped, steps=steps, most=f"{most:.3g}",
            ),
        )  # fmt: skip
    if not clipped and tail < CALM:
        return "not_needed", (
            tell(
                "none of {steps} steps was clipped, and the 99th percentile of the norms is {tail} times their median: "
                "clipping was not needed so far; as a belt it does no harm",
                steps=steps, tail=f"{tail:.2g}",
            ),
        )  # fmt: skip
    if rate >= ALWAYS and not seen.adaptive and (seen.agreement or 0.0) > AGREE and (slow := _fall(seen.losses)):
        return "too_tight", (
            tell(
                "{rate} of {steps} steps were clipped, each gradient agrees with the one before (cosine {agreement}) "
                "and the loss fell by only {fall}: the threshold is probably too tight; try four times as much",
                rate=f"{rate:.0%}", steps=steps, agreement=f"{seen.agreement:.2f}", fall=slow,
            ),
        )  # fmt: skip
    if rate > OFTEN:
        return "often", (
            tell(
                "{rate} of {steps} steps were clipped: the threshold sets the length of the step, as a learning rate "
                "would; whether that is too tight, only a run with four times as much can tell",
                rate=f"{rate:.0%}", steps=steps,
            ),
        )  # fmt: skip
    return "fits", (
        tell(
            "{rate} of {steps} steps were clipped; the largest norm was {most} times the median",
            rate=f"{rate:.1%}", steps=steps, most=f"{most:.3g}",
        ),
    )  # fmt: skip


def _fall(losses: Sequence[float]) -> str:
    """How far the loss fell over the window where it fell slowly, as "3 %"; empty where it did not, or is unknown."""
    if len(losses) < EARLY or not np.isfinite(losses).all():
        return ""
    quarter = len(losses) // 4
    early, late = statistics.median(losses[:quarter]), statistics.median(losses[-quarter:])
    return f"{(early - late) / early:.1%}" if early > 0 and 0 <= early - late < CRAWL * early else ""


def _direction(seen: Clipped) -> list[Told]:
    said = []
    if seen.cosine is not None and seen.cosine < BENT:
        said.append(
            tell(
                "clipping turns the gradient: its cosine with the raw one is {cosine}; clipping the total norm keeps "
                "the direction",
                cosine=f"{seen.cosine:.2f}",
            )
        )
    if seen.bias is not None and seen.turn is not None and seen.bias > BIASED:
        if seen.turn < BENT:
            said.append(
                tell(
                    "the mean clipped gradient differs from the mean raw one by {bias} of its length and points "
                    "elsewhere (cosine {turn}): what rare, large gradients pull towards is probably lost",
                    bias=f"{seen.bias:.0%}", turn=f"{seen.turn:.2f}",
                )
            )  # fmt: skip
        else:
            said.append(
                tell(
                    "the mean clipped gradient differs from the mean raw one by {bias} of its length, but points the "
                    "same way (cosine {turn}): the steps are shorter, not others",
                    bias=f"{seen.bias:.0%}", turn=f"{seen.turn:.2f}",
                )
            )  # fmt: skip
    return said
