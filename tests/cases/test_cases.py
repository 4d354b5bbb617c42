"""Real scripts with labels: found or left alone, unchanged by being watched. Prints a table."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from tests.cases.conftest import CASES, ENVIRONMENT, each, gradbelt

pytestmark = pytest.mark.slow
NEAR = 2  # steps between the first bad step found and the one on the label


@each(explodes=True)
def test_an_explosion_is_found_at_its_step(case, tmp_path):
    """Of the labelled kind, the first bad step within two of the label's."""
    done, verdict = gradbelt(case["file"], tmp_path / "run", "--no-trials")
    kinds = [symptom["kind"] for symptom in verdict["symptoms"]]
    origin = verdict["origin"] or {}
    print(
        f"\n{case['id']:26s} {case['symptom']:11s} @{case['first_bad_step']:<4d} found {(*kinds, '-')[0]:11s} "
        f"@{verdict['first_bad_step']} {origin.get('op', '-')} {origin.get('module') or ''} {origin.get('line') or ''}"
    )
    assert done.returncode == 10, done.stderr
    assert verdict["exploded"]
    assert case["symptom"] in kinds
    assert abs(verdict["first_bad_step"] - case["first_bad_step"]) <= NEAR
    if case.get("first_bad_line") is not None:
        assert origin["line"] == case["first_bad_line"]
        assert origin["module"] == case["first_bad_module"]


@each(explodes=False)
def test_a_healthy_run_raises_no_alarm(case, tmp_path):
    done, verdict = gradbelt(case["file"], tmp_path / "run")
    print(f"\n{case['id']:26s} healthy: {[(s['kind'], s['step']) for s in verdict['symptoms']]}")
    assert done.returncode == 0, done.stderr
    assert not verdict["exploded"]
    assert verdict["causes"] == verdict["prescriptions"] == verdict["trials"] == []


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


@each()
def test_watching_changes_not_a_bit(case, tmp_path):
    """Final parameters, output and exit code are those of the bare script."""
    (tmp_path / "sitecustomize.py").write_text(HASH)
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    script = str(CASES / case["file"])
    bare = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    watched = subprocess.run(
        [sys.executable, "-m", "gradbelt", "run", "--watch-only", "--out", str(tmp_path / "run"), script],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    hashes = [re.findall(r"PARAMETERS (\w+ \d+)", done.stderr) for done in (bare, watched)]
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 1
    assert watched.stdout == bare.stdout
    assert watched.returncode == bare.returncode
