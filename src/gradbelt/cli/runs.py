"""`gradbelt runs`: what has been recorded."""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from gradbelt.blackbox import list_runs


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
def runs(folder: Path) -> None:
    """List the recorded runs in FOLDER [default: runs], newest first."""
    found = list_runs(folder)
    if not found:
        click.echo(f"no runs in {folder}; record one with: gradbelt run train.py")
        return
    table = Table(box=None, pad_edge=False)
    for title in ("run", "script", "started", "steps", "state"):
        table.add_column(title, justify="right" if title == "steps" else "left", overflow="fold")
    for run in found:
        state = {True: "exploded", False: "healthy", None: "no verdict"}[run.exploded]
        started = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started))
        table.add_row(
            str(run.folder), run.script, started, str(run.num_steps), state if run.finished else f"unfinished, {state}"
        )
    Console().print(table)
