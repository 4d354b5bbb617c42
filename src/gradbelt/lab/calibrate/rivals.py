"""What others call sick: their published rules, re-stated over a record, each as their source has it.

A rule is given the rows of a record in order and answers, for each, whether it would have spoken there. All run on what
a black box holds: the loss, the total and the per-parameter gradient norms, weight norms and shares of zeros where they
were sampled, and the learning rate. Where a tool looks at more than that, its rule is left out, not bent. Their faults
are theirs and kept: a nan that enters a window, a comparison with nan that is False.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from gradbelt._types import StepRecord

Sizes: TypeAlias = Mapping[str, int]
Rule: TypeAlias = Callable[[Sequence[StepRecord], Sizes], Iterator[bool]]


@dataclass(frozen=True, slots=True)
class Rival:
    """A rule by its name in the table, and where it is from."""

    name: str
    source: str
    rule: Rule


def loss_of(row: StepRecord) -> float:
    """The loss of a step: the sum of those it brought; nan of none is no step of a loss rule's."""
    return math.fsum(row.losses.values()) if all(map(math.isfinite, row.losses.values())) else sum(row.losses.values())


def _by_loss(judge: Callable[[float], bool]) -> Callable[[Sequence[StepRecord]], Iterator[bool]]:
    """`judge` at every row that brought a loss, silence elsewhere."""
    return lambda rows: (bool(row.losses) and judge(loss_of(row)) for row in rows)


def fixed(limit: float) -> Rule:
    """The norm is above a number."""
    return lambda rows, sizes: (row.total > limit or not math.isfinite(row.total) for row in rows)


def terminate_on_nan(rows: Sequence[StepRecord], sizes: Sizes) -> Iterator[bool]:
    """The loss is not finite."""
    return _by_loss(lambda loss: not math.isfinite(loss))(rows)


def zclip(rows: Sequence[StepRecord], sizes: Sizes) -> Iterator[bool]:
    """z > 2.5 of the norm against its mean and variance, averaged with 0.97, after 25 steps; clipped before they
    enter."""
    start: list[float] = []
    mean = var = 0.0
    for row in rows:
        norm = row.total
        if len(start) < 25:
            start.append(norm)
            mean, var = float(np.mean(start)), float(np.var(start))
            yield False
            continue
        z = (norm - mean) / (math.sqrt(var) + 1e-6)
        spoke = z > 2.5
        kept = mean + 2.5 * 2.5 / z * math.sqrt(var) if spoke else norm
        var = 0.97 * var + 0.03 * (kept - mean) ** 2
        mean = 0.97 * mean + 0.03 * kept
        yield spoke


def ten_means(rows: Sequence[StepRecord], sizes: Sizes) -> Iterator[bool]:
    """The loss is above ten times the mean of the last five, the norm above 100 and ten deviations of the first 50."""
    recent: deque[float] = deque(maxlen=5)
    first: list[float] = []
    for row in rows:
        loss = loss_of(row) if row.losses else math.nan
        bad = (bool(row.losses) and not math.isfinite(loss)) or not math.isfinite(row.total)
        if len(first) < 50:
            first.append(row.total)
        else:
            bad |= row.total > max(100.0, float(np.mean(first) + 10 * np.std(first)))
            bad |= len(recent) == 5 and loss > 0 and loss > 10 * statistics.fmean(recent)
        if row.losses:
            recent.append(loss)
        yield bad


def olmo(rows: Sequence[StepRecord], sizes: Sizes) -> Iterator[bool]:
    """Loss or norm is above mean + 6 standard deviations of the last 128, once there are 64."""
    losses: deque[float] = deque(maxlen=128)
    norms: deque[float] = deque(maxlen=128)
    for row in rows:
        loss = loss_of(row) if row.losses else None
        good = True
        with np.errstate(invalid="ignore", over="ignore"):  # a nan or an inf in its window makes all of it nan
            if len(norms) >= 64:
                good = bool(row.total - np.mean(norms) <= 6 * np.std(norms, ddof=1))
            if len(losses) >= 64 and loss is not None:
                good &= bool(loss - np.mean(losses) <= 6 * np.std(losses, ddof=1))
        norms.append(row.total)
        if loss is not None:
            losses.append(loss)
        yield not good


