"""`gradbelt demo`: a real small training run that explodes, from first warning to proven cure."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from gradbelt._told import LANGUAGES, language
from gradbelt.cli.run import Wishes, new_folder, watch_and_treat
from gradbelt.lab import source
from gradbelt.supervise.plan import Plan
from gradbelt.trials.run import Budget


@click.command()
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="The run's folder. [default: runs/...]")
@click.option("--lang", type=click.Choice(LANGUAGES), help="Language. [default: the environment's]")
def demo(out: Path | None, lang: str | None) -> int:
    """Train a character model on Python's own help texts until it explodes, and see it diagnosed and cured.

    The script is an ordinary one and knows nothing of gradbelt: it is what `gradbelt run` is given. Takes a minute or
    two.
    """
    code, exploded = show("char_rnn", out, language(lang))
    if not exploded:
        click.echo("gradbelt: the demo did not explode on this machine, which it should have", err=True)
        sys.exit(1)
    return code


def show(name: str, out: Path | None, lang: str) -> tuple[int, bool]:
    """`gradbelt run` on one of the lab's scripts, copied into the run's folder; its exit code, and whether it
    exploded."""
    folder = new_folder(out, name)
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / f"{name}.py"
    script.write_text(source(name), encoding="utf-8")
    click.echo(f"$ gradbelt run {script}", err=True)
    wishes = Wishes(
        trials=True,
        examine=True,
        budget=Budget(seconds=120.0, jobs=os.cpu_count() or 1),
        metric=None,
        json=None,
        lang=lang,
    )
    return watch_and_treat(Plan(script=str(script), folder=str(folder), seed=0, lang=lang), wishes)
