"""`gradbelt run`: watch, and only if something is wrong reproduce, try and prescribe."""

from __future__ import annotations

import os
import re
import secrets
import signal
import sys
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

import gradbelt
from gradbelt import remedies
from gradbelt._told import LANGUAGES, language, say, tell
from gradbelt._types import SHARE, Evidence, Fix, Onset, Outcome, Prescription, RunRecord, Story, Suspicion
from gradbelt.belt.judge import onset
from gradbelt.belt.misfits import misfits_of
from gradbelt.blackbox import load_run
from gradbelt.causes import Case, suspect
from gradbelt.clip import from_string
from gradbelt.errors import EXPLODED, BrokenScript, UnreadableRecord, UsageError
from gradbelt.examine.reproduce import reproduce
from gradbelt.prescribe import advise_clip, prescribe
from gradbelt.report import render_console, render_html, write_verdict
from gradbelt.supervise.launch import launch, wait
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.seeding import fresh_seed
from gradbelt.supervise.timemachine import TimeMachine
from gradbelt.trials.executor import EXECUTORS
from gradbelt.trials.executor import check as check_executor
from gradbelt.trials.judge import Metric
from gradbelt.trials.run import Budget, try_remedies
from gradbelt.trials.screen import lead

if TYPE_CHECKING:
    from gradbelt.cli.progress import Bar

