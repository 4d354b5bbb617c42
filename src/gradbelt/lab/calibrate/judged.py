"""A recorded run, judged again by every detector and by every rival's rule: where each spoke, and how loudly."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from gradbelt._types import Level, RunRecord
from gradbelt.belt.judge import onset, retrace
from gradbelt.blackbox import load_run
from gradbelt.lab.calibrate.corpus import Label
from gradbelt.lab.calibrate.rivals import RIVALS
from gradbelt.symptoms import DETECTORS, HINDSIGHTS

QUIET = 50  # steps of silence that end an episode: one that speaks again sooner has not spoken anew
ALL, VERDICT = "gradbelt", "gradbelt, its verdict"  # all that its detectors say, and what it makes of that in the end


@dataclass(frozen=True, slots=True)
class Word:
    """One step at which something was said, the loudest of it."""

    step: int  # at which it was said; what it was about can lie before
    level: Level
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One run: what is known of it, and what each detector and rival said, in order of steps."""

    label: Label
    steps: int
    broken: int | None  # the first step at which the loss, a gradient or a weight was not finite
    said: Mapping[str, tuple[Word, ...]] = field(default_factory=dict)


def judged(folder: Path) -> Judged | None:
    """The run in this folder, by all detectors and rivals; None where it has not ended yet, or is none of these."""
    record = load_run(folder)
    known = record.meta.get("lab")
    if not isinstance(known, dict):
        return None
    label = Label(**{**known, "kinds": tuple(known["kinds"])})
    said = {**_ours(record), **_theirs(record, label)}
    return Judged(label=label, steps=record.num_steps, broken=broken(record), said=said)


def judged_all(folders: Iterable[Path], workers: int) -> Iterator[Judged]:
    """Each run as it has been judged."""
    if workers <= 1:
        yield from filter(None, map(judged, folders))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from filter(None, pool.map(judged, folders, chunksize=4))


def broken(record: RunRecord) -> int | None:
    """The first step at which the loss, a gradient or a weight was not finite; None where there is none.

    Read off the numbers themselves, for no detector is to be its own witness.
    """
    for row in record.steps:
        weight = row.measurement().weight_total
        numbers = (row.total, *row.losses.values(), 0.0 if weight is None else weight)
        if not all(map(math.isfinite, numbers)):
            return row.step
    return record.num_steps if any(not math.isfinite(loss) for loss in record.tail.values()) else None


def episodes(words: Iterable[Word], quiet: int = QUIET) -> list[Word]:
    """The words of which each begins an episode, as loud as the loudest in it.

    >>> [word.step for word in episodes([Word(3, Level.WARN), Word(5, Level.ALARM), Word(90, Level.WARN)])]
    [3, 90]
    """
    found: list[Word] = []
    last = -math.inf
    for word in words:
        if word.step - last > quiet:
            found.append(word)
        elif word.level > found[-1].level:
            found[-1] = Word(found[-1].step, word.level, found[-1].kinds)
        last = word.step
    return found


def _ours(record: RunRecord) -> dict[str, tuple[Word, ...]]:
    """By the name of each detector, those that look back included; of all together; and of the verdict in the end."""
    said: dict[str, list[Word]] = {name: [] for name in (ALL, VERDICT, *map(_name, (*DETECTORS, *HINDSIGHTS)))}
    for row, signals, history in retrace(record):
        found = {_name(detector): detector.look(signals, history) for detector in DETECTORS}
        heard = {name: finding for name, finding in found.items() if finding is not None}
        for name, finding in heard.items():
            said[name].append(Word(row.step, finding.level, (finding.kind,)))
        if heard:
            loudest = max(finding.level for finding in heard.values())
            said[ALL].append(Word(row.step, loudest, tuple(finding.kind for finding in heard.values())))
    for hindsight in HINDSIGHTS:
        seen = hindsight.look_back(record)
        if seen is not None:
            word = Word(record.num_steps, seen.level, (seen.kind,))
            said[_name(hindsight)].append(word)
            said[ALL].append(word)
    said[VERDICT] += sorted((Word(f.step, f.level, (f.kind,)) for f in onset(record).findings), key=lambda w: w.step)
    return {name: tuple(words) for name, words in said.items()}


def _name(detector: object) -> str:
    return type(detector).__name__


def _theirs(record: RunRecord, label: Label) -> dict[str, tuple[Word, ...]]:
    return {
        rival.name: tuple(
            Word(row.step, Level.ALARM)
            for row, spoke in zip(record.steps, rival.rule(record.steps, label.sizes), strict=True)
            if spoke
        )
        for rival in RIVALS
    }
