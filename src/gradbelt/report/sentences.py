"""What the console and the page say in the same words: the story in sentences."""

from __future__ import annotations

import math
import shlex
from typing import Literal, TypeAlias

from gradbelt._told import Told, say, tell
from gradbelt._types import ClipAdvice, Finding, Fix, Level, Misfit, Origin, Outcome, Prescription, Story, Suspicion
from gradbelt.remedies import REMEDIES
from gradbelt.report.words import CAUSE, FOLLOWS, IDLE, MASKS, OUTCOME, STAGE, SYMPTOM, called, figure, percent

Status: TypeAlias = Literal["exploded", "warned", "healthy", "nothing"]


def status(story: Story) -> Status:
    """What the run comes down to. "nothing" is a run without a step, where nothing can be said."""
    if story.exploded:
        return "exploded"
    if not story.steps:
        return "nothing"
    return "warned" if any(finding.level >= Level.WARN for finding in story.symptoms) else "healthy"


def headline(story: Story) -> Told:
    """The run in one sentence, without its full stop."""
    turned = at(story)
    match status(story):
        case "exploded" if turned is None:
            return tell("{script} exploded", script=printable(story.script))
        case "exploded":
            return tell(
                "{script} exploded at step {step} of {steps}",
                script=printable(story.script), step=turned, steps=story.steps,
            )  # fmt: skip
        case "warned" if any(finding.kind == "grad_vanishing" for finding in story.symptoms):
            return tell(
                "{script} did not explode, nor did it learn: {steps} steps, no alarm",
                script=printable(story.script), steps=story.steps,
            )  # fmt: skip
        case "warned":
            return tell(
                "{script} is healthy after a warning: {steps} steps, no alarm",
                script=printable(story.script), steps=story.steps,
            )  # fmt: skip
        case "healthy" if story.steps == 1:
            return tell("{script} is healthy: one step, no alarm", script=printable(story.script))
        case "healthy":
            return tell(
                "{script} is healthy: {steps} steps, no alarm", script=printable(story.script), steps=story.steps
            )
        case "nothing":
            return tell("{script} made no step that gradbelt could see", script=printable(story.script))


def at(story: Story) -> int | None:
    """The step at which it exploded: the first bad one, else that of the first alarm."""
    if story.first_bad_step is not None:
        return story.first_bad_step
    return min((finding.step for finding in story.symptoms if finding.level is Level.ALARM), default=None)


def leading(story: Story) -> tuple[Finding, ...]:
    """The symptoms to name first: alarms before warnings, early before late, each kind once."""
    first: dict[str, Finding] = {}
    for finding in sorted(story.symptoms, key=lambda finding: (-finding.level, finding.step)):
        first.setdefault(finding.kind, finding)
    return tuple(first.values())


def seen(finding: Finding, lang: str) -> str:
    """What a detector saw, with its step: its own message where that can be said in `lang`, else the kind's phrase."""
    message = finding.message
    if not message or (lang != "en" and not isinstance(message, Told)):
        message = tell("{what} at {where}", what=SYMPTOM.get(finding.kind, finding.kind), where=finding.where or "")
        if not finding.where:
            message = SYMPTOM.get(finding.kind, finding.kind)
    if not message.startswith(f"step {finding.step}"):
        message = tell("step {step}: {what}", step=finding.step, what=message)
    return printable(say(message, lang))


def follows(finding: Finding, lang: str) -> str:
    """The limit that was crossed, where there is one, and what comes of it; empty for a kind that is not known."""
    known = FOLLOWS.get(f"{finding.kind} {finding.shape}") or FOLLOWS.get(finding.kind)
    if known is None:
        return ""
    if finding.limit is not None and math.isfinite(finding.limit):
        known = tell("limit {limit}; {follows}", limit=figure(finding.limit), follows=known)
    return say(known, lang)


def buckled(found: Misfit, lang: str) -> str:
    """What is put on wrongly about clipping, with the step at which it was certain."""
    return printable(say(tell("step {step}: {what}", step=found.step, what=found.message), lang))


def began(origin: Origin, lang: str) -> str:
    """The first bad operation: which, where in the model, where in the source."""
    where = " · ".join(part for part in (origin.module, source_line(origin)) if part)
    stage = STAGE.get(origin.stage, origin.stage)
    named = stage if origin.op == origin.stage else tell("{op} in the {stage}", op=origin.op, stage=stage)
    return printable(say(named, lang) + (f" · {where}" if where else ""))


def source_line(origin: Origin) -> str | None:
    if origin.file is None:
        return None
    return origin.file if origin.line is None else f"{origin.file}:{origin.line}"


