"""Runs a script bare and watched, the same way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
for name in ("LC_ALL", "LC_MESSAGES"):
    ENVIRONMENT.pop(name, None)


@pytest.fixture
def bare(tmp_path):
    """python script args -> the finished process."""

    def run(*command, stdin="", environment=None):
        return subprocess.run(
            [sys.executable, *map(str, command)],
            input=stdin, capture_output=True, text=True, cwd=tmp_path, env={**ENVIRONMENT, **(environment or {})},
        )  # fmt: skip

    return run


@pytest.fixture
def watched(tmp_path):
    """gradbelt run ... -> the finished process, with `.folder` and `.verdict` of its record."""

    def run(*command, stdin="", environment=None, options=("--watch-only",)):
        folder = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        done = subprocess.run(
            [sys.executable, "-m", "gradbelt", "run", "--out", str(folder), *options, *map(str, command)],
            input=stdin, capture_output=True, text=True, cwd=tmp_path, env={**ENVIRONMENT, **(environment or {})},
        )  # fmt: skip
        done.folder = folder
        done.verdict = json.loads((folder / "verdict.json").read_text()) if (folder / "verdict.json").exists() else None
        return done

    return run
