"""The whole line on small scripts: watch, examine, try, prescribe, tell."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.seams.conftest import ENVIRONMENT, SCRIPTS, bare, watched  # noqa: F401  fixtures

from gradbelt.blackbox import load_run


@pytest.fixture(scope="module")
def cured(tmp_path_factory):
    """diverges.py, from first warning to proven cure, once for all tests here."""
    folder = tmp_path_factory.mktemp("cured") / "run"
    done = subprocess.run(
        [sys.executable, "-m", "gradbelt", "run", "--out", str(folder), "--budget", "10m",
         "--json", str(folder) + ".json", "--metric", r"final (\S+)", str(SCRIPTS / "diverges.py")],
        capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    return done, folder, json.loads((folder / "verdict.json").read_text())


def test_an_exploded_run_exits_10_and_its_output_is_untouched(cured, bare):  # noqa: F811
    done, _, _ = cured
    assert done.returncode == 10
    assert done.stdout == bare(SCRIPTS / "diverges.py").stdout


def test_the_verdict_has_every_field_of_the_contract(cured):
    _, folder, verdict = cured
    assert set(verdict) >= {
        "schema", "gradbelt", "script", "argv", "exploded", "steps", "first_warning_step", "first_bad_step", "symptoms",
        "origin", "causes", "trials", "prescriptions", "clip", "reproduced", "seconds",
    }  # fmt: skip
    assert verdict["schema"] == 1
    assert verdict["exploded"] is True
    assert verdict["reproduced"] is True
    assert set(verdict["seconds"]) == {"watch", "examine", "trials"}
    assert json.loads((folder.parent / "run.json").read_text()) == verdict


def test_the_cause_is_the_learning_rate(cured):
    assert cured[2]["causes"][0]["cause"] == "learning_rate"


def test_a_prescription_is_verified_only_against_a_control_that_failed_again(cured):
    verdict = cured[2]
    control = next(trial for trial in verdict["trials"] if trial["remedy"] == "")
    assert control["outcome"] != "learning"
    assert verdict["prescriptions"][0]["verified"] is True


def test_the_first_prescription_holds_when_applied(cured, watched):  # noqa: F811
    remedies = cured[2]["prescriptions"][0]["remedies"]
    options = ["--no-trials", *(word for remedy in remedies for word in ("--with", remedy))]
    done = watched(SCRIPTS / "diverges.py", options=options)
    assert done.returncode == 0
    assert float(re.findall(r"final (\S+)", done.stdout)[0]) < 1.0


def test_the_metric_is_read_from_each_trial(cured):
    learning = [trial for trial in cured[2]["trials"] if trial["outcome"] == "learning"]
    assert learning
    assert all(isinstance(trial["metric"], float) for trial in learning)


def test_every_trial_leaves_a_record_of_its_own(cured):
    _, folder, verdict = cured
    for trial in verdict["trials"]:
        assert load_run(folder / "trials" / (trial["remedy"] or "control")).num_steps == trial["steps"]


def test_the_first_bad_operation_is_found_in_a_loop_without_optimizer(watched):  # noqa: F811
    """The division by zero at step 12, with its line."""
    done = watched(SCRIPTS / "by_hand.py", options=("--no-trials",))
    origin = done.verdict["origin"]
    assert (origin["pass"], origin["op"], origin["file"], origin["line"]) == ("forward", "div", "by_hand.py", 10)


@pytest.mark.slow
def test_a_run_that_does_not_repeat_is_said_not_to(watched, tmp_path):  # noqa: F811
    script = tmp_path / "fickle.py"
    script.write_text((SCRIPTS / "diverges.py").read_text().replace("manual_seed(0)", "seed()"))
    assert watched(script, options=("--no-trials",)).verdict["reproduced"] is False


def children_of(folder):
    """Processes that were started with a plan for a run in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "environ").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found


def test_no_part_of_a_run_is_left_over_when_it_is_interrupted(tmp_path):
    """Ctrl-C during the trials: no child lives on, and what was known is told."""
    child = subprocess.Popen(
        [sys.executable, "-m", "gradbelt", "run", "--out", str(tmp_path / "run"), str(SCRIPTS / "diverges.py")],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    trials = tmp_path / "run" / "trials"
    while child.poll() is None and len(list(trials.glob("*/blackbox.sqlite"))) < 2:
        time.sleep(0.05)
    assert children_of(tmp_path)
    os.killpg(child.pid, signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert "Traceback" not in err
    assert json.loads((tmp_path / "run" / "verdict.json").read_text())["exploded"]
    time.sleep(0.2)
    assert not children_of(tmp_path)


@pytest.mark.slow
def test_a_script_that_fills_stderr_does_not_hang_its_trials(tmp_path):
    """A progress bar writes more than a pipe holds."""
    script = tmp_path / "chatty.py"
    source = (SCRIPTS / "diverges.py").read_text()
    script.write_text(source.replace("    loss.backward()", "    loss.backward(); sys.stderr.write('#' * 4000)", 1))
    script.write_text("import sys\n" + script.read_text())
    done = subprocess.run(
        [sys.executable, "-m", "gradbelt", "run", "--no-trials", "--out", str(tmp_path / "run"), str(script)],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 10
    assert json.loads((tmp_path / "run" / "verdict.json").read_text())["reproduced"]


@pytest.mark.slow
def test_a_run_that_broke_before_its_first_step_is_told(watched):  # noqa: F811
    """Nothing but the loss that went into backward is known, and that is enough."""
    done = watched(SCRIPTS / "nan_at_once.py", options=("--no-trials",))
    assert done.returncode == 1
    assert done.verdict["exploded"]
    assert done.verdict["first_bad_step"] == 0
    assert done.verdict["origin"]["op"] == "log"
    assert "exploded at step 0" in done.stderr


@pytest.mark.parametrize("part", ["examine.reproduce.reproduce", "causes.suspect"])
def test_a_fault_of_ours_does_not_cost_the_record(part, watched, tmp_path):  # noqa: F811
    """The clinic breaks, looking or judging; the story that the black box tells is there all the same."""
    module, name = part.rsplit(".", 1)
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'run' in sys.orig_argv:\n"
        f"    import gradbelt.{module} as part\n"
        "    def broken(*_, **__): raise RuntimeError('a fault')\n"
        f"    part.{name} = broken\n"
    )
    options = ("--no-trials",)
    done = watched(SCRIPTS / "diverges.py", options=options, environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 10
    assert "the examination failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.verdict["first_bad_step"] == 1
