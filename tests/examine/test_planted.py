"""Faults planted in training loops of every kind: the operation, the line and the module are found.

What is planted, and where, is written beside each fault in tests/examine/planted. Every fault is planted twice: after
healthy steps, and at the very first, where there is nothing to compare with. Prints a table (pytest -s).
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.examine.planted import backward, data, decoys, forward, loops, modules, update  # noqa: F401  planted
from tests.examine.planted.field import FAULTS
from tests.seams.conftest import ENVIRONMENT, SCRIPTS

ENOUGH = 0.95
pytestmark = pytest.mark.timeout(1200)  # half a minute each way, on a machine that has nothing else to do


@pytest.fixture(
    scope="module",
    params=[pytest.param(2, marks=pytest.mark.slow), pytest.param(0, marks=pytest.mark.slow)],
    ids=["after healthy steps", "at the first step"],
)
def found(request, tmp_path_factory):
    """Each fault with the origin that was named for it."""
    return trace([fault for fault in FAULTS if fault.element is None], request.param, tmp_path_factory)


def trace(faults, bad, tmp_path_factory):
    """Plants faults at step `bad`; prints, and answers, each with its origin."""
    folder = str(tmp_path_factory.mktemp("planted"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.examine.planted", folder, str(bad), *(fault.name for fault in faults)],
        capture_output=True, text=True, env=ENVIRONMENT, cwd=SCRIPTS.parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    origins = dict(json.loads(line) for line in done.stdout.splitlines())
    print()
    for fault in faults:
        print(row(fault, origins[fault.name]))
    return [(fault, origins[fault.name]) for fault in faults]


def row(fault, origin):
    marks = "".join("." if right(fault, origin) else "x" for right in (op, line, module))
    got = " ".join(str(origin.get(name)) for name in ("stage", "op", "file", "line", "module", "tensor", "about"))
    return f"{marks} {fault.name:36s} {'|'.join(fault.ops):24s} {fault.file}:{fault.lines} {fault.module}  <- {got}"


def op(fault, origin):
    return origin.get("stage") in fault.stages and (fault.ops == ("*",) or origin.get("op") in fault.ops)


def line(fault, origin):
    return origin.get("line") in fault.lines and origin.get("file") == fault.file


def module(fault, origin):
    return "op" in origin and origin["module"] == fault.module


def share(found, right):
    return sum(right(*each) for each in found) / len(found)


def test_there_are_enough_of_them():
    assert len(FAULTS) >= 60
    assert len({op for fault in FAULTS for op in fault.ops[:1]}) >= 20


@pytest.mark.parametrize("right", [op, line, module])
def test_it_is_found(found, right):
    assert share(found, right) >= ENOUGH, [fault.name for fault, origin in found if not right(fault, origin)]


def test_no_wrong_line_is_stated_as_certain(found):
    stated = [(fault, origin) for fault, origin in found if origin.get("line") and not origin["about"]]
    assert [fault.name for fault, origin in stated if not line(fault, origin)] == []


def test_data_is_named_down_to_its_element(tmp_path_factory):
    """Row, column and value, and the row of the data set; also where it is finite, and only unlike all before it."""
    planted = [fault for fault in FAULTS if fault.plant.__module__.endswith("data")]
    for fault, origin in trace(planted, 8, tmp_path_factory):
        wanted, element = fault.element or {}, origin["element"]
        print(fault.name, element)
        assert origin["stage"] == "data", fault.name
        assert (element["column"], element["index"]) == (2, 8 * 8 + 5), fault.name
        assert element["row"] == (5 if wanted.get("row", 5) is not None else 3), fault.name
        assert element["tensor"] == wanted.get("tensor", element["tensor"])
        if "value" in wanted:
            assert element["value"] == wanted["value"]
            assert 0.2 < element["usual"] < 2
            assert element["ratio"] > 100
            assert line(fault, origin)