def megatron(rows: Sequence[StepRecord], sizes: Sizes) -> Iterator[bool]:
    """The loss, or the norm, is ten times the largest of the first hundred; or not finite."""
    most = [0.0, 0.0]
    for i, row in enumerate(rows):
        values = (loss_of(row) if row.losses else 0.0, row.total)
        bad = not all(map(math.isfinite, values))
        if i < 100:
            most = [max(before, value) for before, value in zip(most, values, strict=True)]
        else:
            bad |= any(value >= 10 * before > 0 for before, value in zip(most, values, strict=True))
        yield bad


def lightning(rows: Sequence[StepRecord], sizes: Sizes) -> Iterator[bool]:
    """The loss rose, and stands at least twice the mean of the last ten away from it; or is not finite."""
    recent: deque[float] = deque(maxlen=10)
    last = math.inf
    for row in rows:
        if not row.losses:
            yield False
            continue
        loss = loss_of(row)
        bad = not math.isfinite(loss)
        if not bad and recent and loss > last:
            mean = statistics.fmean(recent)
            bad = abs(loss - mean) >= abs(2.0 * mean)
        recent.append(loss)
        last = loss
        yield bad


def foundry(rows: Sequence[StepRecord], sizes: Sizes) -> Iterator[bool]:
    """More than four losses in a row above twice the mean of the last hundred."""
    recent: deque[float] = deque(maxlen=100)
    streak = 0
    for row in rows:
        if not row.losses:
            yield False
            continue
        loss = loss_of(row)
        full = len(recent) == 100
        streak = streak + 1 if full and loss >= 2 * statistics.fmean(recent) else 0
        recent.append(loss)
        yield streak > 4


def _kernels(row: StepRecord, sizes: Sizes) -> list[int]:
    """Where the weight matrices are, in the order of their registration."""
    return [i for i, name in enumerate(row.names) if "bias" not in name and "norm" not in name]


def autotrainer(rows: Sequence[StepRecord], sizes: Sizes) -> Iterator[bool]:
    """First kernel's norm over the last one's: above 70, or below 1e-3 where it is itself below 1e-4; or not finite."""
    places: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        at = places.setdefault(row.names, _kernels(row, sizes))
        if not math.isfinite(row.total):
            yield True
            continue
        if len(at) < 2:
            yield False
            continue
        first, last = float(row.norm[at[0]]), float(row.norm[at[-1]])
        ratio = first / last if last > 0 else math.inf
        dying = row.zeros is not None and bool(np.any(row.zeros[at] >= 0.7))
        yield ratio > 70 or (ratio < 1e-3 and first < 1e-4) or dying


def sagemaker(rows: Sequence[StepRecord], sizes: Sizes) -> Iterator[bool]:
    """Not finite; or the mean magnitude of a gradient is below 1e-7 (taken to be its root mean square); or the loss
    fell by less than 0.1 % over ten steps."""
    before: list[float] = []
    roots: dict[tuple[str, ...], np.ndarray] = {}
    for row in rows:
        root = roots.setdefault(row.names, np.sqrt([sizes.get(name, 1) for name in row.names]))
        bad = not math.isfinite(row.total) or bool(np.any(row.norm / root < 1e-7))
        if row.losses:
            before.append(loss_of(row))
            if len(before) % 10 == 1 and len(before) > 10:
                old, new = before[-11], before[-1]
                bad |= not old - new >= 0.001 * abs(old)
        yield bad


def each_layer(rows: Sequence[StepRecord], sizes: Sizes) -> Iterator[bool]:
    """Any single parameter's norm is above ten times its own average (0.01), after ten steps; or not finite."""
    means: dict[str, float] = {}
    for i, row in enumerate(rows):
        bad = not math.isfinite(row.total)
        for name, norm in zip(row.names, row.norm.tolist(), strict=True):
            mean = means.get(name)
            if mean is not None and i >= 10 and norm > 10 * mean > 0:
                bad = True
            elif math.isfinite(norm):
                means[name] = norm if mean is None else 0.99 * mean + 0.01 * norm
        yield bad


