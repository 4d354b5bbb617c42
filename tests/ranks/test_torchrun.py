"""`torchrun -m gradbelt run`: every rank is watched by itself and leaves its own record."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.seams.conftest import ENVIRONMENT, SCRIPTS

from gradbelt.blackbox import load_run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """torchrun ... -> the finished process and the folder of its runs."""

    def run(*command):
        folder = tmp_path_factory.mktemp("torchrun")
        done = subprocess.run(
            [*TORCHRUN, *map(str, command)],
            capture_output=True, text=True, cwd=folder, timeout=200, env={**ENVIRONMENT, "GLOO_SOCKET_IFNAME": "lo"},
        )  # fmt: skip
        return done, folder / "runs"

    return run


@pytest.fixture(scope="module")
def watched(launched):
    return launched("-m", "gradbelt", "run", "--clip", "norm:0.5", SCRIPTS / "ddp.py")


def test_each_rank_leaves_a_record_of_all_steps(watched):
    done, runs = watched
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(folder.name.rpartition("-")[2] for folder in runs.iterdir()) == ["rank0", "rank1"]
    for folder in runs.iterdir():
        assert len(load_run(folder).steps) == 10


def test_the_ranks_saw_and_did_the_same(watched):
    first, second = (load_run(folder) for folder in sorted(watched[1].iterdir(), key=lambda f: f.name[-1]))
    assert [row.total for row in first.steps] == [row.total for row in second.steps]
    assert [row.action for row in first.steps] == [row.action for row in second.steps]
    assert "scale" in {row.action for row in first.steps}
    losses = [[*row.losses.values()] for run in (first, second) for row in run.steps]
    assert losses[:10] != losses[10:]  # each had its own part of the data


def test_what_the_script_prints_passes_through(watched):
    done, _ = watched
    assert {"rank 0 of 2 done", "rank 1 of 2 done"} <= set(done.stdout.splitlines())


@pytest.mark.slow
def test_a_script_that_fails_fails_torchrun(launched):
    done, runs = launched("-m", "gradbelt", "run", SCRIPTS / "ddp.py", 3)
    assert done.returncode != 0
    assert "exitcode  : 3" in done.stderr
    # torchrun ends the other rank as soon as the first has failed
    assert 3 in [load_run(folder).meta.get("exit_code") for folder in runs.iterdir()]
