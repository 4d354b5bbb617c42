"""`gradbelt lab calibrate`: trainings are run, recorded and judged; what is healthy is said by what was learnt."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from gradbelt._types import Level
from gradbelt.blackbox import load_run
from gradbelt.lab.calibrate.corpus import Job, jobs, record
from gradbelt.lab.calibrate.fault import ATTENTION, HOSTS, MOMENTS, NUMBERS
from gradbelt.lab.calibrate.healthy import HEALTHY
from gradbelt.lab.calibrate.injected import INJECTED
from gradbelt.lab.calibrate.judged import ALL, episodes, judged
from gradbelt.lab.calibrate.natural import NATURAL
from gradbelt.lab.calibrate.training import Training


def calibrate(*args):
    return subprocess.run(
        [sys.executable, "-m", "gradbelt.lab", "calibrate", *args], capture_output=True, text=True, timeout=200
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A corpus of one host with its faults and one training that fails, and what was said of it."""
    folder = tmp_path_factory.mktemp("lab")
    done = calibrate(
        "--only", "mlp_momentum", "--only", "rate_raw", "--steps", "150", "--seeds", "1", "--jobs", "1",
        "--keep", str(folder / "runs"), "--json", str(folder / "out.json"), "--markdown", str(folder / "out.md"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_small_calibration_runs_judges_and_prints(kept):
    folder, done = kept
    out = json.loads((folder / "out.json").read_text())
    ours = out["rows"][0]
    assert ours["name"] == "gradbelt"
    assert ours["steps"] == 300 + 150  # the training alone, and as a host's twin
    assert ours["faults"] >= 6
    assert ours["recall"] > 0.5
    for text in (done.stdout, (folder / "out.md").read_text()):
        assert "OLMo skip step" in text
        assert "rate_raw" in text


def test_judging_again_needs_no_running_and_says_the_same(kept):
    folder, _ = kept
    done = calibrate("--replay", str(folder / "runs"), "--jobs", "1", "--json", "-")
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout[done.stdout.index("\n{") :])
    assert again == json.loads((folder / "out.json").read_text())


def test_a_fault_leaves_all_that_came_before_it_as_in_its_twin(kept):
    folder, _ = kept
    twin = load_run(folder / "runs" / "mlp_momentum-100")
    faults = sorted((folder / "runs").glob("mlp_momentum-100-*"))
    assert len(faults) >= 5
    for path in faults:
        run = load_run(path)
        at = run.meta["lab"]["at"]
        assert 0 < at < 150
        assert [row.total for row in run.steps[:at]] == [row.total for row in twin.steps[:at]]


def test_what_is_known_of_a_run_lies_beside_it(kept):
    folder, _ = kept
    (nan,) = (folder / "runs").glob("mlp_momentum-100-NanInput")
    known = judged(nan)
    assert known.label.effect == "nonfinite"
    assert known.broken == known.label.at
    assert not known.label.healthy
    assert judged(folder / "runs" / "mlp_momentum-0").label.healthy


def test_nothing_to_judge_is_a_usage_error(tmp_path):
    done = calibrate("--replay", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "--keep" in done.stderr
    done = calibrate("--only", "no_such_training")
    assert done.returncode == 2
    assert "--list" in done.stderr


def test_every_kind_of_fault_has_a_host_and_every_host_is_a_healthy_training():
    assert set(HOSTS) <= set(HEALTHY)
    for fault in INJECTED:
        assert fault.hosts
        assert set(fault.hosts) <= set(HOSTS)
    put = {name for job in jobs(seeds=2) for name in job.faults}
    assert put == {fault.__name__ for fault in INJECTED}


def test_a_hundred_thousand_healthy_steps_and_both_kinds_of_fault():
    todo = jobs()
    assert sum(job.steps for job in todo if not job.natural) >= 100_000
    assert {job.script for job in todo if job.natural} == set(NATURAL)
    assert {job.script for job in todo if not job.natural} == set(HEALTHY)


def test_another_first_seed_shares_no_run_with_the_seeds_before_it():
    """What was mended on some seeds can be judged on others."""
    before, after = jobs(seeds=2), jobs(seeds=2, first=2)
    assert len(before) == len(after)
    assert not {job.name for job in before} & {job.name for job in after}


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_takes_what_it_is_said_to_take(host):
    """Numbers as inputs, second moments, attention: read off the training itself."""
    found = {}

    class Looked(Training):
        def fasten(self, model, *optimizers, **options):
            super().fasten(model, *optimizers, **options)
            found["attention"] = any("qkv" in name for name, _ in model.named_parameters())
            self.optimizer = optimizers[0]

        def batches(self, draw):
            for batch in super().batches(draw):
                found["numbers"] = batch[0].is_floating_point()
                yield batch
            found["moments"] = "exp_avg_sq" in next(iter(self.optimizer.state.values()))

    Looked(seed=0, steps=2, write=lambda row: None).run(HEALTHY[host])
    assert found == {"numbers": host in NUMBERS, "moments": host in MOMENTS, "attention": host in ATTENTION}


@pytest.mark.parametrize("fault", INJECTED, ids=lambda fault: fault.__name__)
def test_a_fault_does_something_to_a_training_from_its_step_on_and_nothing_before(fault):
    host = fault.hosts[-1]

    def steps(put):
        rows = []
        training = Training(seed=3, steps=12, write=rows.append, fault=put)
        training.run(HEALTHY[host])
        return [(row.total, *row.losses.values()) for row in rows]

    bare, sick = steps(None), steps(fault(6, np.random.default_rng(0)))
    assert sick[:6] == bare[:6]
    assert any(not np.allclose(a, b, rtol=1e-6) for a, b in zip(sick[6:], bare[6:], strict=True))


def test_a_training_that_does_not_learn_is_refused(tmp_path, monkeypatch):
    """Frozen by a rate of zero: nothing any detector could object to, and no part of the corpus all the same."""
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self, closure=None: None)
    (label,) = record(Job(script="mlp_momentum", seed=0, steps=30), tmp_path)
    assert label.before == label.after
    assert not label.counts


@pytest.mark.slow
def test_no_alarm_in_sixteen_thousand_healthy_steps(tmp_path):
    """A part of the corpus, as `gradbelt lab calibrate` runs it: restarts, the edge of stability, single rows, a GAN,
    targets as they stand, heavy tails, an agent."""
    part = ("mlp_restarts", "edge_sgd", "edge_adam", "one_by_one", "linear_sgd", "gan", "raw_targets", "q_learning",
            "heavy_tails_bare")  # fmt: skip
    todo = [job for job in jobs(seeds=1, only=part) if not job.faults]
    labels = [label for job in todo for label in record(job, tmp_path)]
    assert len(labels) == len(part)
    assert all(label.counts for label in labels), "it did not learn"
    runs = [judged(tmp_path / label.name) for label in labels]
    assert sum(run.steps for run in runs) > 16_000
    alarms = [(run.label.name, word) for run in runs for word in run.said[ALL] if word.level is Level.ALARM]
    warnings = [(run.label.name, word) for run in runs for word in episodes(run.said[ALL]) if word.level is Level.WARN]
    assert not alarms
    assert len(warnings) <= 1
