"""Importing gradbelt, and asking the command line for help, costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "code",
    [
        "import gradbelt; gradbelt.__version__",
        "import gradbelt.cli.run",
        "import gradbelt.cli.report, gradbelt.cli.runs, gradbelt.cli.known",
        "import gradbelt.blackbox, gradbelt.belt.judge, gradbelt.trials.run, gradbelt.prescribe",
        "from gradbelt import remedies; remedies.parse('clip_norm=0.5+skip_step')",
    ],
)
def test_no_framework_is_loaded(code):
    """The parent process of a run never needs torch: it stays small and starts at once."""
    check = f"{code}\nimport sys; assert 'torch' not in sys.modules, 'torch was imported'"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_check_bites():
    check = "import torch, sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True).returncode == 1
