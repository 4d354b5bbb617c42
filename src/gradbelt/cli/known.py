"""`gradbelt remedies | causes | symptoms | rules`: what is known, from the docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import click

from gradbelt import causes as causes_
from gradbelt import clip
from gradbelt import remedies as remedies_
from gradbelt import symptoms as symptoms_


@click.command()
def remedies() -> None:
    """What can be tried on a script from outside: `gradbelt run --with NAME=VALUE script.py`."""
    for remedy in remedies_.REMEDIES.values():
        _entry(remedies_.spell(remedy()), remedy, (f"Edit: {remedy.EDIT}", f"Source: {remedy.SOURCE}"))


@click.command()
def causes() -> None:
    """What gradbelt looks for when a run has exploded."""
    for cause in causes_.CAUSES:
        _entry(cause.name, type(cause), (f"Usual cures: {', '.join(cause.cures)}",))


@click.command()
def symptoms() -> None:
    """What is watched for at every step, and after the last."""
    for seen in symptoms_.DETECTORS:
        _entry(", ".join(seen.kinds), type(seen))
    for known in symptoms_.HINDSIGHTS:
        _entry(", ".join(known.kinds), type(known))


@click.command()
def rules() -> None:
    """The ways to clip: `gradbelt run --clip NAME:VALUE script.py`, `gradbelt.fasten(..., clip=...)`."""
    for name, rule in clip.RULES.items():
        _entry(name, rule, (f"Source: {rule.SOURCE}",))


def _entry(title: str, of: type, more: Iterable[str] = ()) -> None:
    text = inspect.getdoc(of) or ""
    click.echo(click.style(title, bold=True))
    for line in (*text.splitlines(), *more):
        click.echo(f"    {line}".rstrip())
    click.echo()
