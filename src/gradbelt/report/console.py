"""The story in a terminal: a few lines after a run that exploded, one line after a healthy one."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradbelt._told import say, tell
from gradbelt._types import Finding, Outcome, Story
from gradbelt.report.sentences import (
    became,
    began,
    best_first,
    buckled,
    clip_sentence,
    command,
    fixed,
    headline,
    leading,
    nothing_to_change,
    printable,
    proof,
    seen,
    status,
    suspects,
    undetermined,
    unknown_cause,
    unknown_origin,
)
from gradbelt.report.words import CAUSE, UNCHANGED, called, figure, percent, seconds

MOST_SYMPTOMS, MOST_TRIALS, MOST_PRESCRIPTIONS = 2, 5, 2
COLOUR = {"learning": "green", "finite_not_learning": "yellow", "nonfinite": "red"}


def render_live(finding: Finding, lang: str = "en", *, color: bool = False) -> str:
    """The first alarm of a run that is still going, in one line (no newline at the end)."""
    console = on_paper(color, 100)
    console.print(Text.assemble(("gradbelt", "bold"), ": ", (seen(finding, lang), "red")), soft_wrap=True)
    return text_of(console).rstrip("\n")


def render_console(
    story: Story, *, lang: str = "en", folder: Path | None = None, color: bool = False, width: int = 96
) -> str:
    """The story, ending in a newline; `width` is in columns, and only commands and paths run past it."""
    console = on_paper(color, width)
    if not story.exploded:
        _one_line(console, story, lang, folder)
        _buckle(console, story, lang)
        return text_of(console)
    console.print(Text.assemble(("gradbelt", "bold"), ": ", (say(headline(story), lang), "bold red")), soft_wrap=True)
    rows = two_columns()
    _what(rows, story, lang)
    _where(rows, story, lang)
    _why(rows, story, lang)
    console.print(indented(rows))
    if story.trials:
        console.print(_tried(story, lang))
    _change(console, story, lang)
    rows = two_columns()
    if story.fix is not None:
        rows.add_row(
            _label(tell("fixed"), lang), Text(fixed(story.fix, lang), "green" if story.fix.proven else "yellow")
        )
    advice = say(clip_sentence(story.clip), lang)
    rows.add_row(_label(tell("clip"), lang), Text(advice + because(story.clip.why, lang)))
    console.print(indented(rows))
    _buckle(console, story, lang)
    if folder is not None:
        label = _label(tell("report"), lang)
        console.print(Text.assemble("  ", (label, "cyan"), "  ", str(folder / "report.html")), soft_wrap=True)
    return text_of(console)


def _one_line(console: Console, story: Story, lang: str, folder: Path | None) -> None:
    colour = {"healthy": "green", "warned": "yellow", "nothing": "yellow"}[status(story)]
    parts = [say(headline(story), lang)]
    if status(story) == "warned":
        parts.append(seen(leading(story)[0], lang))
    if story.steps:
        parts.append(say(clip_sentence(story.clip), lang))
    if story.exit_code:
        parts.append(say(tell("the script ended with exit code {code}", code=story.exit_code), lang))
    if folder is not None:
        parts.append(str(folder / "report.html"))
    line = Text.assemble(("gradbelt", "bold"), ": ", (parts[0], colour), *(f"; {part}" for part in parts[1:]))
    console.print(line, soft_wrap=True)


def _buckle(console: Console, story: Story, lang: str) -> None:
    """What is put on wrongly about clipping, or doesn't fit: nothing where all is right, which is nearly always."""
    rows = two_columns()
    notes = story.clip.notes if story.clip.fit not in ("fits", "early", "not_needed") else ()
    for number, note in enumerate(notes):
        rows.add_row(_label(tell("clip"), lang) if not number else "", Text(printable(say(note, lang))))
    for number, found in enumerate(story.buckle):
        rows.add_row(_label(tell("buckle"), lang) if not number else "", Text(buckled(found, lang)))
    if rows.row_count:
        console.print(indented(rows))


def _what(rows: Table, story: Story, lang: str) -> None:
    for number, finding in enumerate(leading(story)[:MOST_SYMPTOMS]):
        rows.add_row(_label(tell("what"), lang) if not number else "", Text(seen(finding, lang)))


def _where(rows: Table, story: Story, lang: str) -> None:
    label = _label(tell("where"), lang)
    if story.origin is None:
        rows.add_row(label, Text(say(unknown_origin(story), lang)))
        return
    rows.add_row(label, Text.assemble((began(story.origin, lang), "bold")))
    if story.origin.message:
        rows.add_row("", Text(printable(say(story.origin.message, lang))))


