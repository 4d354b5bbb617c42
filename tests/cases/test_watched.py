"""Real scripts with labels: unchanged by being watched; and what others' rules would have said of the same runs. Prints
a table."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from tests.cases.conftest import CASES, ENVIRONMENT, each, labels

from gradbelt._types import Level
from gradbelt.belt.judge import told
from gradbelt.blackbox import load_run
from gradbelt.lab.calibrate.rivals import RIVALS

pytestmark = pytest.mark.slow
SOON = 20  # steps after the first bad one within which a word still counts as finding it


HASH = """
import atexit, hashlib, sys
from gradbelt.supervise.imports import AfterImport
made = []
def follow(torch):
    init = torch.nn.Module.__init__
    def noted(self, *args, **kwargs):
        made.append(self)
        init(self, *args, **kwargs)
    torch.nn.Module.__init__ = noted
def tell():
    digest = hashlib.sha256()
    for module in made:
        for parameter in module._parameters.values():
            if parameter is not None:
                digest.update(parameter.detach().float().numpy().tobytes())
    print("PARAMETERS", digest.hexdigest(), len(made), file=sys.stderr)
if sys.orig_argv[-1].endswith(".py") and "gradbelt" not in sys.orig_argv or "gradbelt.cli.patient" in sys.orig_argv:
    AfterImport({"torch": follow}).install()
    atexit.register(tell)
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A case's run bare and watched, each script once: case -> (bare, watched, the record's folder)."""
    home = tmp_path_factory.mktemp("watched")
    (home / "sitecustomize.py").write_text(HASH)
    environment, done = {**ENVIRONMENT, "PYTHONPATH": str(home)}, {}

    def of(case):
        if case["id"] not in done:
            script, folder = str(CASES / case["file"]), home / case["id"]
            gradbelt = ("-m", "gradbelt", "run", "--watch-only", "--out", str(folder))
            runs = [
                subprocess.run([sys.executable, *how, script], capture_output=True, text=True, env=environment)
                for how in ((), gradbelt)
            ]
            done[case["id"]] = *runs, folder
        return done[case["id"]]

    return of


@each()
def test_watching_changes_not_a_bit(case, both):
    """Final parameters, output and exit code are those of the bare script."""
    bare, watched, _ = both(case)
    hashes = [re.findall(r"PARAMETERS (\w+ \d+)", done.stderr) for done in (bare, watched)]
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 1
    assert watched.stdout == bare.stdout
    assert watched.returncode == bare.returncode


def said_of(record, verdict):
    """Who -> the first step at which it raised an alarm, of gradbelt and each rival; absent where it never did.

    Ours is the verdict's, and counts only where what was said live, a warning or louder, is no later.
    """
    said = {}
    if verdict["exploded"]:
        live = [finding.step for finding in told(record) if finding.level >= Level.WARN]
        said["gradbelt"] = min([verdict["first_bad_step"], *live])
    for rival in RIVALS:
        spoke = rival.rule(record.steps, {})
        step = next((row.step for row, loud in zip(record.steps, spoke, strict=True) if loud), None)
        if step is not None:
            said[rival.name] = step
    return said


@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # a rival's mean of an inf
def test_no_rivals_rule_finds_more_or_cries_falsely_less(both):
    """Every rule over the same black boxes. A rival has found an explosion where it spoke at all until SOON steps after
    it, however long before; any word on a healthy run is a false alarm."""
    cases = labels()
    if not cases:
        pytest.skip("no labelled cases here")
    names = ["gradbelt", *(rival.name for rival in RIVALS)]
    found, false = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    said = {}
    for case in cases:
        *_, folder = both(case)
        said[case["id"]] = of = said_of(load_run(folder), json.loads((folder / "verdict.json").read_text()))
        for name in of:
            if not case["explodes"]:
                false[name] += 1
            elif of[name] <= case["first_bad_step"] + SOON:
                found[name] += 1
    best = max(names[1:], key=lambda name: (found[name] - false[name], -false[name]))
    sick = sum(case["explodes"] for case in cases)
    print(f"\n{'':26s} {'label':>6s} {'gradbelt':>9s} {best:>20s} {'rivals that spoke':>18s}")
    for case in cases:
        of = said[case["id"]]
        label = case["first_bad_step"] if case["explodes"] else "-"
        print(
            f"{case['id']:26s} {label!s:>6s} {of.get('gradbelt', '-')!s:>9s} {of.get(best, '-')!s:>20s} "
            f"{len(of.keys() - {'gradbelt'}):>15d}/{len(RIVALS)}"
        )
    for name in sorted(names, key=lambda name: false[name] - found[name]):
        print(f"{name:26s} found {found[name]:2d} of {sick}, false on {false[name]} of {len(cases) - sick}")
    assert (found["gradbelt"], false["gradbelt"]) == (sick, 0)
    for name in names[1:]:
        assert found[name] - false[name] <= found["gradbelt"] - false["gradbelt"]
