"""`gradbelt check`: before training, in seconds: is it going to explode, is clipping needed, at which threshold."""

from __future__ import annotations

import math
import re
import sys
import tempfile
from pathlib import Path

import click

from gradbelt._told import LANGUAGES, language, say, tell
from gradbelt.blackbox import load_run
from gradbelt.cli.run import check_script
from gradbelt.errors import EXPLODED, GradbeltError, NoStep, UnreadableRecord, UsageError
from gradbelt.examine.checkup import EVENT, Checkup, Look
from gradbelt.examine.foresee import foresee
from gradbelt.report.checkup import render_checkup, write_checkup
from gradbelt.supervise.launch import LOG, last_words, launch, wait_until
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.timemachine import SINGLE

FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--verbose", is_flag=True, help="Pass the script's output through, to stderr.")
@click.option("--seed", type=int, default=0, show_default=True, help="The script's own seeding wins.")
@click.option("--json", "json_", metavar="PATH", help="Also write it to PATH, or to stdout alone with -.")
@click.option("--lang", type=click.Choice(LANGUAGES), help="Language. [default: the environment's]")
@click.option("-m", "module", is_flag=True, help="SCRIPT is a module's name, as in python -m.")
@click.argument("script", metavar="SCRIPT|MODULE:FACTORY")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def check(
    verbose: bool, seed: int, json_: str | None, lang: str | None, module: bool, script: str, args: tuple[str, ...]
) -> int:
    """Look at a training script's first step, unchanged, and stop there.

    The script runs up to its first step in a process of its own, which is then ended. How values and gradients grow
    from layer to layer, the first loss, the logits and the first update say whether the run is going to explode, and
    its kind of network and its first gradients whether it needs clipping, and at which threshold.

    MODULE:FACTORY names a function that returns a model, or a model and an example input. Without an input, only its
    weights are looked at.

    \b
      gradbelt check train.py --epochs 3
      gradbelt check -m mypackage.train --config small.yaml
      gradbelt check mypackage.models:make
      gradbelt check --json - train.py | jq .clip

    Exit code: 0 nothing found, 10 something found, 2 usage, 4 no training step was seen; the script's own if it failed
    before its first step.
    """
    spoken = language(lang)
    factory = not module and not Path(script).exists() and FACTORY.fullmatch(script) is not None
    if factory and args:
        raise UsageError(f"{script} takes no arguments; a factory is called with none")
    if not module and not factory:
        check_script(script)
    with tempfile.TemporaryDirectory(prefix="gradbelt-check-", ignore_cleanup_errors=True) as folder:
        plan = Plan(
            script=script,
            argv=args,
            module=module,
            folder=folder,
            seed=seed,
            check="factory" if factory else "script",
            quiet=not verbose,
            lang=spoken,
        )
        child = launch(
            plan, {"TORCHDYNAMO_DISABLE": "1", **dict.fromkeys(SINGLE, "1")}
        )  # a compiled model shows no layers, and takes minutes to compile
        wait_until(child, math.inf)
        code = child.returncode if child.returncode >= 0 else 128 - child.returncode
        look, norm = _looked(Path(folder))
        if look is None or not look.stepped:
            return _unseen(plan, code)
    found = foresee(look, None if factory else norm)  # without a loss there is no gradient norm to clip
    _publish(script, look, found, json_, spoken)
    return EXPLODED if found.risks else 0


def _looked(folder: Path) -> tuple[Look | None, float | None]:
    """What the child saw, and the first total gradient norm, before any clip."""
    try:
        record = load_run(folder)
    except UnreadableRecord:
        return None, None
    data = next((event.data for event in record.events if event.kind == EVENT), None)
    first = record.steps[0] if record.steps else None
    norm = None if first is None else first.total if first.unclipped is None else first.unclipped
    return None if data is None else Look.read(data), norm


def _unseen(plan: Plan, code: int) -> int:
    if code:
        said = tell(
            "{script} failed before its first step: {error}",
            script=plan.script, error=last_words(plan) or tell("exit code {code}", code=code),
        )  # fmt: skip
        click.echo(f"gradbelt: {say(said, plan.lang)}", err=True)
        return code
    log = Path(plan.folder) / LOG
    ours = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("gradbelt:")] if (
        log.exists()
    ) else []  # fmt: skip
    if ours:
        raise GradbeltError(ours[0].removeprefix("gradbelt: "))
    raise NoStep(
        say(
            tell("no training step was seen: {script} called neither backward() nor optimizer.step()",
                 script=plan.script), plan.lang,
        )
    )  # fmt: skip


def _publish(script: str, look: Look, found: Checkup, where: str | None, lang: str) -> None:
    if where is not None:
        data = write_checkup(script, look, found)
        if where == "-":
            click.echo(data)
            return
        try:
            Path(where).write_text(data + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"can't write {where}: {error.strerror}") from None
    click.echo(render_checkup(script, look, found, lang=lang, color=sys.stdout.isatty()).rstrip("\n"))
