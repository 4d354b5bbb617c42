"""One file a detector. A detector keeps nothing: what it knows of the past is in the Signals and the History.

To add one: write `symptoms/my.py` with a frozen dataclass that has `kinds`, `look`, `CALM` and `SICK`, and name it in
DETECTORS; or, where only a whole run can tell, with `look_back`, in HINDSIGHTS. The belt, the replay, the contract
tests and `gradbelt symptoms` find it by themselves.

What a detector says does not change when all gradients of a run, all losses, weights, activations or loss scales are
multiplied by a number: nothing of that has a natural unit. One that rightly has one names it, with the reason, in
`UNITS`; the contract tests hold both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from gradbelt._types import Finding, History, RunRecord, Signals, StepRecord
from gradbelt.symptoms.activation_growth import ActivationGrowth
from gradbelt.symptoms.clip_saturated import ClipSaturated
from gradbelt.symptoms.dead_units import DeadUnits
from gradbelt.symptoms.divergence import Divergence
from gradbelt.symptoms.grad_explosion import GradExplosion
from gradbelt.symptoms.grad_pile import GradPile
from gradbelt.symptoms.grad_ramp import GradRamp
from gradbelt.symptoms.grad_underflow import GradUnderflow
from gradbelt.symptoms.grad_vanishing import GradVanishing
from gradbelt.symptoms.grad_wall import GradWall
from gradbelt.symptoms.layer_jump import LayerJump
from gradbelt.symptoms.logit_growth import LogitGrowth
from gradbelt.symptoms.loss_ramp import LossRamp
from gradbelt.symptoms.loss_spike import LossSpike
from gradbelt.symptoms.nonfinite_grad import NonFiniteGrad
from gradbelt.symptoms.nonfinite_loss import NonFiniteLoss
from gradbelt.symptoms.nonfinite_weight import NonFiniteWeight
from gradbelt.symptoms.saturated import Saturated
from gradbelt.symptoms.scale_spiral import ScaleSpiral
from gradbelt.symptoms.stalled import Stalled
from gradbelt.symptoms.update_ratio import UpdateRatio
from gradbelt.symptoms.weight_growth import WeightGrowth

Example: TypeAlias = Sequence[tuple[float, float, float]] | Sequence[StepRecord]
"""Steps as (loss, gradient norm, weight norm) of one parameter, or as rows: what `CALM` and `SICK` are written in."""


class Detector(Protocol):
    """Looks at one step."""

    @property
    def kinds(self) -> tuple[str, ...]: ...

    @property
    def CALM(self) -> tuple[Example, ...]:  # noqa: N802  class constants, as properties so that any tuple fits
        """Steps on which it must stay silent."""

    @property
    def SICK(self) -> tuple[Example, ...]:  # noqa: N802
        """Steps of which at least one must make it speak."""

    def look(self, signals: Signals, history: History) -> Finding | None:
        """The finding at this step, or None."""


class Hindsight(Protocol):
    """Looks back over a whole run: what shows only by what did not happen."""

    @property
    def kinds(self) -> tuple[str, ...]: ...

    @property
    def CALM(self) -> tuple[Sequence[StepRecord], ...]:  # noqa: N802
        """Runs over which it must stay silent, written with `rows.recorded`."""

    @property
    def SICK(self) -> tuple[Sequence[StepRecord], ...]:  # noqa: N802
        """Runs over which it must speak."""

    def look_back(self, record: RunRecord) -> Finding | None:
        """The finding over the record, or None."""


DETECTORS: tuple[Detector, ...] = (
    NonFiniteLoss(),
    NonFiniteGrad(),
    NonFiniteWeight(),
    Divergence(),
    LossRamp(),
    GradExplosion(),
    GradRamp(),
    LayerJump(),
    WeightGrowth(),
    UpdateRatio(),
    GradWall(),
    GradPile(),
    GradUnderflow(),
    LossSpike(),
    LogitGrowth(),
    ActivationGrowth(),
    ScaleSpiral(),
)
HINDSIGHTS: tuple[Hindsight, ...] = (Stalled(), GradVanishing(), DeadUnits(), Saturated(), ClipSaturated())
