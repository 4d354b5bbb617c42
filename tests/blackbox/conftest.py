from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gradbelt._types import StepRecord

LOOP = Path(__file__).with_name("loop.py")
_spec = importlib.util.spec_from_file_location("gradbelt_tests_loop", LOOP)
assert _spec is not None and _spec.loader is not None
_loop = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_loop)


@pytest.fixture
def row() -> Callable[[int], StepRecord]:
    """Makes a step from its call."""
    return _loop.row


@pytest.fixture
def loop() -> list[str]:
    """The command that runs a training loop; append the folder and options."""
    return [sys.executable, str(LOOP)]


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs source text in a fresh interpreter, with loop.py's `row` and the arguments `args` at hand."""

    def run(source: str, *args: object) -> subprocess.CompletedProcess[str]:
        head = f"import sys; sys.path.insert(0, {str(LOOP.parent)!r}); args = sys.argv[1:]; from loop import row\n"
        return subprocess.run(
            [sys.executable, "-c", head + source, *map(str, args)], capture_output=True, text=True, timeout=60
        )

    return run


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user of the machine can look into; a test run by root can show it to an ordinary user."""
    folder = Path(tempfile.mkdtemp(prefix="gradbelt-test-"))
    folder.chmod(0o755)
    yield folder
    for path, _, _ in os.walk(folder):
        os.chmod(path, 0o755)
    shutil.rmtree(folder)
