"""What clipping does to the gradients of one optimizer, kept in small numbers for `belt.advice()`.

Norms of the steps in a window, and, once the belt has clipped, a fixed random sample of coordinates, read at two steps
out of ten: enough for the direction, for the bias, and for whether one gradient agrees with the next.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from gradbelt._types import WINDOW, Action, ClipUpdate, Floats, Keep, Measurement, Scale, ScaleEach, Skip
from gradbelt.belt.fold import is_fused
from gradbelt.clip.advice import Clipped

COORDINATES = 4096
TENSORS = 32  # that they lie in, at most: each costs a gather
AGAIN = 10  # two steps in a row out of so many are read
LEAST, MOST = 20, 50  # steps read for an estimate of the bias, after which it starts over


class Account:
    """One optimizer's. `before` the belt acts, `add` after it has."""

    def __init__(self, optimizer: Optimizer | None = None) -> None:
        groups = [] if optimizer is None else optimizer.param_groups
        # such an optimizer divides by the gradient's own size, so a common factor hardly matters to it
        self._adaptive = any("eps" in group for group in groups)
        self._folds = optimizer is not None and is_fused(optimizer)  # gradients may be scaled only inside the step
        self._steps: deque[tuple[float, float, float, float | None]] = deque(maxlen=WINDOW)
        self._agreements: deque[float] = deque(maxlen=MOST)
        self._count = 0  # of the steps; 0 after the first once gradients turned out not to be readable
        self._clips = False
        self._sample: Sample | None = None
        self._raw: Floats | None = None  # what was read at this step, before clipping
        self._last: tuple[int, Floats] | None = None  # step and gradient that were read last
        self._sums: list[tuple[Floats, Floats]] = []  # raw and clipped samples
        self._bias: tuple[float, float] | None = None

    def before(self, parameters: Sequence[Tensor], seen: Measurement, scale: float = 1.0) -> None:
        """Reads the sampled coordinates where it is their turn; `scale` is what gradients are still multiplied by.

        Of a step that is recorded late no parameters are given: its gradients are gone.
        """
        self._raw = None
        self._count += 1
        if not parameters or not self._clips or self._count % AGAIN > 1 or not seen.finite:
            return
        try:
            if self._sample is None or self._sample.names != seen.names:
                self._sample, self._last = Sample(parameters, seen.names), None
                self._sums.clear()
            self._raw = self._sample.read(parameters) / scale
        except Exception:  # a tensor of a kind that can't be read so: advice goes by the norms alone
            self._count, self._clips = 0, False

    def add(
        self,
        parameters: Sequence[Tensor],
        seen: Measurement,
        after: Measurement,
        action: Action,
        *,
        rules: int = 1,
        scale: float = 1.0,
    ) -> None:
        """The step as it was measured, and as the belt left it."""
        if isinstance(action, Skip) or not seen.finite:
            return
        self._clips = self._clips or (self._count > 0 and not isinstance(action, Keep))
        clipped: Floats | None = None
        by_number = isinstance(action, Keep) or (rules == 1 and isinstance(action, Scale | ScaleEach | ClipUpdate))
        if self._raw is not None and self._sample is not None:
            if by_number:
                clipped = self._raw * self._sample.of_each(after.norm / np.where(seen.norm > 0, seen.norm, 1.0))
            elif not self._folds:
                clipped = self._sample.read(parameters) / scale
            self._compare(self._raw, clipped)
        cosine = cosine_of(seen.norm, after.norm) if by_number else None
        if cosine is None and clipped is not None and self._raw is not None:
            cosine = cosine_of(self._raw, clipped)
        loss = math.fsum(seen.losses.values()) if seen.losses else math.nan
        self._steps.append((seen.unclipped or seen.total, after.total, loss, cosine))

    def clipped(self) -> Clipped:
        """The window so far."""
        steps = list(self._steps)
        losses = [loss for _, _, loss, _ in steps]
        cosines = [cosine for before, after, _, cosine in steps if cosine is not None and after < before]
        bias, turn = self._bias or bias_of(self._sums) or (None, None)
        return Clipped(
            before=[before for before, _, _, _ in steps],
            after=[after for _, after, _, _ in steps],
            losses=losses if all(map(math.isfinite, losses)) else (),
            cosine=statistics.fmean(cosines) if cosines else None,
            bias=bias,
            turn=turn,
            agreement=statistics.median(self._agreements) if len(self._agreements) >= 5 else None,
            adaptive=self._adaptive,
        )

    def _compare(self, raw: Floats, clipped: Floats | None) -> None:
        if self._last is not None and self._last[0] == self._count - 1:
            agreement = cosine_of(raw, self._last[1])
            if agreement is not None:
                self._agreements.append(agreement)
        self._last = self._count, raw
        if clipped is not None:
            self._sums.append((raw, clipped))
        if len(self._sums) >= MOST:
            self._bias = bias_of(self._sums)
            self._sums.clear()


