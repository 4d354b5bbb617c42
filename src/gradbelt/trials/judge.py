"""RunRecord -> Outcome: what became of the script under a remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from gradbelt._told import tell
from gradbelt._types import Outcome, RunRecord
from gradbelt.belt.judge import onset
from gradbelt.errors import UsageError
from gradbelt.supervise.prospect import FEWEST, LOST, TAIL, last_loss, learnt

POINTS = 300  # kept of a curve
BETTER = 0.99  # times the loss of a guess: above it nothing was learnt, wherever it began


class Metric:
    """A number that the script prints, judged beside the loss: `REGEX`, first group; lower is better.

    With `max:` before it, higher is better. The last match in the output counts.

    >>> Metric(r"final_loss=(\\S+)").read("epoch 1\\nfinal_loss=0.25\\n")
    0.25
    """

    def __init__(self, text: str) -> None:
        self.highest = text.startswith("max:")
        try:
            self.regex = re.compile(text.removeprefix("max:"))
        except re.error as error:
            raise UsageError(f"--metric {text!r} is not a regular expression: {error}") from None
        if self.regex.groups < 1:
            raise UsageError(f"--metric {text!r} has no group; put the number in one: 'final_loss=(\\S+)'")

    def read(self, output: str) -> float | None:
        """The last value printed, or None."""
        for match in reversed(list(self.regex.finditer(output))):
            try:
                return float(match.group(1))
            except (TypeError, ValueError):
                continue
        return None

    def better(self, a: float, b: float) -> bool:
        return a > b if self.highest else a < b


def judge_trial(
    record: RunRecord,
    remedy: str,
    *,
    seconds: float,
    metric: Metric | None = None,
    travelled: float = math.inf,
    guess: float | None = None,
    note: str = "",
) -> Outcome:
    """Nonfinite, finite but not learning, or learning.

    Learning: the run lived to its end, nothing in it was alarming, and the median loss of its last tenth lies below 0.9
    times the loss it began with, and below `guess`, the loss of a model that answers the same to everything, where that
    is known. Clipping that merely keeps a broken net finite does not get there: it may begin anywhere. Where several
    optimizers play against each other no loss need fall; there a run must at least have gone further than the
    unchanged one: `travelled` is the way it went, steps times learning rate, over the way to the first bad step. A
    hundredth of the learning rate also postpones the end a hundredfold. Zero: it was stopped before that step, and
    nothing can be said.
    """
    losses = combined(record)
    lost = any(event.kind == LOST for event in record.events)  # downwards, too, where nothing bounds a loss
    outcome = "finite_not_learning"
    if not _lived(record, losses):
        outcome = "nonfinite"
    elif not lost and not onset(record).exploded and _learnt(losses, record, travelled):
        outcome = "learning"
        if guess is not None and _is_no_better(losses, record, guess):
            outcome = "finite_not_learning"
            note = note or tell(
                "it ends no lower than {guess}, the loss of a model that answers the same to everything",
                guess=f"{guess:.4g}",
            )
    rows = record.steps
    clipped = sum(row.clipped for row in rows)
    return Outcome(
        remedy=remedy,
        outcome=outcome,
        steps=record.num_steps,
        loss=last_loss(losses),
        metric=None if metric is None else metric.read(_output(record.folder)),
        seconds=seconds,
        clip_rate=clipped / len(rows) if rows and "clip" in remedy else None,
        curve=thin(losses),
        norms=thin([(row.step, row.total) for row in rows]),
        note=note,
    )


def combined(record: RunRecord) -> list[tuple[int, float]]:
    """(step, loss) with the losses of all streams of a step added; nan where any is."""
    by_step: dict[int, float] = {}
    for row in record.steps:
        for loss in row.losses.values():
            by_step[row.step] = by_step.get(row.step, 0.0) + loss
    return sorted(by_step.items())


def thin(points: Sequence[tuple[int, float]], most: int = POINTS) -> tuple[tuple[int, float], ...]:
    """At most `most` of the points, evenly, the last one always among them."""
    if len(points) <= most:
        return tuple(points)
    stride = math.ceil(len(points) / (most - 1))
    kept = list(points[::stride])
    return tuple(kept if kept[-1] == points[-1] else [*kept, points[-1]])


def _lived(record: RunRecord, losses: Sequence[tuple[int, float]]) -> bool:
    """Whether the run came to its end in finite numbers: isolated bad losses whose step was left out are no death."""
    if record.meta.get("exit_code") not in (0, None) or not losses:
        return False
    tail = losses[-max(FEWEST, int(TAIL * len(losses))) :]
    if sum(not math.isfinite(loss) for _, loss in tail) > len(tail) / 5:
        return False
    weights = [row.measurement().weight_total for row in record.steps[-50:]]
    return all(weight is None or math.isfinite(weight) for weight in weights)


def _learnt(losses: Sequence[tuple[int, float]], record: RunRecord, travelled: float) -> bool:
    if travelled == 0.0:
        return False
    if has_players(record):
        return travelled > 1.0  # no loss need fall, only live on past the onset
    return learnt(losses)


def _is_no_better(losses: Sequence[tuple[int, float]], record: RunRecord, guess: float) -> bool:
    """Whether one loss, and no sum of several, stays as high as that of a guess."""
    end = last_loss(losses)
    return len({where for row in record.steps for where in row.losses}) == 1 and not (end or 0.0) < BETTER * guess


def has_players(record: RunRecord) -> bool:
    """Whether several optimizers play against each other, each on a loss of its own."""
    streams = {where for row in record.steps for where in row.losses}
    return len(streams) > 1 and len({row.optimizer for row in record.steps}) > 1


def _output(folder: Path) -> str:
    try:
        return (folder / "stdout.log").read_text(errors="replace")
    except OSError:
        return ""
