"""Real scripts with labels: what others' rules would have said of the same runs. Prints a table."""

from __future__ import annotations

import pytest
from tests.cases.conftest import gradbelt, labels

from gradbelt._types import Level
from gradbelt.belt.judge import told
from gradbelt.blackbox import load_run
from gradbelt.lab.calibrate.rivals import RIVALS

pytestmark = pytest.mark.slow
SOON = 20  # steps after the first bad one within which a word still counts as finding it


def said_of(record, verdict):
    """Who -> the first step at which it raised an alarm, of gradbelt and each rival; absent where it never did.

    Ours is the verdict's, and counts only where what was said live, a warning or louder, is no later.
    """
    said = {}
    if verdict["exploded"]:
        live = [finding.step for finding in told(record) if finding.level >= Level.WARN]
        said["gradbelt"] = min([verdict["first_bad_step"], *live])
    for rival in RIVALS:
        spoke = rival.rule(record.steps, {})
        step = next((row.step for row, loud in zip(record.steps, spoke, strict=True) if loud), None)
        if step is not None:
            said[rival.name] = step
    return said


@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # a rival's mean of an inf
def test_no_rivals_rule_finds_more_or_cries_falsely_less(tmp_path):
    """Every rule over the same black boxes. A rival has found an explosion where it spoke at all until SOON steps after
    it, however long before; any word on a healthy run is a false alarm."""
    cases = labels()
    if not cases:
        pytest.skip("no labelled cases here")
    names = ["gradbelt", *(rival.name for rival in RIVALS)]
    found, false = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    said = {}
    for case in cases:
        _, verdict = gradbelt(case["file"], tmp_path / case["id"], "--watch-only")
        said[case["id"]] = of = said_of(load_run(tmp_path / case["id"]), verdict)
        for name in of:
            if not case["explodes"]:
                false[name] += 1
            elif of[name] <= case["first_bad_step"] + SOON:
                found[name] += 1
    best = max(names[1:], key=lambda name: (found[name] - false[name], -false[name]))
    sick = sum(case["explodes"] for case in cases)
    print(f"\n{'':26s} {'label':>6s} {'gradbelt':>9s} {best:>20s} {'rivals that spoke':>18s}")
    for case in cases:
        of = said[case["id"]]
        label = case["first_bad_step"] if case["explodes"] else "-"
        print(
            f"{case['id']:26s} {label!s:>6s} {of.get('gradbelt', '-')!s:>9s} {of.get(best, '-')!s:>20s} "
            f"{len(of.keys() - {'gradbelt'}):>15d}/{len(RIVALS)}"
        )
    for name in sorted(names, key=lambda name: false[name] - found[name]):
        print(f"{name:26s} found {found[name]:2d} of {sick}, false on {false[name]} of {len(cases) - sick}")
    assert (found["gradbelt"], false["gradbelt"]) == (sick, 0)
    for name in names[1:]:
        assert found[name] - false[name] <= found["gradbelt"] - false["gradbelt"]
