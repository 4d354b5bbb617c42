"""`gradbelt lab`: small honest experiments."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as Drawn

from gradbelt._told import LANGUAGES, language
from gradbelt.blackbox.schema import FILENAME
from gradbelt.cli.demo import show
from gradbelt.errors import UsageError
from gradbelt.lab import experiments, source

if TYPE_CHECKING:
    from gradbelt.lab.calibrate.corpus import Job
    from gradbelt.lab.calibrate.judged import Judged
    from gradbelt.lab.calibrate.table import Table


class _Lab(click.Group):
    """`calibrate`, and a command for every script of the lab."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *experiments()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = super().get_command(ctx, cmd_name)
        return _experiment(cmd_name) if known is None and cmd_name in experiments() else known


@click.group(cls=_Lab, invoke_without_command=True)
@click.pass_context
def lab(context: click.Context) -> None:
    """Small honest experiments: one fault each, diagnosed and cured before your eyes.

    \b
    Examples:
      gradbelt lab                    what there is
      gradbelt lab depth              run one, as `gradbelt run` would
      gradbelt lab depth --print      read it first
      gradbelt lab calibrate          how often the detectors are right
    """
    if context.invoked_subcommand is None:
        click.echo(f"{click.style('calibrate', bold=True)}\n    {calibrate.get_short_help_str(120)}")
        for name, what in experiments().items():
            click.echo(f"{click.style(name, bold=True)}\n    {what}")


def _experiment(name: str) -> click.Command:
    @click.command(name, help=experiments()[name])
    @click.option("--print", "only_print", is_flag=True, help="Print the script; run nothing.")
    @click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="The run's folder. [default: runs/...]")
    @click.option("--lang", type=click.Choice(LANGUAGES), help="Language. [default: the environment's]")
    def command(only_print: bool, out: Path | None, lang: str | None) -> int:
        if only_print:
            click.echo(source(name), nl=False)
            return 0
        code, _ = show(name, out, language(lang))
        return code

    return command


@lab.command()
@click.option("--steps", type=click.IntRange(min=60), help="Of a healthy training. [default: 1200]")
@click.option("--seeds", type=click.IntRange(min=1), help="Of each training. [default: 2]")
@click.option("--first", type=click.IntRange(min=0), default=0, help="The first seed. [default: 0]")
@click.option("--only", metavar="NAME", multiple=True, help="Only this training (repeatable); see --list.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes. [default: one a core]")
@click.option("--keep", metavar="DIR", type=click.Path(path_type=Path), help="Leave the black boxes here.")
@click.option("--replay", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False),
              help="Judge what --keep left; run nothing.")  # fmt: skip
@click.option("--json", "json_path", metavar="PATH", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--markdown", metavar="PATH", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--list", "listing", is_flag=True, help="List the trainings and faults; run nothing.")
def calibrate(
    steps: int | None, seeds: int | None, first: int, only: tuple[str, ...], jobs: int | None, keep: Path | None,
    replay: Path | None, json_path: Path | None, markdown: Path | None, listing: bool,
) -> None:  # fmt: skip
    """How early explosions are found, and how often alarms are false, beside the rules of others.

    Runs small real trainings that go well, faults put into them, and trainings that fail by themselves; records each
    once in a black box; then lets every detector and every rival's rule judge the records. The whole of it takes some
    ten minutes on two cores.
    """
    from gradbelt.lab.calibrate import corpus
    from gradbelt.lab.calibrate.table import as_json, tables

    if listing:
        _list()
        return
    workers = jobs or os.cpu_count() or 1
    with ExitStack() as stack:
        if replay is None:
            todo = corpus.jobs(steps=steps or corpus.STEPS, seeds=seeds or corpus.SEEDS, first=first, only=only)
            if not todo:
                raise UsageError(f"no training called {' or '.join(only)}. See them: gradbelt lab calibrate --list")
            folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gradbelt-lab-")))
            _record(todo, folder, workers)
        else:
            folder = replay
        runs = _judge(folder, workers)
    drawn = tables(runs)
    for table in drawn:
        _show(table)
    if json_path is not None:
        with click.open_file(json_path, "w") as stream:
            json.dump(as_json(runs), stream, indent=1)
    if markdown is not None:
        with click.open_file(markdown, "w") as stream:
            stream.write("\n\n".join(table.markdown() for table in drawn) + "\n")


def _list() -> None:
    from gradbelt.lab.calibrate.healthy import HEALTHY
    from gradbelt.lab.calibrate.injected import INJECTED
    from gradbelt.lab.calibrate.natural import NATURAL

    sections = {
        "healthy": {name: script.__doc__ for name, script in HEALTHY.items()},
        "injected": {fault.__name__: fault.__doc__ for fault in INJECTED},
        "natural": {name: natural.script.__doc__ for name, natural in NATURAL.items()},
    }
    for title, known in sections.items():
        click.echo(click.style(f"{title}: {len(known)}", bold=True))
        for name, doc in known.items():
            click.echo(f"    {name}: {(doc or '').strip()}")


def _record(todo: Sequence[Job], folder: Path, workers: int) -> None:
    from gradbelt.lab.calibrate.corpus import record_all

    with _progress() as progress:
        task = progress.add_task("running (steps)", total=sum(job.total for job in todo))
        for job, _ in record_all(todo, folder, workers):
            progress.update(task, advance=job.total)


def _judge(folder: Path, workers: int) -> list[Judged]:
    from gradbelt.lab.calibrate.judged import judged_all

    folders = sorted(file.parent for file in folder.glob(f"*/{FILENAME}"))
    if not folders:
        raise UsageError(f"no runs in {folder}. Make some: gradbelt lab calibrate --keep {folder}")
    with _progress() as progress:
        runs = list(progress.track(judged_all(folders, workers), total=len(folders), description="judging (runs)"))
    if not runs:
        raise UsageError(f"no run in {folder} is one of the lab's. Make some: gradbelt lab calibrate --keep DIR")
    return runs


def _progress() -> Progress:
    return Progress(
        TextColumn("gradbelt: {task.description}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(stderr=True),
    )  # fmt: skip


def _show(table: Table) -> None:
    drawn = Drawn(title=table.title, caption=table.note, title_justify="left", caption_justify="left")
    for i, column in enumerate(table.columns):
        drawn.add_column(escape(column), no_wrap=i == 0)
    for row in table.rows:
        drawn.add_row(*map(escape, row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(drawn)
    console.print()
