"""Profiles of a network at its first step: pure functions of numbers that one forward and one backward leave behind.

None of them costs another pass over the model; fitting a hundred layers takes well under a millisecond. The numbers
themselves cost one forward and backward with hooks on the layers, and `lag_sizes` one more of the recurrent layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Trend:
    """How sizes change from one place to the next, as a constant factor: `rate` to the power of `num_steps`."""

    rate: float  # factor a step, from a least-squares line through the logarithms
    fit: float  # R² of that line; 1 where nothing changes
    num_steps: int
    jump: float  # largest factor of a single step
    jump_at: int  # the step that makes it

    @property
    def log_total(self) -> float:
        return self.num_steps * math.log(self.rate)

    @property
    def total(self) -> float:
        """What the factor comes to over all steps; inf where a float can't hold it."""
        return math.exp(self.log_total) if self.log_total < 700 else math.inf


def trend(sizes: Sequence[float]) -> Trend | None:
    """The line through the logarithms of `sizes`; None for fewer than four that are finite and above zero.

    The line goes through the sizes up to the first that is not. Behind an overflow it is carried on, because that is
    what overflowed; behind a zero there is nothing to carry on. Cost: a least-squares line.

    >>> chain = trend([1.1**i for i in range(101)])
    >>> round(chain.rate, 3), chain.num_steps, round(chain.total), chain.fit > 0.999
    (1.1, 100, 13781, True)
    >>> trend([1.0, 2.0, float("inf"), 4.0]) is None
    True
    """
    sound = next((i for i, size in enumerate(sizes) if not 0 < size < math.inf), len(sizes))
    if sound < 4:
        return None
    logs = np.log(np.asarray(sizes[:sound], dtype=np.float64))
    place = np.arange(sound) - (sound - 1) / 2
    slope = float(place @ logs / (place @ place))
    around = logs - logs.mean()
    spread, left = float(around @ around), float(np.square(around - slope * place).sum())
    steps = np.diff(logs)
    at = int(np.argmax(steps))
    return Trend(
        rate=math.exp(slope),
        fit=1.0 if spread < 1e-12 else 1.0 - left / spread,
        num_steps=(len(sizes) if sound < len(sizes) and not math.isfinite(sizes[sound]) else sound) - 1,
        jump=math.exp(min(float(steps[at]), 700.0)),
        jump_at=at,
    )


def chance(widths: Sequence[int]) -> float:
    """How far the logarithm of a norm strays by the draw of the weights alone, in a network whose gains are 1.

    One standard deviation of the log of the total gain of ReLU layers of these widths: the square root of the sum of
    5/width. Source: Hanin and Nica 2018, "Products of many large random matrices and gradients in deep neural
    networks".

    >>> round(chance([500] * 100), 3)
    1.0
    """
    return math.sqrt(sum(5.0 / max(1, width) for width in widths))


def he_std(fan_in: int) -> float:
    """He's standard deviation for layers before a ReLU. Source: He et al. 2015.

    >>> he_std(50)
    0.2
    """
    return math.sqrt(2.0 / max(1, fan_in))


def xavier_std(fan_in: int, fan_out: int) -> float:
    """Xavier's standard deviation, for tanh and linear layers. Source: Glorot and Bengio 2010.

    >>> xavier_std(30, 20)
    0.2
    """
    return math.sqrt(2.0 / max(1, fan_in + fan_out))


def trivial_loss(classes: int) -> float:
    """Cross-entropy of a model that knows nothing: ln K for K classes.

    >>> round(trivial_loss(10), 3)
    2.303
    """
    return math.log(max(1, classes))