class Sample:
    """Coordinates of some gradients, drawn once; every coordinate is as likely as any other.

    Drawn by a generator of its own, so that the user's random numbers stay what they are.
    """

    def __init__(self, parameters: Sequence[Tensor], names: tuple[str, ...]) -> None:
        self.names = names
        chance = np.random.default_rng(0)
        fit = [i for i, p in enumerate(parameters) if p.grad is not None and _is_plain(p.grad)]
        sizes = np.array([parameters[i].numel() for i in fit], dtype=np.float64)
        draws = chance.choice(len(fit), size=TENSORS, p=sizes / sizes.sum()) if sizes.sum() else np.zeros(0)
        self._where: list[tuple[int, Tensor]] = []
        for k in np.unique(draws).astype(int).tolist():
            size, share = int(sizes[k]), COORDINATES // TENSORS * int(np.sum(draws == k))
            chosen = chance.choice(size, size=share, replace=False) if share < size else np.arange(size)
            gradient = parameters[fit[k]].grad
            assert gradient is not None
            self._where.append((fit[k], torch.from_numpy(np.sort(chosen)).to(gradient.device)))

    def read(self, parameters: Sequence[Tensor]) -> Floats:
        """The gradients at these coordinates, in one wait for the device."""
        with torch.no_grad():
            read = [g.take(where).float() for i, where in self._where if (g := parameters[i].grad) is not None]
            if not read:
                return np.zeros(0)
            home = read[0].device
            return torch.cat([each.to(home) for each in read]).cpu().numpy().astype(np.float64)

    def of_each(self, numbers: Floats) -> Floats:
        """One number a gradient -> one a coordinate."""
        return np.concatenate([np.full(len(where), numbers[i]) for i, where in self._where] or [np.zeros(0)])


def cosine_of(a: Floats, b: Floats) -> float | None:
    """Between two vectors; of norms, where each part was multiplied by a number of its own, between the wholes.

    >>> cosine_of(np.array([3.0, 4.0]), np.array([1.5, 2.0]))
    1.0
    """
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return min(1.0, float(a @ b) / lengths) if 0.0 < lengths < math.inf else None


def bias_of(samples: Sequence[tuple[Floats, Floats]]) -> tuple[float, float] | None:
    """|mean of clipped - mean of raw| / |mean of raw|, and the cosine between the means; None of too few.

    Koloskova, Hendrikx, Stich 2023 (arXiv 2305.01588): what keeps clipped SGD away from the optimum.
    """
    if len(samples) < LEAST:
        return None
    raw = np.mean([raw for raw, _ in samples], axis=0)
    clipped = np.mean([clipped for _, clipped in samples], axis=0)
    length, turn = float(np.linalg.norm(raw)), cosine_of(raw, clipped)
    return None if turn is None else (float(np.linalg.norm(clipped - raw)) / length, turn)


def _is_plain(gradient: Tensor) -> bool:
    return type(gradient) is Tensor and gradient.layout is torch.strided and not gradient.is_complex()
