"""What the stages hand on, in the order of the picture.

Belt, every step:  Measurement -> Signals -> Finding* (Verdict) -> Action -> StepRecord
Clinic, cold:      RunRecord -> Onset -> Origin, Evidence -> Suspicion -> Outcome -> Prescription -> Story

All are frozen. Norms are L2, in float64 on the host, of gradients as the optimizer is about to see them: unscaled,
accumulated, reduced over ranks, before the belt clips. A *call* counts every `optimizer.step()` (every `backward()`
where the script has no optimizer). A new *step* begins when an optimizer is called that was already called in the step
before: the two optimizers of a GAN share step numbers, five calls of a critic are five steps, and a user finds their
own loop counter back.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating]
Counts: TypeAlias = npt.NDArray[np.uint8]

SCHEMA = 1

SYMPTOMS = (
    "nan_loss", "inf_loss", "nan_grad", "inf_grad", "nan_weight", "inf_weight", "loss_spike", "divergence", "stalled",
    "grad_explosion", "grad_vanishing", "grad_wall", "dead_units", "saturated", "logit_growth", "clip_saturated",
)  # fmt: skip
"""Every kind of symptom a verdict may name. Users script against these."""


MISFITS = (
    "clip_after_step", "clip_before_unscale", "step_on_scaled", "never_zeroed", "step_in_backward", "raw_gradients",
    "double_clip", "unheld_parameters", "ranks_disagree", "clip_never_acts", "clip_always_acts",
    "graph_grows", "graphs_kept", "nan_overwritten", "nan_not_shown",
)  # fmt: skip
"""Every fault of a training loop, of its clipping above all, that is looked for. Users script against these."""


class Level(IntEnum):
    """How loud a finding is. Only an alarm makes a run count as exploded."""

    WATCH = 1
    WARN = 2
    ALARM = 3


# ---------------------------------------------------------------------------------------------------------- the belt


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """What one module, or one function, made in a forward pass of a step, by a few thousand of its numbers.

    A number that means nothing for its kind is nan. All are float32, as the black box keeps them.
    """

    name: str  # "blocks.0.mlp"; "fc2.input" where a function made it and the module `fc2` was given it
    kind: str = ""  # the function that made it: "relu", "tanh", "sigmoid", "softmax", ...; "attention" and "logits" are
    # what goes into a softmax; "" otherwise
    rms: float = math.nan
    peak: float = math.nan  # largest magnitude; of attention and logits only what no mask hides
    zeros: float = math.nan  # share that is exactly 0
    dead: float = math.nan  # share of units that are 0 in every row looked at
    flat: float = math.nan  # share at which the function has less than 2 % of its largest slope
    entropy: float = math.nan  # of the rows of a softmax, over ln of what they choose from; their mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One read of the gradients an optimizer is about to use."""

    call: int
    step: int
    optimizer: int  # which one, in the order of their first step; -1 where the script has none
    names: tuple[str, ...]
    norm: Floats  # (P,) L2 norm of each gradient, in `names` order
    total: float  # L2 norm over all of them; finite gradients never make it inf
    losses: Mapping[str, float] = field(default_factory=dict)  # call site of backward -> value since the last step
    lr: float = math.nan  # largest over the parameter groups
    weight: Floats | None = None  # (P,) L2 norm of each parameter before the step; None where not sampled
    peak: Floats | None = None  # (P,) largest magnitude in each gradient; sampled with `weight`, not taken of DTensors
    zeros: Floats | None = None  # (P,) share of each gradient that is exactly 0; there where `peak` is
    bad: Mapping[str, str] = field(default_factory=dict)  # parameter -> "nan" | "inf", only what is not finite
    unclipped: float | None = None  # total norm before the script's own clip_grad_norm_, where it has one
    activations: tuple[Activation, ...] = ()  # in the order in which they were made; () where not sampled
    scale: float | None = None  # what a loss scaler multiplied the loss by; None where none is known
    moved: Floats | None = None  # (P,) by what share of itself the last update changed each matrix; nan for the rest
    # (P,) what share of each gradient lies at its largest magnitude, by a few numbers of it; nan where that says
    # nothing. Sampled with `weight`
    piled: Floats | None = None
    exponents: Counts | None = None  # (P, BUCKETS) how many of these numbers lie in each bucket; there where `piled` is
    # (P,) share of the numbers that have at most four bits left in float16; nan for a gradient that is not of float16
    faint: Floats | None = None

    @property
    def finite(self) -> bool:
        return math.isfinite(self.total)

    @property
    def weight_total(self) -> float | None:
        return None if self.weight is None else float(np.sqrt(np.sum(np.square(self.weight.astype(np.float64)))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """A measurement seen against the history: logarithms, because gradients scale by factors."""

    call: int
    step: int
    optimizer: int
    total: float
    level: float  # ln(total); nan or inf where total is, -inf for an all-zero gradient
    z: float  # robust z of level against accepted steps of this optimizer; 0 while not warm
    ratio: float  # total over the median of accepted steps; 1 while not warm
    warm: bool
    losses: Mapping[str, float]  # what this step brought, by call site
    course: Course  # up to and including this step
    weight: float | None  # total weight norm before the step
    growth: float  # weight over the previous step's; 1 where the previous step's was not sampled
    bad: Mapping[str, str]
    worst: tuple[str, ...]  # parameters holding most of the squared norm, largest first (at most three)
    names: tuple[str, ...]
    peak: Floats | None  # (P,) largest magnitude in each gradient; None where not sampled
    activations: tuple[Activation, ...] = ()  # () where not sampled
    scale: float | None = None  # of the loss scaler; None where none is known
    moved: float | None = None  # by what share of itself the last update changed half of the matrices, or more
    piled: Floats | None = None  # (P,) share of each gradient that lies at its peak; None where not sampled
    faint: Floats | None = None  # (P,) share of each float16 gradient that is nearly lost; None where there is none
    trend: Trend  # of ln(total) before any clipping, up to and including this step
    norm: Floats  # (P,) as the black box keeps them
    usual: Floats  # (P,) the level of each gradient's norm over accepted steps; nan while that is not known
    apart: Floats  # (P,) how many deviations ln(norm) stands from its usual level; 0 while that is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Where the logarithm of a number has been going: a slow level, the noise about it, and a climb out of that.

    The climb is a CUSUM of what each step brought that the one before did not foretell, in deviations, each held to
    STEP_MOST; it starts over at 0. `quick`, `low` and `base` know nothing of the noise and adapt to nothing.
    """

    count: int = 0
    level: float = 0.0
    spread: float = 0.0  # mean square distance from the level
    echo: float = 0.0  # mean product of two distances in a row
    last: float = 0.0  # the last distance
    climb: float = 0.0
    since: int = -1  # step at which the climb began; -1 where there is none
    base: float = 0.0  # the quick level when it did
    quick: float = 0.0  # level over some ten steps
    low: float = math.inf  # lowest that has been, once the trend was known
    tail: tuple[float, ...] = ()  # the numbers themselves, newest last, at most RECENT


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layers:
    """What is remembered of each parameter: a running level of ln(gradient norm), and its weights' norm at intervals.

    Two are equal where their numbers are.
    """

    names: tuple[str, ...]  # of all parameters that ever had a gradient
    table: Floats  # (4, P): steps with a gradient other than zero; slow mean of ln(norm); deviation from it; and `left`
    weights: tuple[tuple[int, Floats], ...] = ()  # (step of its optimizer, norms), SPAN steps apart, at most MARKS

    @property
    def left(self) -> Floats:
        """(P,) step at which it left its level upwards, and has not been back since; -1 where it is at home."""
        left: Floats = self.table[3]
        return left

    def plain(self) -> dict[str, Any]:
        """All of it as lists and numbers."""
        marks = [[at, norms.tolist()] for at, norms in self.weights]
        return {"names": list(self.names), "table": self.table.tolist(), "weights": marks}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layers) and self.plain() == other.plain()

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the belt remembers of one optimizer: only steps it accepted, so a refused step leaves no trace.

    The windows are bounded; rules and detectors are functions of this and keep nothing themselves, so saving a belt is
    saving its histories, and replaying a record gives the same decisions.
    """

    levels: tuple[float, ...] = ()  # ln(total after clipping) of accepted steps, newest last, at most WINDOW
    raw: tuple[float, ...] = ()  # ln(total before clipping) of the last of these steps, at most LATELY
    accepted: int = 0
    refused: int = 0  # refusals in a row
    weight_start: float | None = None  # total weight norm where first sampled
    weight_last: float | None = None  # where last sampled, `weight_at` of the steps of this optimizer before
    weight_at: int = -1
    steps: int = 0  # of this optimizer, accepted or not
    began: tuple[tuple[Activation, ...], ...] = ()  # the first samples of activations, at most BEGAN
    lately: tuple[tuple[Activation, ...], ...] = ()  # later ones, APART steps and more, newest last, at most SAMPLES
    shown_at: int = -1  # `steps` at the newest of them
    trend: Trend = field(default_factory=Trend)  # of ln(total before any clipping, also the script's own)
    layers: Layers | None = None  # None before the first accepted step
    lr: float = math.nan  # at the last accepted step
    steady: int = 0  # accepted steps since the learning rate last leapt up
    moved: tuple[float, ...] = ()  # Signals.moved of the last looks, newest last, at most LOOKS
    scales: tuple[float, ...] = ()  # of the loss scaler at the last of these steps, newest last, at most LATELY
    notes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # what clipping rules keep beyond the above

    @property
    def median(self) -> float | None:
        """Median total norm of the accepted steps in the window; None before the first."""
        return math.exp(statistics.median(self.levels)) if self.levels else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Where the loss has been: one for a run, whatever the number of its optimizers and loss streams.

    A stream is a call site of `backward`. The combined loss is the sum of the streams' latest values.
    """

    streams: Mapping[str, float] = field(default_factory=dict)  # as they were when all were last finite
    recent: tuple[Point, ...] = ()  # newest last, at most RECENT
    start: float | None = None  # the first finite combined loss (anew when a stream appears)
    best: float = math.inf  # lowest finite combined loss
    window: tuple[float, ...] = ()  # finite combined losses, newest last, at most LOSSES
    trend: Trend = field(default_factory=Trend)  # of ln(combined loss), where that is finite and positive

    @property
    def largest(self) -> str | None:
        """The stream that holds most of the loss; None before the first."""
        return max(self.streams, key=lambda where: (abs(self.streams[where]), where), default=None)


@dataclass(frozen=True, slots=True)
class Point:
    """The combined loss at one call, and the best that came before it."""

    step: int
    loss: float
    best: float


WINDOW = 200  # accepted steps that a level is judged against
LOOKS = 3  # at how far an update moved the weights that are remembered
LATELY = 20  # accepted steps whose norm before clipping is remembered
SHARE = 0.02  # of the time that steps take, for looking at activations, where nothing else is asked for
BEGAN = 3  # first samples of activations that are remembered
SAMPLES = 10  # later ones
APART = 10  # steps between these, at least
LOSSES = 50  # losses that a spike is judged against
RECENT = 5  # steps over which a divergence must hold
WARM = 20  # accepted steps before a level is judged at all
KNOWN = 50  # accepted steps before a trend is, or one parameter by itself
SPAN = 50  # steps between two norms of a parameter's weights that are remembered
MARKS = 4  # of these
BUCKETS = 32  # in which magnitudes are counted; the first and the last have what lies beyond them, too
BINADES = 2  # powers of two in each
LOWEST = -48  # the power of two at which the first begins
STREAK = 25  # steps in a row that a loss scaler left out: it is no longer looking for its scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a detector saw. `message` is English; `kind`, `data` and `where` are enough to say it in another
    language."""

    kind: str  # one of SYMPTOMS
    step: int  # where it began, which can lie a few steps before the step that confirmed it
    level: Level
    where: str | None = None  # "train.py:61" or a parameter's name
    message: str = ""
    value: float | None = None
    limit: float | None = None
    # of a kind that has several: "jump" | "ramp" | "growth" | "layer" | "activations" | "scale" | "updates"
    # | "pile" | "underflow"
    shape: str | None = None
    parts: Parts | None = None  # where in the model it lies; None where nothing stands out

    @property
    def fell(self) -> bool:
        """Whether it is a loss that has left downwards."""
        return self.kind == "divergence" and (self.value or 0.0) < (self.limit or 0.0) < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Which parts of a model a jump of the gradient lies in.

    A share is of what the squared norm gained over its usual level, not of the norm: the layer that always has the
    largest gradient is not to blame for a jump of another.
    """

    parameters: tuple[tuple[str, float], ...] = ()  # with its share, largest first, at most three
    modules: tuple[tuple[str, float], ...] = ()  # likewise: the sum over a module's own parameters
    first: tuple[str, ...] = ()  # parameters that left their own past before all others, at most three
    since: int | None = None  # the step at which they did


Verdict: TypeAlias = tuple[Finding, ...]
"""All that was found at one step; empty while all is well."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Leave the gradients as they are, to the bit."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Multiply every gradient by `coefficient` (0 < coefficient < 1)."""

    coefficient: float


@dataclass(frozen=True, slots=True)
class ScaleEach:
    """Multiply each gradient by its own coefficient (0 < coefficient <= 1, not all 1), in the order of the names."""

    coefficients: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ClipUnits:
    """Scale each unit of a gradient down to `ratio` times the norm of its weights, or of `floor` where that is more.

    Only in parameters that `where` says True for. A unit is a row: all that leads to one output.
    """

    ratio: float
    floor: float
    where: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Bound:
    """The p-norm over the gradients at `where`, taken as one vector, is at most `limit`.

    `where` are positions among the names, in order.
    """

    limit: float
    p: float
    where: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ClipGroups:
    """Scale each bounded group of gradients down to its p-norm's limit, and the others by coefficients of their own.

    A measurement has L2 norms only, so the p-norms are read when this is carried out, which makes it a Scale, a
    ScaleEach or a Keep. No gradient is in two groups; `others` is in the order of the names, () where all are 1.
    """

    bounds: tuple[Bound, ...]
    others: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Clamp:
    """Clamp every element into [-limit, limit]."""

    limit: float


@dataclass(frozen=True, slots=True)
class ClipUpdate:
    """Lower the learning rate of each parameter whose update would have an RMS above `limit`, for this step.

    No gradient is changed. It is carried out after all other rules, on what they left.
    """

    limit: float


@dataclass(frozen=True, slots=True)
class Skip:
    """Leave this step out: parameters, moments and step counters stay untouched."""

    reason: str


Action: TypeAlias = Keep | Scale | ScaleEach | ClipUnits | ClipGroups | Clamp | ClipUpdate | Skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One row of the black box: what was measured and what was done."""

    call: int
    step: int
    optimizer: int
    time: float  # seconds since the run began
    lr: float
    total: float  # before the belt's clip
    total_after: float  # after it; equal to total where no gradient was changed; 0.0 where the step was skipped
    action: str  # "keep" | "scale" | "scale each" | "agc" | "clamp" | "update" | "skip: why"
    losses: Mapping[str, float]
    names: tuple[str, ...]
    norm: Floats  # (P,) float32
    weight: Floats | None  # (P,) float32 or None where not sampled
    peak: Floats | None = None  # (P,) float32; both this and `zeros`, or neither
    zeros: Floats | None = None
    bad: Mapping[str, str] = field(default_factory=dict)
    unclipped: float | None = None
    activations: tuple[Activation, ...] = ()
    scale: float | None = None
    moved: Floats | None = None  # (P,) float32: what the update before this step did
    piled: Floats | None = None  # (P,) float32; both this and `exponents`, or neither
    exponents: Counts | None = None  # (P, BUCKETS)
    faint: Floats | None = None  # (P,) float32

    @property
    def clipped(self) -> bool:
        """Whether the belt changed a gradient of this step, or slowed an update."""
        return self.action != "keep" and not self.skipped

    @property
    def skipped(self) -> bool:
        """Whether the belt left this step out."""
        return self.action.startswith("skip")

    def measurement(self) -> Measurement:
        """The measurement this row was made from, for replaying detectors and rules."""
        return Measurement(
            call=self.call, step=self.step, optimizer=self.optimizer, names=self.names, norm=self.norm,
            total=self.total, losses=self.losses, lr=self.lr, weight=self.weight, peak=self.peak, zeros=self.zeros,
            bad=self.bad, unclipped=self.unclipped, activations=self.activations, scale=self.scale,
            moved=self.moved, piled=self.piled, exponents=self.exponents, faint=self.faint,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Something that is put on wrongly about clipping, or about the loop around it.

    Never an alarm: it says nothing about how the run goes.
    """

    kind: str  # one of MISFITS
    step: int  # at which it was certain
    message: str


# -------------------------------------------------------------------------------------------------------- the clinic


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something other than a step that the black box keeps: an error, a skip by a loss scaler, a signal."""

    call: int
    step: int
    kind: str
    message: str
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run read back from its black box. Also what a run that is still going, or was killed, has left so far."""

    folder: Path
    meta: Mapping[str, object]  # schema, gradbelt, script, argv, started, seed, environment, finished, exit_code, ...
    steps: tuple[StepRecord, ...]
    events: tuple[Event, ...] = ()
    tail: Mapping[str, float] = field(default_factory=dict)  # losses after the last step: call site -> value

    @property
    def finished(self) -> bool:
        return "finished" in self.meta

    @property
    def num_steps(self) -> int:
        return 1 + max((row.step for row in self.steps), default=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """One number of a batch that stands out. Rows are items of the batch, columns its features or channels."""

    tensor: str  # "input" | "target"
    shape: tuple[int, ...]
    row: int
    column: int
    value: float
    usual: float | None = None  # median size of that column in the batches before; None: there were none
    ratio: float | None = None  # over the usual largest of that column; None where the value is not finite
    index: int | None = None  # row of the data set; None where it can't be known
    where: str | None = None  # "train.py:61", where it met a weight or a loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The first bad operation: the one that turned finite numbers into something else."""

    stage: str  # "forward" | "backward" | "update" | "data"; written as "pass" in verdict.json
    op: str
    module: str | None
    file: str | None
    line: int | None
    message: str
    tensor: str | None = None  # the parameter that was being updated
    about: bool = False  # whether it may be another one: several can have done it, or its line can't be known
    element: Element | None = None  # what stood out in the batch, where it was the data


@dataclass(frozen=True, slots=True, kw_only=True)
class Onset:
    """When it began: the earliest warning, and the first step that was bad beyond doubt."""

    exploded: bool
    warning_step: int | None
    bad_step: int | None
    findings: tuple[Finding, ...]
    healthy_step: int | None = None  # the last before `bad_step` that was finite and belonged to no warning

    @property
    def first(self) -> Finding | None:
        """The finding that dates `bad_step`."""
        return next((f for f in self.findings if f.level is Level.ALARM and f.step == self.bad_step), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """One thing that was found, with its number, the limit it crossed and what follows."""

    cause: str  # one of the causes' fixed names
    module: str | None
    value: float
    limit: float
    what: str
    follows: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was measured on the script while it was run again up to its onset. None: it could not be measured."""

    reproduced: bool
    origin: Origin | None = None
    element: Element | None = None  # what stands out in the batch of the onset
    size: float | None = None  # largest absolute value that went into the first bad operation
    finite_in: str | None = None  # least precision in which that is finite on the same numbers: float32, float64, none
    depth: int | None = None  # layers with a weight matrix that ran in one step, recurrent ones counted once
    repeats: int | None = None  # most often that one matrix was applied in a row within one step; else that a layer ran
    sequence: int | None = None  # steps a fused recurrent layer was unrolled over
    recurrent: tuple[str, ...] = ()  # classes of the recurrent layers
    norms: tuple[str, ...] = ()  # classes of the normalisation layers
    saturating: bool = False  # tanh or sigmoid modules
    half: tuple[str, ...] = ()  # half-precision types of parameters or inputs, "autocast" where that is on
    input_rms: float | None = None  # of what goes into the model at the first step
    input_spread: float | None = None  # largest over median standard deviation of its columns
    input_peak: float | None = None  # largest absolute input at the onset over the median of the steps before
    batch_ratio: float | None = None  # gradient norm of the onset's batch over that of others at the same weights
    example_ratio: float | None = None  # of the rows of that batch, by their part of its gradient: largest over median
    example_share: float | None = None  # the largest over the sum of all rows
    moved: float | None = None  # by what share of itself half of the matrices, or more, were changed before the onset
    attended: float | None = None  # largest logit of a softmax in the model at the last look before the onset
    entropy: float | None = None  # of that softmax, over ln of what it chooses from
    weight_ratio: float | None = None  # standard deviation of the weights over He's, largest of the layers, at step 0
    gain: float | None = None  # gradient norm of the first layer over the last, at step 0
    stale: bool = False  # gradients of the step before were still there when backward ran
    unusual: Mapping[str, str] = field(default_factory=dict)  # optimizer constant -> "0.999 (default 0.9)"
    batch: int | None = None  # rows that go into the model
    optimizer: str | None = None  # its class
    unrolled: int | None = None  # steps the longest recurrence was unrolled over at the onset
    risks: tuple[Risk, ...] | None = None  # what the first step foretold
    skips: int | None = None  # sums with a way past the layers, at step 0
    attention: bool = False
    target_rms: float | None = None  # of a regression's target at the first step
    guess: float | None = None  # the loss of a model that answers the same to everything
    summed: int | None = None  # numbers that the first loss adds up without dividing by how many they are; 0: a mean


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """A cause with the evidence for and against it; confidences over all causes add up to at most 1."""

    cause: str
    confidence: float
    evidence: tuple[str, ...] = ()
    against: tuple[str, ...] = ()


ALWAYS = 0.99  # share of steps that counts as all of them: the first may be small


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the script under a remedy. The control is `remedy=""`."""

    remedy: str  # "clip_norm=1.0", "lower_lr=0.1+clip_norm=1.0", ""
    outcome: str  # "nonfinite" | "finite_not_learning" | "learning"
    steps: int
    loss: float | None
    metric: float | None
    seconds: float
    clip_rate: float | None = None
    curve: tuple[tuple[int, float], ...] = ()  # (step, loss) thinned for drawing
    norms: tuple[tuple[int, float], ...] = ()  # (step, gradient norm) thinned for drawing
    note: str = ""
    idle: bool = False  # the remedy found nothing to do: it ran as the control did
    late: bool = False  # stopped for want of time: what it had not done by then tells nothing
    ended: float | None = None  # seconds since the watched run began
    again: tuple[str, ...] = ()  # what became of it at other seeds; "fixed" where these change nothing

    @property
    def masks(self) -> bool:
        """Whether clipping keeps it finite, at every step from the first on, and nothing is learnt."""
        return self.outcome == "finite_not_learning" and (self.clip_rate or 0.0) >= ALWAYS


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """At how many seeds a cure was tried, the first one included."""

    tried: int
    learns: int  # with it
    fails: int  # without it


@dataclass(frozen=True, slots=True, kw_only=True)
class Prescription:
    """What to change, and whether a trial has shown that it helps."""

    rank: int
    remedies: tuple[str, ...]
    verified: bool
    why: str
    patch: str | None = None
    by_hand: str = ""  # where there is no patch: what to change, and where
    seeds: Seeds | None = None  # None: it was shown at one
    proven_after: float | None = None  # seconds since the watched run began; the control had failed by then, too


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipAdvice:
    """Whether this run needs clipping, at which threshold, and why."""

    needed: bool
    threshold: float | None
    clip_rate: float | None
    why: str
    fit: str | None = None  # how what was clipped in the watched run fitted (`clip.advice.Fit`); None: nothing was
    notes: tuple[str, ...] = ()  # and what that says; of trials, what they showed of the threshold
    looser: str | None = None  # four times the threshold does "alike" or "worse"; None: not tried
    droppable: bool | None = None  # whether it goes as well without clipping; None: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """A copy of the script with a prescription written into it, and what became of it."""

    remedies: tuple[str, ...] = ()
    file: str | None = None  # as it is run: a path, or a module's name; None: nothing was written
    outcome: Outcome | None = None
    note: str = ""  # why there is no copy, or the last words of one that failed

    @property
    def proven(self) -> bool:
        """Whether the copy lives and learns."""
        return self.outcome is not None and self.outcome.outcome == "learning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A run from first warning to proven cure: what verdict.json, the console and report.html are views of."""

    version: str
    script: str
    argv: tuple[str, ...]
    exploded: bool
    steps: int
    first_warning_step: int | None
    first_bad_step: int | None
    symptoms: tuple[Finding, ...]
    origin: Origin | None
    causes: tuple[Suspicion, ...]
    trials: tuple[Outcome, ...]
    prescriptions: tuple[Prescription, ...]
    clip: ClipAdvice
    reproduced: bool | None  # None: nothing was run again
    seconds: Mapping[str, float]
    exit_code: int | None = None  # the script's own; None while it runs, and after kill -9
    buckle: tuple[Misfit, ...] = ()  # what is put on wrongly about clipping
    fix: Fix | None = None  # None: none was asked for
    failed_after: float | None = None  # seconds from the watched run's first line to its first bad step