DEBUG = "GRADBELT_DEBUG"  # set: faults of gradbelt itself show their traceback
SIGNALLED = 128  # exit codes above: a signal ended the script, so nobody waits for a diagnosis
PATIENCE = 3.0  # times the watched run's duration that reproducing it may take
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What was asked for on the command line."""

    trials: bool
    examine: bool
    budget: Budget
    metric: Metric | None
    json: str | None
    lang: str
    fix: bool = False
    force: bool = False


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--clip", metavar="RULE", help="Clip in the first run: 1.0, norm:1.0, value:0.5, auto.")
@click.option("--with", "with_", metavar="REMEDY", multiple=True, help="Apply a remedy to the first run; repeatable.")
@click.option(
    "--activations", type=click.FloatRange(min=0.0), default=SHARE, show_default=True, metavar="SHARE",
    help="Share of time for looking at what modules put out; 0 for none.",
)  # fmt: skip
@click.option("--watch-only", is_flag=True, help="Record and judge, nothing else; exit with the script's own code.")
@click.option("--no-trials", is_flag=True, help="Find out where it began, but try no remedies.")
@click.option("--fix", is_flag=True, help="Write the proven edit into a copy beside SCRIPT, and run that.")
@click.option("--force", is_flag=True, help="With --fix: write over a copy that was changed since.")
@click.option("--budget", default="5m", show_default=True, metavar="TIME", help="For trials: 90s, 5m, 1h.")
@click.option("--jobs", type=click.IntRange(1), help="Trials at a time. [default: one a core]")
@click.option(
    "--executor", type=click.Choice(EXECUTORS), default="local", show_default=True,
    help="Where trials run: here, or on the Ray cluster that RAY_ADDRESS names.",
)  # fmt: skip
@click.option("--metric", metavar="REGEX", help="A number the script prints (first group), judged beside the loss.")
@click.option("--seed", type=int, help="For Python, NumPy and torch; the script's own seeding wins. [default: random]")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="The run's folder. [default: runs/...]")
@click.option("--json", "json_", metavar="PATH", help="Also write the verdict to PATH, or to stdout with -.")
@click.option("--lang", type=click.Choice(LANGUAGES), help="Language. [default: the environment's]")
@click.option("-m", "module", is_flag=True, help="SCRIPT is a module's name, as in python -m.")
@click.argument("script")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def run(
    clip: str | None,
    with_: tuple[str, ...],
    activations: float,
    watch_only: bool,
    no_trials: bool,
    fix: bool,
    force: bool,
    budget: str,
    jobs: int | None,
    executor: str,
    metric: str | None,
    seed: int | None,
    out: Path | None,
    json_: str | None,
    lang: str | None,
    module: bool,
    script: str,
    args: tuple[str, ...],
) -> int:
    """Run a training script under watch, unchanged. Its output passes through.

    If numbers break or the loss diverges, the script is run again to find the first bad operation, then under
    remedies, side by side with an unchanged control, to see which run lives and learns.

    \b
      gradbelt run train.py --epochs 3
      gradbelt run --with clip_norm=1.0 --with lower_lr=0.1 train.py
      gradbelt run --metric 'val_loss=(\\S+)' --budget 10m train.py
      gradbelt run --fix train.py                          also writes and runs train_fixed.py
      gradbelt run --watch-only -m mypackage.train --config small.yaml
      torchrun --nproc-per-node 2 -m gradbelt run train.py

    With --fix, what a trial has proven is written into a copy beside the script, and the copy is run to its end. The
    script itself is never written to.

    Exit code: the script's own if it failed by itself, 0 healthy, 10 exploded, 2 usage. With --watch-only always the
    script's own. With --fix also 0 if the fixed copy lives and learns.
    """
    if watch_only and no_trials:
        raise UsageError("--watch-only already stops before the trials; leave out --no-trials")
    if fix and (watch_only or no_trials):
        raise UsageError("--fix writes what a trial has proven; leave out --watch-only and --no-trials")
    if force and not fix:
        raise UsageError("--force goes with --fix")
    check_executor(executor)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    wishes = Wishes(
        trials=not (watch_only or no_trials) and ranks == 1,
        examine=not watch_only and ranks == 1,
        budget=Budget(seconds=parse_time(budget), jobs=jobs or 0, executor=executor),
        metric=Metric(metric) if metric else None,
        json=json_,
        lang=language(lang),
        fix=fix and ranks == 1,
        force=force,
    )
    from_string(clip or "none")
    for text in with_:
        remedies.parse(text)
    if not module:
        check_script(script)
    if wishes.fix:
        from gradbelt.cli.fix import check_place

        check_place(script, module=module, force=force)
    plan = Plan(
        script=script,
        argv=args,
        module=module,
        folder=str(new_folder(out, script)),
        seed=fresh_seed() if seed is None else seed,
        clip=clip,
        remedies=with_,
        activations=activations,
        lang=wishes.lang,
    )
    code, exploded = watch_and_treat(plan, wishes)
    if watch_only or code != 0:
        return code
    return EXPLODED if exploded else 0


def watch_and_treat(plan: Plan, wishes: Wishes) -> tuple[int, bool]:
    """The whole line. Answers the script's exit code and whether the run exploded; those of the fixed copy where there
    is one that learns."""
    began = time.monotonic()
    code = wait(launch(plan))
    seconds = {"watch": time.monotonic() - began}
    try:
        record = load_run(Path(plan.folder))
    except UnreadableRecord:
        _tell(say(tell("there is no record of this run; nothing can be said about it"), wishes.lang))
        return code, False
    found = onset(record)
    evidence: Evidence | None = None
    outcomes: tuple[Outcome, ...] = ()
    if found.exploded and code < SIGNALLED:
        from gradbelt.cli.progress import Bar

        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # both end the trials and leave what is known
        with Bar(wishes.lang) as bar, TimeMachine() as machine:
            try:
                if wishes.examine:
                    evidence = _examine(record, found, plan, machine, seconds, bar)
                if wishes.trials and evidence is not None:
                    outcomes = _try(record, found, evidence, plan, machine, wishes, seconds, bar)
            except KeyboardInterrupt:
                code = SIGNALLED + signal.SIGINT
            except Exception as error:
                _excuse(error, wishes.lang)
    try:
        story = _story(plan, record, found, evidence, outcomes, wishes, seconds, code)
    except Exception as error:
        _excuse(error, wishes.lang)
        story = _story(plan, record, found, None, (), wishes, seconds, code)
    if wishes.fix and outcomes:
        story = replace(story, fix=_fix(story, plan, wishes))
    _publish(story, record, plan, wishes)
    return (0, False) if story.fix is not None and story.fix.proven else (code, found.exploded)


def _excuse(error: Exception, lang: str) -> None:
    """A fault of ours must not cost the user the record."""
    if DEBUG in os.environ:
        raise error
    said = tell("the examination failed ({error}); what was recorded is told all the same", error=repr(error))
    _tell(say(said, lang))


def _examine(
    record: RunRecord, found: Onset, plan: Plan, machine: TimeMachine, seconds: dict[str, float], bar: Bar
) -> Evidence:
    bad = found.bad_step or 0
    began = time.monotonic()
    again = replace(plan, folder=str(Path(plan.folder) / "again"))
    bar.examining(bad)
    deadline = began + max(60.0, PATIENCE * seconds["watch"])
    step = lead(found)
    leave = () if step is None else (step,)
    evidence = reproduce(record, found, again, deadline=deadline, machine=machine, leave=leave)
    seconds["examine"] = time.monotonic() - began
    return evidence


def _try(
    record: RunRecord,
    found: Onset,
    evidence: Evidence,
    plan: Plan,
    machine: TimeMachine,
    wishes: Wishes,
    seconds: dict[str, float],
    bar: Bar,
) -> tuple[Outcome, ...]:
    began = time.monotonic()
    outcomes = try_remedies(
        Case(record=record, onset=found, evidence=evidence),
        replace(plan, folder=str(Path(plan.folder) / "trials")),
        budget=wishes.budget,
        watched=seconds["watch"],
        machine=machine,
        metric=wishes.metric,
        progress=bar.trying,
    )
    seconds["trials"] = time.monotonic() - began
    before = seconds["watch"] + seconds.get("examine", 0.0)
    return tuple(replace(o, ended=None if o.ended is None else before + o.ended) for o in outcomes)


def _story(
    plan: Plan,
    record: RunRecord,
    found: Onset,
    evidence: Evidence | None,
    outcomes: tuple[Outcome, ...],
    wishes: Wishes,
    seconds: dict[str, float],
    code: int,
) -> Story:
    case = Case(record=record, onset=found, evidence=evidence or Evidence(reproduced=False), outcomes=outcomes)
    causes = suspect(case) if found.exploded and evidence is not None else ()
    return Story(
        version=gradbelt.__version__,
        script=f"-m {plan.script}" if plan.module else plan.script,
        argv=plan.argv,
        exploded=found.exploded,
        steps=record.num_steps,
        first_warning_step=found.warning_step,
        first_bad_step=found.bad_step,
        symptoms=found.findings,
        origin=evidence.origin if evidence is not None else None,
        causes=causes,
        trials=outcomes,
        prescriptions=_prescribe(case, causes, plan, wishes) if causes else (),
        clip=advise_clip(record, found, outcomes),
        reproduced=evidence.reproduced if evidence is not None else None,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        exit_code=code,
        buckle=misfits_of(record),
        failed_after=_failed_after(record, found),
    )


def _failed_after(record: RunRecord, found: Onset) -> float | None:
    """Seconds from the script's start, its imports included, to its first bad step."""
    started, began = record.meta.get("started"), record.meta.get("belt_began")
    row = next((row for row in record.steps if found.bad_step is not None and row.step >= found.bad_step), None)
    row = row or (record.steps[-1] if record.steps and found.exploded else None)  # its last loss broke it
    if row is None or not isinstance(started, float) or not isinstance(began, float):
        return None
    return round(began - started + row.time, 3)


