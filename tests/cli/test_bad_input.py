"""Whatever is wrong, the user reads one plain line and gets an exit code."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.seams.conftest import ENVIRONMENT, SCRIPTS, bare, watched  # noqa: F401  fixtures

from gradbelt.blackbox import load_run


def gradbelt(*words, cwd=None, environment=None):
    return subprocess.run(
        [sys.executable, "-m", "gradbelt", *map(str, words)],
        capture_output=True, text=True, cwd=cwd, env={**ENVIRONMENT, **(environment or {})},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "nothing.py"], 2, "no script 'nothing.py'"),
        (["run", SCRIPTS / "broken_syntax.py"], 1, "broken_syntax.py:2: SyntaxError"),
        (["run", SCRIPTS], 2, "without __main__.py"),
        (["run"], 2, "Missing argument 'SCRIPT'"),
        (["run", "--with", "clip_nrom=1", SCRIPTS / "healthy.py"], 2, "did you mean 'clip_norm'"),
        (["run", "--with", "clip_norm=x", SCRIPTS / "healthy.py"], 2, "takes a number"),
        (["run", "--clip", "nrom:1", SCRIPTS / "healthy.py"], 2, "did you mean 'norm'"),
        (["run", "--metric", "(", SCRIPTS / "healthy.py"], 2, "not a regular expression"),
        (["run", "--metric", "loss", SCRIPTS / "healthy.py"], 2, "has no group"),
        (["run", "--budget", "soon", SCRIPTS / "healthy.py"], 2, "is not a time"),
        (["run", "--watch-only", "--no-trials", SCRIPTS / "healthy.py"], 2, "already stops before the trials"),
        (["rum", SCRIPTS / "healthy.py"], 2, "did you mean 'gradbelt run'"),
        ([SCRIPTS / "healthy.py"], 2, "did you mean 'gradbelt run"),
        (["report", "nowhere"], 3, "nowhere"),
    ],
)
def test_one_plain_line_and_an_exit_code(words, code, said, tmp_path):
    done = gradbelt(*words, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists(), "nothing was run, so nothing is left behind"


def test_a_record_that_is_none_is_exit_3(tmp_path):
    (tmp_path / "blackbox.sqlite").write_bytes(b"not a database, and long enough to be looked at" * 100)
    done = gradbelt("report", tmp_path)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_one_warning(bare, watched, tmp_path):  # noqa: F811
    """The run goes on, recorded elsewhere, and the line says where."""
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "gradbelt", "run", "--out", str(tmp_path / "file" / "run"), str(SCRIPTS / "healthy.py")],
        capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout == bare(SCRIPTS / "healthy.py").stdout
    warning, last = done.stderr.splitlines()
    assert "can't write to" in warning
    elsewhere = warning.rpartition(" ")[2]
    assert load_run(elsewhere).num_steps == 60
    assert elsewhere in last


def test_a_full_disk_is_one_warning_and_the_run_goes_on(bare, tmp_path):  # noqa: F811
    """The limit is reached in the middle of the run; output and exit code are the script's, what fitted is readable."""
    command = f"ulimit -f 200; exec {sys.executable} -m gradbelt run --watch-only --out {tmp_path / 'run'} "
    done = subprocess.run(
        ["bash", "-c", command + f"{SCRIPTS / 'healthy.py'} 1200"], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == bare(SCRIPTS / "healthy.py", "1200").stdout
    assert "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if "black box" in line or "recording" in line]) == 1, (
        done.stderr
    )
    assert 0 < load_run(tmp_path / "run").num_steps < 1200


def test_without_torch_the_script_fails_as_it_would(tmp_path):
    """The script's own ImportError and exit code, and a word on why nothing was recorded."""
    (tmp_path / "torch.py").write_text("raise ImportError('no torch on this machine')")
    script = tmp_path / "train.py"
    script.write_text("import torch\n")
    done = gradbelt("run", "--out", tmp_path / "run", script)
    assert done.returncode == 1
    assert "ImportError: no torch on this machine" in done.stderr
    assert "no training step was seen" in done.stderr


def test_report_tells_an_unfinished_run(tmp_path, watched):  # noqa: F811
    """Also one that has no verdict, as kill -9 leaves it."""
    folder = watched(SCRIPTS / "diverges.py").folder
    (folder / "verdict.json").unlink()
    done = gradbelt("report", folder, "--json", "-")
    assert done.returncode == 0
    verdict = json.loads(done.stdout)
    assert verdict["exploded"]
    assert verdict["symptoms"][0]["kind"] == "divergence"


def test_report_speaks_japanese_and_writes_the_page(tmp_path, watched):  # noqa: F811
    folder = watched(SCRIPTS / "diverges.py").folder
    done = gradbelt("report", folder, "--lang", "ja", "--html", tmp_path / "page.html")
    assert done.returncode == 0
    assert "損失" in done.stdout
    assert "<html" in (tmp_path / "page.html").read_text()[:500]


def test_the_environment_chooses_the_language(watched):  # noqa: F811
    done = watched(SCRIPTS / "diverges.py", environment={"LANG": "ja_JP.UTF-8"})
    assert "爆発" in done.stderr


def test_json_to_stdout_is_the_verdict(watched):  # noqa: F811
    done = watched(SCRIPTS / "no_torch.py", options=("--watch-only", "--json", "-"))
    first, rest = done.stdout.split("\n", 1)
    assert first == "hello"
    assert json.loads(rest)["schema"] == 1


def test_runs_lists_what_was_recorded(tmp_path, watched):  # noqa: F811
    watched(SCRIPTS / "healthy.py")
    done = gradbelt("runs", tmp_path)
    assert "healthy.py" in done.stdout
    assert "healthy" in done.stdout
    assert "no runs in" in gradbelt("runs", tmp_path / "none").stdout


@pytest.mark.parametrize("command", ["remedies", "causes", "symptoms", "rules"])
def test_what_is_known_is_told_from_the_docstrings(command):
    done = gradbelt(command)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > 20


def test_help_has_examples():
    for command in ("run", "report"):
        assert f"gradbelt {command} " in gradbelt(command, "--help").stdout.partition("\n")[2]
