"""The zoo: scripts in many users' manners. Healthy ones are left alone, explosions are found where they were measured.

Labels are measured by tests/scripts/zoo/label.py, bare. Prints one line a script (pytest -s).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ZOO = Path(__file__).resolve().parents[1] / "scripts" / "zoo"
LABELS = json.loads((ZOO / "labels.json").read_text())
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
NEAR = 2  # steps between the first bad step found and the one on the label

# what gradbelt does not get right yet, and why it is believed to be wrong
KNOWN = {
    "e_wgan_unclipped": "an objective without a lower bound runs off downwards for three steps before its loss rises",
}


def each(explodes):
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(n, marks=pytest.mark.xfail(strict=False, reason=KNOWN[n]) if n in KNOWN else ())
            for n, label in LABELS.items()
            if label["explodes"] is explodes
        ],
    )


def watched(name, folder):
    done = subprocess.run(
        [sys.executable, "-m", "gradbelt", "run", "--no-trials", "--out", str(folder), str(ZOO / f"{name}.py")],
        capture_output=True, text=True, env=ENVIRONMENT, cwd=folder.parent, timeout=240,
    )  # fmt: skip
    verdict = json.loads((folder / "verdict.json").read_text())
    print(f"\n{name:26s} {row(LABELS[name], verdict)}")
    return done, verdict


def row(label, verdict):
    origin = verdict["origin"] or {}
    found = f"@{verdict['first_bad_step']}" if verdict["exploded"] else "healthy"
    wanted = f"@{label['first_bad_step']} {label['measured']}" if label["explodes"] else "healthy"
    symptoms = " ".join(f"{s['kind']}@{s['step']}" for s in verdict["symptoms"])
    where = f"{origin.get('pass')} {origin.get('op')} {origin.get('module')}:{origin.get('line')}" if origin else "-"
    return f"label {wanted:16s} found {found:8s} {symptoms:34s} {where} (line {label.get('lines', '-')})"


@each(explodes=False)
def test_a_healthy_script_raises_no_alarm(name, tmp_path):
    done, verdict = watched(name, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert not verdict["exploded"]
    assert verdict["causes"] == verdict["prescriptions"] == verdict["trials"] == []


@each(explodes=False)
def test_a_healthy_script_has_no_finding_before_training(name, tmp_path):
    """None of them was looked at when the limits of a check were set."""
    done = subprocess.run(
        [sys.executable, "-m", "gradbelt", "check", "--json", "-", str(ZOO / f"{name}.py")],
        capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout or done.stderr
    assert json.loads(done.stdout)["risks"] == []


@each(explodes=True)
def test_an_explosion_is_found_where_it_was_measured(name, tmp_path):
    label = LABELS[name]
    done, verdict = watched(name, tmp_path / "run")
    assert done.returncode == 10, done.stderr
    assert verdict["exploded"]
    assert {s["kind"] for s in verdict["symptoms"]} & set(label["kinds"])
    if label["first_bad_step"] is not None:
        assert abs(verdict["first_bad_step"] - label["first_bad_step"]) <= NEAR
    if "lines" in label:
        assert verdict["origin"]["line"] in label["lines"]
    if "pass" in label:
        assert verdict["origin"]["pass"] == label["pass"]
    if label.get("module"):
        assert verdict["origin"]["module"] == label["module"]


@each(explodes=None)
def test_where_either_answer_can_be_defended_there_is_one(name, tmp_path):
    done, verdict = watched(name, tmp_path / "run")
    assert done.returncode == (10 if verdict["exploded"] else 0), done.stderr
