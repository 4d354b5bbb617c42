"""The same plans run in processes of this machine and as tasks of a Ray cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
from tests.seams.conftest import ENVIRONMENT, SCRIPTS

from gradbelt.blackbox import load_run
from gradbelt.supervise.launch import last_words
from gradbelt.supervise.plan import Plan
from gradbelt.trials.executor import EXECUTORS, executor

ONE = {"OMP_NUM_THREADS": "1"}
with_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(params=["local", pytest.param("ray", marks=with_ray)])
def where(request, tmp_path, monkeypatch):
    """An executor of each kind that is there, started in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    started = executor(request.param, plan_of("healthy.py", tmp_path), ONE)
    yield started
    started.close()
    if request.param == "ray":
        import ray

        ray.shutdown()


def plan_of(script, folder, **fields):
    return Plan(script=str(SCRIPTS / script), folder=str(folder), seed=3, quiet=True, **fields)


def losses(folder):
    return [dict(row.losses) for row in load_run(folder).steps]


@pytest.mark.timeout(300)
def test_a_plan_leaves_its_record_here_and_ends_as_its_script_did(where, tmp_path):
    """Two at a time, in the folder we are in, under what they are sent to do."""
    (tmp_path / "reads.py").write_text("open('here.txt').read()\nraise ValueError('not so')\n")
    (tmp_path / "here.txt").touch()
    plans = [
        plan_of("healthy.py", tmp_path / "plain"),
        plan_of("healthy.py", tmp_path / "slow", remedies=("lower_lr=0.1",)),
        replace(plan_of("healthy.py", tmp_path / "fails"), script="reads.py"),
    ]
    children = [where.start(plan) for plan in plans]
    assert [child.wait(200) for child in children] == [0, 0, 1]
    assert all(child.poll() == child.returncode for child in children)
    assert len(losses(tmp_path / "plain")) == len(losses(tmp_path / "slow")) > 9
    assert losses(tmp_path / "plain") != losses(tmp_path / "slow")
    assert last_words(plans[2]) == "ValueError: not so"


@pytest.mark.timeout(300)
def test_a_plan_that_is_stopped_ends(where, tmp_path):
    child = where.start(plan_of("slow.py", tmp_path / "run"))
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(8)
    assert child.poll() is None
    child.terminate()
    assert child.wait(60) != 0


@with_ray
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_cure_is_found_on_ray_as_it_is_here(tmp_path):
    """The whole of `gradbelt run`: the same outcomes by the same steps and losses."""
    found = []
    for name in EXECUTORS:
        folder = tmp_path / name
        command = ["run", "--seed", "0", "--executor", name, "--jobs", "1", "--out", folder, SCRIPTS / "diverges.py"]
        subprocess.run([sys.executable, "-m", "gradbelt", *map(str, command)], env=ENVIRONMENT, capture_output=True)
        verdict = json.loads((folder / "verdict.json").read_text())
        trials = [(trial["remedy"], trial["outcome"], trial["steps"], trial["loss"]) for trial in verdict["trials"]]
        found.append((trials, [p["remedies"] for p in verdict["prescriptions"]]))
    assert found[0] == found[1]
    assert found[0][1][0] == ["lower_lr=0.1"]


def test_without_ray_it_is_said_before_anything_runs(tmp_path):
    """Hidden from it, where it is installed."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'ray' else find(name, *more)\n"
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}:{ENVIRONMENT.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-m", "gradbelt", "run", "--executor", "ray", str(SCRIPTS / "diverges.py")],
        env=environment, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'gradbelt[ray]'" in done.stderr
    assert not (tmp_path / "runs").exists()