def _fix(story: Story, plan: Plan, wishes: Wishes) -> Fix:
    from gradbelt.cli.fix import fix
    from gradbelt.cli.progress import Bar

    with Bar(wishes.lang) as bar:
        bar.proving()
        try:
            return fix(story.prescriptions, plan, metric=wishes.metric, force=wishes.force)
        except KeyboardInterrupt:
            return Fix(note=tell("it was interrupted"))


def _prescribe(case: Case, causes: tuple[Suspicion, ...], plan: Plan, wishes: Wishes) -> tuple[Prescription, ...]:
    from gradbelt.remedies.edits import (  # libcst is only worth loading where there is something to change
        by_hand,
        patches,
    )

    edit, told = patches(case.record, clip=plan.clip), by_hand(case.record)
    return prescribe(case, causes, metric=wishes.metric, patch=edit, by_hand=told)


def _publish(story: Story, record: RunRecord, plan: Plan, wishes: Wishes) -> None:
    """verdict.json and report.html into the run's folder, the story on stderr, the verdict where --json wants it."""
    folder = Path(plan.folder)
    verdict = write_verdict(story)
    try:
        (folder / "verdict.json").write_text(verdict, encoding="utf-8")
        (folder / "report.html").write_text(render_html(story, record, lang=wishes.lang), encoding="utf-8")
    except OSError as error:
        _tell(say(tell("the report could not be written: {error}", error=str(error)), wishes.lang))
    if not record.steps and record.finished and not story.exploded:
        hint = tell(
            "no training step was seen: the script called neither backward() nor optimizer.step() in this process"
        )
        _tell(say(hint, wishes.lang))
    elif story.exploded or (record.steps and os.environ.get("RANK", "0") == "0"):
        shown = render_console(story, lang=wishes.lang, folder=folder, color=sys.stderr.isatty())
        click.echo(shown.rstrip("\n"), err=True)
    if wishes.json == "-":
        click.echo(verdict)
    elif wishes.json is not None:
        try:
            Path(wishes.json).write_text(verdict, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--json {wishes.json}: {error.strerror}; the verdict is in {folder}") from None


def parse_time(text: str) -> float:
    """Seconds in a duration.

    >>> parse_time("5m"), parse_time("90s"), parse_time("1.5h")
    (300.0, 90.0, 5400.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip())
    if match is None or match[2] not in UNITS:
        raise UsageError(f"--budget {text!r} is not a time; write 90s, 5m or 1h")
    return float(match[1]) * UNITS[match[2]]


def check_script(script: str) -> None:
    """The script is there, can be read and is Python: said before anything is started."""
    path = Path(script)
    if path.is_dir():
        if not (path / "__main__.py").exists():
            raise UsageError(f"{script} is a folder without __main__.py; name the script")
        return
    try:
        source = path.read_bytes()
    except FileNotFoundError:
        near = sorted(Path(path.parent).glob("*.py")) if path.parent.is_dir() else []
        hint = f"; there is {', '.join(p.name for p in near[:3])}" if near else ""
        raise UsageError(f"no script {script!r}{hint}") from None
    except OSError as error:
        raise UsageError(f"can't read {script!r}: {error.strerror}") from None
    if path.suffix in (".zip", ".pyz"):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the child compiles it again, and shows its warnings
            compile(source, script, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        raise BrokenScript(f"{script}{line}: SyntaxError: {message}; nothing was run") from None


def new_folder(out: Path | None, script: str) -> Path:
    """Where this run is recorded: DIR itself, or a folder of its own in DIR where a run lies there already."""
    stem = re.sub(r"[^\w.-]+", "_", Path(script).stem) or "run"
    rank = os.environ.get("RANK")
    own = f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{stem}-{secrets.token_hex(2)}" + (f"-rank{rank}" if rank else "")
    if out is None:
        return _writable(Path("runs")) / own
    if (out / "blackbox.sqlite").exists() or rank:
        return out / own
    return _writable(out)


def _writable(folder: Path) -> Path:
    """The folder, made; or a temporary one, said in one line, where it can't be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".gradbelt-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        import tempfile

        other = Path(tempfile.mkdtemp(prefix="gradbelt-"))
        _tell(f"can't write to {folder} ({error.strerror}); recording in {other}")
        return other
    return folder


def _tell(line: str) -> None:
    click.echo(f"gradbelt: {line}", err=True)
