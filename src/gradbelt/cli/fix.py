"""`gradbelt run --fix`: a patched copy beside the script, run as the last proof."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

from gradbelt._told import tell
from gradbelt._types import Fix, Prescription
from gradbelt.blackbox import load_run
from gradbelt.errors import UnreadableRecord, UsageError
from gradbelt.remedies.edits.weave import applied
from gradbelt.supervise.launch import last_words, launch, wait_until
from gradbelt.supervise.plan import Plan
from gradbelt.trials.judge import Metric, judge_trial

MARK = re.compile(rb"\r?\n# a copy of \S.* by gradbelt run --fix \(([0-9a-f]{12})\)\r?\n?\Z")


def fixed_name(script: str, *, module: bool) -> str:
    """What the copy is called: beside the script, so that its imports and the paths to its data hold, and importable.

    >>> fixed_name("here/train.py", module=False), fixed_name("pkg.train", module=True)
    ('here/train_fixed.py', 'pkg.train_fixed')
    """
    if module:
        return f"{script}.__main___fixed" if Path(*script.split(".")).is_dir() else f"{script}_fixed"
    path = Path(script)
    path = path / "__main__.py" if path.is_dir() else path
    return str(path.with_name(f"{path.stem}_fixed{path.suffix}"))


def check_place(script: str, *, module: bool, force: bool) -> None:
    """Said before anything is run: a file that is in the way and was not made by us, or was changed since."""
    path = _file(fixed_name(script, module=module), module=module)
    if path.exists() and not force and not _untouched(path):
        raise UsageError(
            f"{path} is there already, and is not as gradbelt run --fix left it; move it away, or add --force to write "
            "over it"
        )


def fix(
    prescriptions: tuple[Prescription, ...],
    plan: Plan,
    *,
    metric: Metric | None,
    force: bool,
) -> Fix:
    """The first prescription that a trial has proven and a diff can carry out, written into a copy and run there.

    Args:
        plan: How the watched run was started. metric: Judged beside the loss. force: Write over whatever is in the way.

    Its record lies in the folder `fixed` of the run, the diff in `fix.patch`.
    """
    folder = Path(plan.folder)
    name = fixed_name(plan.script, module=plan.module)
    path, source = _file(name, module=plan.module), _source(plan)
    proven = [item for item in prescriptions if item.verified]
    chosen = next((item for item in proven if item.patch and _only(source, item.patch)), None)
    if chosen is None or chosen.patch is None:
        if any(item.patch for item in proven):
            return Fix(note=tell("the edit is in another file than the script"))
        if proven:
            return Fix(note=tell("what a trial has proven has to be written in by hand"))
        return Fix(note=tell("no trial has proven a cure"))
    try:
        (folder / "fix.patch").write_bytes(chosen.patch.encode())
        if path.exists() and not force and not _untouched(path):
            raise FileExistsError(17, "it is there already")
        path.write_bytes(_marked(applied(source.read_bytes().decode(), chosen.patch), source))
        shutil.copymode(source, path)
    except (OSError, ValueError) as error:
        return Fix(
            remedies=chosen.remedies,
            note=tell("{path} could not be written: {error}", path=str(path), error=_said(error)),
        )
    again = replace(plan, script=name, folder=str(folder / "fixed"), clip=None, remedies=(), quiet=True)
    began = time.monotonic()
    child = launch(again)
    wait_until(child, math.inf)
    seconds = time.monotonic() - began
    note = last_words(again) if child.returncode else ""
    try:
        outcome = judge_trial(load_run(folder / "fixed"), "", seconds=seconds, metric=metric, note=note)
    except UnreadableRecord:
        return Fix(remedies=chosen.remedies, file=name, note=note or tell("it left no record"))
    return Fix(remedies=chosen.remedies, file=name, outcome=outcome, note=note)


def _only(source: Path, diff: str) -> bool:
    """Whether a diff is of this file alone."""
    names = [line.removeprefix("--- a/").rstrip("\t") for line in diff.split("\n") if line.startswith("--- a/")]
    return len(names) == 1 and Path(names[0]).name == source.name and diff.startswith("--- a/")


def _source(plan: Plan) -> Path:
    """The file that the diff is of."""
    if not plan.module:
        path = Path(plan.script)
        return path / "__main__.py" if path.is_dir() else path
    path = Path(*plan.script.split("."))
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


def _file(name: str, *, module: bool) -> Path:
    return Path(*name.split(".")).with_suffix(".py") if module else Path(name)


def _marked(text: str, source: Path) -> bytes:
    """The copy with a last line that says where it comes from, and by which it is known while nobody has changed it."""
    data = text.encode()
    end = b"\r\n" if b"\r\n" in data else b"\n"
    body = data.removesuffix(b"\n").removesuffix(b"\r")
    mark = f"# a copy of {source.name} by gradbelt run --fix ({_digest(body)})"
    return body + end + mark.encode() + end


def _untouched(path: Path) -> bool:
    try:
        data = path.read_bytes()
    except OSError:
        return False
    mark = MARK.search(data)
    return mark is not None and _digest(data[: mark.start()]) == mark[1].decode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def _said(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
