"""The labelled cases lie outside the project; without them these tests are skipped."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CASES = Path(os.environ.get("GRADBELT_CASES", Path(__file__).resolve().parents[3] / "shared" / "cases"))


def labels() -> list[dict[str, Any]]:
    """The labelled cases, or none where the folder is absent."""
    path = CASES / "labels.json"
    return json.loads(path.read_text())["cases"] if path.exists() else []


def each(*, explodes: bool | None = None) -> Any:
    """Parametrises a test over the cases; one skipped test where there are none."""
    found = [case for case in labels() if explodes is None or case["explodes"] is explodes]
    if not found:
        return pytest.mark.parametrize("case", [pytest.param(None, marks=pytest.mark.skip("no labelled cases here"))])
    return pytest.mark.parametrize("case", found, ids=[case["id"] for case in found])


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}


def gradbelt(script, folder, *options):
    """`gradbelt run options script` -> (finished process, verdict)."""
    done = subprocess.run(
        [sys.executable, "-m", "gradbelt", "run", "--out", str(folder), *options, str(CASES / script)],
        capture_output=True, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    return done, json.loads((Path(folder) / "verdict.json").read_text())


def final_loss(output):
    found = re.findall(r"final_loss=(\S+)", output)
    return float(found[-1]) if found else math.nan


def patched(script, diff, folder):
    """What `patch` said, and the final loss of the patched copy, run bare."""
    folder.mkdir()
    name = re.search(r"^--- a/(.*?)\t?$", diff, re.MULTILINE)[1]
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes((CASES / script).read_bytes())
    done = subprocess.run(["patch", "-p1"], input=diff, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        return f"does not apply: {done.stdout}", math.nan
    run = subprocess.run([sys.executable, name], cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)
    return "applies", final_loss(run.stdout)