def unknown_origin(story: Story) -> Told:
    """Why there is no origin to name."""
    if story.reproduced is None:
        return tell("not looked for: nothing was run again")
    if not story.reproduced:
        return tell("not found: a second run did not explode in the same way")
    return tell("not found")


def unknown_cause(story: Story) -> Told:
    if story.reproduced is None:
        return tell("not looked for: nothing was run again")
    return tell("no known cause fits what was seen")


def suspects(story: Story) -> tuple[Suspicion, ...]:
    """The causes to name first: two, or where none is certain all those that nothing has told apart from the first."""
    if not undetermined(story):
        return story.causes[:2]
    return tuple(c for i, c in enumerate(story.causes[:4]) if i < 2 or c.confidence > story.causes[0].confidence / 2)


def undetermined(story: Story) -> Told | None:
    """That no cause is likelier than all others together; None where one is."""
    if not story.causes or story.causes[0].confidence >= 0.5:
        return None
    if any(trial.remedy for trial in story.trials):
        return tell("undetermined: no trial has told these apart")
    return tell("undetermined: trials would tell these apart")


def became(trial: Outcome, lang: str) -> str:
    """What became of a trial, in a word or two."""
    if trial.idle:
        return say(IDLE, lang)
    return say(MASKS, lang) if trial.masks else called(trial.outcome, OUTCOME, lang)


def nothing_to_change(story: Story) -> Told:
    if story.reproduced is None:
        return tell("nothing was tried; run it again without --watch-only to try remedies")
    return tell("no remedy that was tried made it learn")


def why(story: Story, lang: str, most: int = 2) -> str:
    """The likeliest causes with their confidence, in one line."""
    return say(tell(", "), lang).join(
        f"{called(cause.cause, CAUSE, lang)} ({percent(cause.confidence)})" for cause in story.causes[:most]
    )


def clip_sentence(advice: ClipAdvice) -> Told:
    """Whether clipping is needed, at which threshold, how often it would act."""
    threshold = advice.threshold
    if not advice.needed:
        return tell("clipping is not needed")
    if threshold is None:
        return tell("clipping is needed")
    if advice.clip_rate is None:
        return tell("clipping is needed, at a total norm of {threshold}", threshold=figure(threshold))
    return tell(
        "clipping is needed, at a total norm of {threshold}; it acts on {rate} of the steps",
        threshold=figure(threshold), rate=percent(advice.clip_rate),
    )  # fmt: skip


def proof(item: Prescription) -> Told:
    return tell("verified by a trial") if item.verified else tell("not verified")


def fixed(fix: Fix, lang: str) -> str:
    """What became of the copy with the edit in it."""
    if fix.file is None:
        return printable(say(tell("nothing was written: {why}", why=fix.note), lang))
    if fix.outcome is None:
        return printable(
            say(tell("{file} was written, and could not be judged: {why}", file=fix.file, why=fix.note), lang)
        )
    said = tell(
        "{file} holds the edit for {remedies} and was run to its end: {outcome}, {steps} steps, loss {loss}",
        file=fix.file, remedies="+".join(fix.remedies), outcome=OUTCOME[fix.outcome.outcome], steps=fix.outcome.steps,
        loss=figure(fix.outcome.loss),
    )  # fmt: skip
    return printable(say(said, lang) + (f" ({say(fix.note, lang)})" if fix.note else ""))


def command(story: Story, item: Prescription) -> str:
    """The shell command that runs the script under a prescription; empty where that can't be done from outside."""
    if any(name.partition("=")[0] not in REMEDIES for name in item.remedies):
        return ""
    remedies = [word for name in item.remedies for word in ("--with", name)]
    script = shlex.split(story.script) if story.script.startswith("-m ") else [story.script]
    return printable(shlex.join(["gradbelt", "run", *remedies, *script, *story.argv]))


def best_first(trials: tuple[Outcome, ...]) -> list[Outcome]:
    """The control, then what learned (lowest loss first), what stayed finite, what did not, what had nothing to do."""
    order = {"learning": 0, "finite_not_learning": 1, "nonfinite": 2}

    def rank(trial: Outcome) -> tuple[bool, int, float]:
        # nan would leave the order to chance
        loss = trial.loss if trial.loss is not None and trial.loss == trial.loss else float("inf")
        return bool(trial.remedy), 4 if trial.idle else order.get(trial.outcome, 3), loss

    return sorted(trials, key=rank)


def printable(text: str) -> str:
    """`text` on one line, without the control characters that would move a terminal's cursor or colour it."""
    return "".join(char if char.isprintable() else " " for char in text)
