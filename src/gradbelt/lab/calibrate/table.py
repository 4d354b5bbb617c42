"""Judged runs, counted: recall, false alarms, lead; as rows, as tables in a terminal, as JSON, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from gradbelt._types import Level
from gradbelt.lab.calibrate.judged import ALL, VERDICT, Judged, Word, episodes
from gradbelt.lab.calibrate.rivals import RIVALS

SOON = 20  # steps within which what happens at one step must be seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one detector, or one rival, did over the whole corpus."""

    name: str
    source: str
    found: int  # faults at which it spoke, a warning or louder
    faults: int
    alarms: int  # episodes on healthy runs
    warnings: int
    watches: int
    steps: int  # healthy ones
    leads: tuple[int, ...]  # of ramps that ended in something not finite: steps from the first word to that, if any
    ramps: int  # such ramps

    @property
    def recall(self) -> float:
        return self.found / max(self.faults, 1)

    @property
    def alarms_per_1e5(self) -> float:
        return 1e5 * self.alarms / max(self.steps, 1)

    @property
    def warnings_per_1e4(self) -> float:
        return 1e4 * self.warnings / max(self.steps, 1)

    @property
    def lead(self) -> float | None:
        """Median over the ramps it spoke of in time."""
        return statistics.median(self.leads) if self.leads else None

    @property
    def in_time(self) -> float:
        """Share of ramps of which it spoke before anything was not finite."""
        return len(self.leads) / max(self.ramps, 1)


def rows(runs: Sequence[Judged]) -> list[Row]:
    """All of ours, each alone and together, then the rivals."""
    sources = {rival.name: rival.source for rival in RIVALS}
    names = dict.fromkeys(name for run in runs for name in run.said)
    ordered = [ALL, VERDICT, *(n for n in names if n not in sources and n not in (ALL, VERDICT)), *sources]
    return [_row(name, sources.get(name, ""), runs) for name in ordered if name in names]


def _row(name: str, source: str, runs: Sequence[Judged]) -> Row:
    healthy = [run for run in runs if run.label.counts and run.label.shape is None]
    faults = [run for run in runs if run.label.counts and run.label.shape is not None]
    ramps = [run for run in faults if run.label.shape == "ramp" and run.broken is not None]

    def count(level: Level) -> int:
        """Episodes on healthy runs that are as loud as this, at most. Those of a level are told apart before they are
        counted: a long episode of watching does not swallow the alarms in it."""
        mine = [[word for word in run.said[name] if word.level >= level] for run in healthy]
        return sum(episode.level is level for words in mine for episode in episodes(words))

    leads = []
    for run in ramps if name != VERDICT else ():  # which comes when all is over
        word = first(run, name)
        if word is not None and run.broken is not None and word.step < run.broken:
            leads.append(run.broken - word.step)
    return Row(
        name=name,
        source=source,
        found=sum(found(run, name) for run in faults),
        faults=len(faults),
        alarms=count(Level.ALARM),
        warnings=count(Level.WARN),
        watches=count(Level.WATCH),
        steps=sum(run.steps for run in healthy),
        leads=tuple(leads),
        ramps=len(ramps),
    )


def first(run: Judged, name: str) -> Word | None:
    """The first episode that began with the fault or after it; what went on already then says nothing of it.

    Of what happens at one step it must begin soon after.
    """
    return next((word for word in episodes(_loud(run.said[name])) if run.label.at <= word.step <= _last(run)), None)


def found(run: Judged, name: str) -> bool:
    """Whether a fault was found: a warning or louder, or the symptom's own name where it is one that never warns."""
    kinds = set(run.label.kinds)
    named = any(kinds & set(word.kinds) and run.label.at <= word.step <= _last(run) for word in run.said[name])
    return named or first(run, name) is not None


def _last(run: Judged) -> int:
    """The last step at which a word can be about the fault. What fails by itself does so at a step of its own."""
    at_once = run.label.shape in ("spike", "nonfinite") and run.label.fault != run.label.script
    return run.label.at + SOON if at_once else run.steps


def _loud(words: Iterable[Word]) -> list[Word]:
    return [word for word in words if word.level >= Level.WARN]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A title, columns, rows of text, and a line below them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [self.columns, tuple("-" * width for width in widths), *self.rows]
        drawn = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
        return "\n".join([f"## {self.title}", "", *drawn, *(["", self.note] if self.note else [])])


def tables(runs: Sequence[Judged]) -> list[Table]:
    """Of all detectors and rivals, of ours by fault, of ours by healthy training, of what is no part of the corpus."""
    return [_detectors(runs), _faults(runs), *_loud_ones(runs), *_refused(runs)]


