"""`gradbelt report`: a recorded run, shown again."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gradbelt._told import LANGUAGES, language
from gradbelt._types import Story
from gradbelt.belt.judge import onset
from gradbelt.belt.misfits import misfits_of
from gradbelt.blackbox import load_run
from gradbelt.errors import UnreadableRecord, UsageError
from gradbelt.prescribe import advise_clip
from gradbelt.report import read_verdict, render_console, render_html, write_verdict


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--html", metavar="PATH", type=click.Path(path_type=Path), help="Write the page there.")
@click.option("--json", "json_", metavar="PATH", help="Write the verdict there, or to stdout with -.")
@click.option("--lang", type=click.Choice(LANGUAGES), help="Language. [default: the environment's]")
def report(run: Path, html: Path | None, json_: str | None, lang: str | None) -> None:
    """Show a recorded run again. RUN is its folder, also of a run that is still going or was killed.

    \b
      gradbelt report runs/2026-11-21T10-00-00-train-1a2b
      gradbelt report runs/2026-... --html story.html --lang ja
      gradbelt report runs/2026-... --json - | jq .causes

    Exit code 3 where there is no readable record.
    """
    record = load_run(run)
    try:
        story = read_verdict(record.folder / "verdict.json")
    except UnreadableRecord:
        if (record.folder / "verdict.json").exists():
            raise
        story = unfinished(record.folder)
    spoken = language(lang)
    try:
        if html is not None:
            html.write_text(render_html(story, record, lang=spoken), encoding="utf-8")
        if json_ == "-":
            click.echo(write_verdict(story))
        elif json_ is not None:
            Path(json_).write_text(write_verdict(story), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"can't write {error.filename}: {error.strerror}") from None
    if json_ != "-":
        color = sys.stdout.isatty()
        click.echo(render_console(story, lang=spoken, folder=record.folder, color=color).rstrip("\n"))


def unfinished(folder: Path) -> Story:
    """The story so far of a run that has no verdict: it is still going, or was killed."""
    record = load_run(folder)
    found = onset(record)
    argv = record.meta.get("argv")
    code = record.meta.get("exit_code")
    return Story(
        version=str(record.meta.get("gradbelt", "?")),
        script=str(record.meta.get("script", "?")),
        argv=tuple(map(str, argv)) if isinstance(argv, list) else (),
        exploded=found.exploded,
        steps=record.num_steps,
        first_warning_step=found.warning_step,
        first_bad_step=found.bad_step,
        symptoms=found.findings,
        origin=None,
        causes=(),
        trials=(),
        prescriptions=(),
        clip=advise_clip(record, found),
        reproduced=None,
        seconds={},
        exit_code=code if isinstance(code, int) else None,
        buckle=misfits_of(record),
    )
