"""The labelled cases lie outside the project; without them these tests are skipped."""

from __future__ import annotations

import json
import os
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
