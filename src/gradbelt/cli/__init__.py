"""The command `gradbelt`: one file a command, each loaded when it is called."""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Any

import click

import gradbelt
from gradbelt.errors import USAGE, GradbeltError

COMMANDS = {
    "run": "Run a training script under watch; if it explodes, find out why and what cures it.",
    "check": "Before training, in seconds: is it going to explode, and is clipping needed?",
    "report": "Show a recorded run again: in the terminal, as a page, as JSON.",
    "runs": "List the recorded runs.",
    "lab": "Small experiments: a fault each, diagnosed and cured; and how often the detectors are right.",
    "demo": "Train a small language model until it explodes, and see it diagnosed.",
    "remedies": "What can be tried on a script from outside.",
    "causes": "What gradbelt looks for when a run has exploded.",
    "symptoms": "What is watched for at every step.",
    "rules": "The ways to clip.",
}


class _Lazy(click.Group):
    """Imports a command's module only when that command is asked for: `gradbelt --help` stays instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = "known" if cmd_name in ("remedies", "causes", "symptoms", "rules") else cmd_name
        command: click.Command = getattr(importlib.import_module(f"gradbelt.cli.{module}"), cmd_name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean 'gradbelt {near[0]}'?" if near else "see 'gradbelt --help'"
            if args[0].endswith(".py"):
                hint = f"did you mean 'gradbelt run {args[0]}'?"
            raise click.UsageError(f"no command {args[0]!r}; {hint}", ctx=None)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(gradbelt.__version__, prog_name="gradbelt")
def cli() -> None:
    """A seatbelt, a black box and a clinic for training runs that explode.

    \b
      gradbelt run train.py --epochs 3       watch an unchanged script; diagnose and cure it if it explodes
      gradbelt check train.py                stop at its first step: is it going to explode, is clipping needed
      gradbelt report runs/2026-...          see it again

    Exit code: the script's own if it failed by itself, 0 healthy, 10 exploded, 2 usage, 3 unreadable record,
    4 no training step to check.
    """


def main() -> None:
    """Runs the command line; every expected failure is one plain line on stderr and its exit code."""
    try:
        code = cli.main(standalone_mode=False)
    except GradbeltError as error:
        _complain(str(error), error.exit_code)
    except click.UsageError as error:
        _complain(error.format_message(), USAGE)
    except click.ClickException as error:
        _complain(error.format_message(), error.exit_code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # `gradbelt runs | head`
        sys.stderr.close()
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(line: str, code: int) -> None:
    click.echo(f"gradbelt: {line}", err=True)
    sys.exit(code)