def modified_z(rows: Sequence[StepRecord], sizes: Sizes) -> Iterator[bool]:
    """Modified z (median, MAD) of the last 50: above 6 of the loss, above 10 of the norm."""
    losses: deque[float] = deque(maxlen=50)
    norms: deque[float] = deque(maxlen=50)

    def z(value: float, past: Sequence[float]) -> float:
        middle = statistics.median(past)
        return 0.6745 * (value - middle) / max(statistics.median(abs(v - middle) for v in past), 1e-12)

    for row in rows:
        bad = not math.isfinite(row.total)
        if len(norms) >= 20 and not bad:
            bad = z(row.total, norms) > 10
        if row.losses:
            loss = loss_of(row)
            bad |= not math.isfinite(loss)
            if len(losses) >= 20 and not bad:
                bad = z(loss, losses) > 6
            if math.isfinite(loss):
                losses.append(loss)
        if math.isfinite(row.total):
            norms.append(row.total)
        yield bad


def trainscope(rows: Sequence[StepRecord], sizes: Sizes) -> Iterator[bool]:
    """Two-sided CUSUM of the loss (k 1, h 6) against a running mean and deviation; no word on a nan."""
    mean = var = 0.0
    count, up, down = 0, 0.0, 0.0
    for row in rows:
        loss = loss_of(row) if row.losses else math.nan
        if not math.isfinite(loss):
            yield False
            continue
        count += 1
        if count <= 20:
            before, mean = mean, mean + (loss - mean) / count
            var += ((loss - before) * (loss - mean) - var) / count
            yield False
            continue
        z = (loss - mean) / max(math.sqrt(var), 1e-12)
        up, down = max(0.0, up + z - 1), max(0.0, down - z - 1)
        bad = up > 6 or down > 6
        if bad:
            up = down = 0.0
        var = 0.95 * var + 0.05 * (loss - mean) ** 2
        mean = 0.95 * mean + 0.05 * loss
        yield bad


def umlaut(rows: Sequence[StepRecord], sizes: Sizes) -> Iterator[bool]:
    """The learning rate is above 0.01 or below 1e-7; or the loss is nan."""
    return (row.lr > 0.01 or row.lr < 1e-7 or any(map(math.isnan, row.losses.values())) for row in rows)


RIVALS: tuple[Rival, ...] = (
    Rival("norm > 1", "a common advice", fixed(1.0)),
    Rival("norm > 100", "trainpulse 0.4", fixed(100.0)),
    Rival("norm > 1000", "gradscope 0.1, torchmortem 0.1", fixed(1000.0)),
    Rival("norm > 1e6", "TheDeepChecker, TOSEM 2022", fixed(1e6)),
    Rival("loss not finite", "Keras TerminateOnNaN", terminate_on_nan),
    Rival("z > 2.5", "ZClip, arXiv 2504.02507", zclip),
    Rival("modified z > 6, 10", "trainspotter 0.2", modified_z),
    Rival("10x mean", "ARC 5.2", ten_means),
    Rival("10x per layer", "StabilityGuard 0.3", each_layer),
    Rival("OLMo skip step", "OLMo-core, 128 steps, 6 sigma", olmo),
    Rival("Megatron spiky", "Megatron-LM, 10x the first 100", megatron),
    Rival("Lightning", "SpikeDetection, rtol 2", lightning),
    Rival("llm-foundry", "KillLossSpike, 2x mean, 5 in a row", foundry),
    Rival("AutoTrainer", "ICSE 2021, ratio 70, 1e-3, zeros 0.7", autotrainer),
    Rival("SageMaker", "Debugger 1.0, three of its rules", sagemaker),
    Rival("trainscope", "1.8, CUSUM 1, 6", trainscope),
    Rival("UMLAUT", "CHI 2021, rate above 0.01", umlaut),
)