def _detectors(runs: Sequence[Judged]) -> Table:
    def lead(row: Row) -> str:
        return "-" if row.lead is None else f"{row.lead:g}"

    return Table(
        title="Detectors, and the rivals' rules",
        columns=("", "recall", "alarms / 1e5", "warnings / 1e4", "watched / 1e4", "ramps in time", "lead", "source"),
        rows=tuple(
            (
                row.name,
                f"{row.found}/{row.faults} {row.recall:.1%}",
                f"{row.alarms_per_1e5:.1f} ({row.alarms})",
                f"{row.warnings_per_1e4:.2f} ({row.warnings})",
                f"{1e4 * row.watches / max(row.steps, 1):.1f}",
                "-" if row.name == VERDICT else f"{len(row.leads)}/{row.ramps} {row.in_time:.0%}",
                lead(row),
                row.source,
            )
            for row in rows(runs)
        ),
        note="Recall: faults of which a warning or louder came with them or after, or whose own symptom was named; one "
        f"step's fault within {SOON} steps. Alarms and warnings: episodes on healthy steps. In time: of ramps that end "
        "in a nan or an inf, those spoken of before it; lead: median steps between the two.",
    )


def _faults(runs: Sequence[Judged]) -> Table:
    sick = [run for run in runs if run.label.shape is not None and run.label.counts]
    by_name: dict[str, list[Judged]] = {}
    for run in sick:
        by_name.setdefault(str(run.label.fault), []).append(run)

    def line(name: str, mine: Sequence[Judged]) -> tuple[str, ...]:
        broke = [run for run in mine if run.broken is not None]
        words = [(run, first(run, ALL)) for run in broke]
        leads = [(run.broken or 0) - word.step for run, word in words if word is not None]
        missed = [run.label.name for run in mine if not found(run, ALL)]
        return (
            name, str(mine[0].label.shape), str(len(mine)), str(len(broke)),
            f"{len(mine) - len(missed)}", "-" if not leads else f"{statistics.median(leads):g}",
            " ".join(f"{run.label.script}-{run.label.seed}" for run in mine if run.label.name in missed),
        )  # fmt: skip

    return Table(
        title="Faults, and gradbelt",
        columns=("fault", "shape", "runs", "broke", "found", "lead", "missed in"),
        rows=tuple(line(name, mine) for name, mine in sorted(by_name.items(), key=lambda item: _order(item[1][0]))),
        note="Broke: came to a nan or an inf. Lead: median steps from the first warning to that.",
    )


def _order(run: Judged) -> tuple[str, str]:
    return str(run.label.shape), str(run.label.fault)


def _loud_ones(runs: Sequence[Judged]) -> list[Table]:
    """Every warning and alarm of ours on a healthy run."""
    lines = []
    for run in runs:
        if run.label.shape is None and run.label.counts:
            for word in episodes(_loud(run.said[ALL])):
                lines.append((run.label.name, str(word.step), word.level.name.lower(), ", ".join(word.kinds)))
    columns = ("run", "step", "level", "kind")
    return [Table(title="What gradbelt said of healthy runs", columns=columns, rows=tuple(lines))] if lines else []


def _refused(runs: Sequence[Judged]) -> list[Table]:
    """Runs that are no part of the corpus, by their outcome."""
    out = [run.label for run in runs if not run.label.counts]
    if not out:
        return []
    return [
        Table(
            title="Left out of the corpus, by their outcome",
            columns=("run", "because"),
            rows=tuple(
                (label.name, "it did not learn" if label.shape is None else "the fault did nothing")
                for label in sorted(out, key=lambda label: label.name)
            ),
        )
    ]


def as_json(runs: Sequence[Judged]) -> dict[str, object]:
    """The rows, and what is known of each run with what gradbelt said of it."""

    def told(words: Iterable[Word]) -> list[list[object]]:
        return [[word.step, word.level.name.lower(), list(word.kinds)] for word in episodes(words)]

    return {
        "rows": [
            {
                **asdict(row), "recall": row.recall, "alarms_per_1e5": row.alarms_per_1e5,
                "warnings_per_1e4": row.warnings_per_1e4, "lead": row.lead, "in_time": row.in_time,
            }
            for row in rows(runs)
        ],
        "runs": [
            {
                **{k: v for k, v in asdict(run.label).items() if k != "sizes"},
                "counts": run.label.counts, "broken": run.broken, "said": told(run.said[ALL]),
            }
            for run in runs
        ],
    }  # fmt: skip