def _why(rows: Table, story: Story, lang: str) -> None:
    label = _label(tell("why"), lang)
    if not story.causes:
        rows.add_row(label, Text(say(unknown_cause(story), lang)))
    for number, cause in enumerate(suspects(story)):
        line = Text.assemble(
            (f"{percent(cause.confidence):>4} ", "bold"),
            called(cause.cause, CAUSE, lang),
            (f"  {cause.cause}", "dim"),
        )
        rows.add_row(label if not number else "", line)
        if not number and cause.evidence:
            rows.add_row("", Text("     " + printable(say(cause.evidence[0], lang))))
    if (doubt := undetermined(story)) is not None:
        rows.add_row("", Text(say(doubt, lang)))
    if story.causes and story.reproduced is False:
        rows.add_row("", Text(say(tell("a second run did not explode in the same way: take this as a guess"), lang)))


def _tried(story: Story, lang: str) -> Table:
    """The control and the best trials, one a row; the label of the section takes the first line."""
    trials = best_first(story.trials)
    shown = trials[:MOST_TRIALS]
    metric = any(trial.metric is not None for trial in shown)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_edge=False)
    table.add_column(Text("  " + _label(tell("tried"), lang), style="cyan"), no_wrap=True)
    table.add_column(say(tell("remedy"), lang), overflow="fold")
    table.add_column(say(tell("outcome"), lang))
    table.add_column(say(tell("loss"), lang), justify="right")
    if metric:
        table.add_column(say(tell("metric"), lang), justify="right")
    table.add_column(say(tell("steps"), lang), justify="right")
    table.add_column(say(tell("time"), lang), justify="right")
    for trial in shown:
        cells: list[Text | str] = ["", Text(printable(trial.remedy or say(UNCHANGED, lang))), _outcome(trial, lang)]
        cells.append(figure(trial.loss))
        if metric:
            cells.append(figure(trial.metric))
        table.add_row(*cells, str(trial.steps), seconds(trial.seconds))
    if len(trials) > len(shown):
        more = say(tell("and {count} more in the report", count=len(trials) - len(shown)), lang)
        table.add_row("", Text(more, style="dim"))
    return table


def _outcome(trial: Outcome, lang: str) -> Text:
    return Text(became(trial, lang), style="dim" if trial.idle else COLOUR.get(trial.outcome, ""))


def _change(console: Console, story: Story, lang: str) -> None:
    rows = two_columns()
    label = _label(tell("change"), lang)
    items = sorted(story.prescriptions, key=lambda item: item.rank)
    items = items[: 1 if items and items[0].verified else MOST_PRESCRIPTIONS]
    if not items:
        rows.add_row(label, Text(say(nothing_to_change(story), lang)))
    for number, item in enumerate(items):
        line = Text.assemble(
            (f"{item.rank}. " + printable(" ".join(item.remedies)), "bold"),
            "  ",
            (say(proof(item), lang), "green" if item.verified else "yellow"),
            because(item.why, lang),
        )
        rows.add_row(label if not number else "", line)
    console.print(indented(rows))
    if items and items[0].by_hand:
        console.print(Padding(Text(printable(say(items[0].by_hand, lang))), (0, 0, 0, len_cells(label) + 4)))
    if items and command(story, items[0]):
        console.print(Text.assemble("  ", " " * len_cells(label), "  $ ", command(story, items[0])), soft_wrap=True)


def because(why: str, lang: str) -> str:
    return f": {printable(say(why, lang))}" if why else ""


def _label(word: str, lang: str) -> str:
    """A section's label, padded so that all sections line up in any language."""
    words = [say(text, lang) for text in LABELS]
    text = say(word, lang)
    return text + " " * (max(map(len_cells, words)) - len_cells(text))


LABELS = (
    tell("what"),
    tell("where"),
    tell("why"),
    tell("tried"),
    tell("change"),
    tell("fixed"),
    tell("clip"),
    tell("buckle"),
    tell("report"),
)


def len_cells(text: str) -> int:
    """Columns that `text` takes; a Japanese character takes two."""
    return Text(text).cell_len


def two_columns() -> Table:
    """Sections: a label, and what it says, wrapped under itself."""
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(style="cyan", no_wrap=True)
    rows.add_column(overflow="fold")
    return rows


def indented(rows: Table) -> Padding:
    return Padding(rows, (0, 0, 0, 2), expand=False)


def on_paper(color: bool, width: int) -> Console:
    # an empty environment: what the caller asks for is what comes out, under NO_COLOR, COLUMNS or a pager alike
    return Console(
        file=io.StringIO(), width=width, force_terminal=color, color_system="standard" if color else None,
        no_color=not color, highlight=False, markup=False, emoji=False, legacy_windows=False, _environ={},
    )  # fmt: skip


def text_of(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return "".join(line.rstrip() + "\n" for line in file.getvalue().splitlines())
