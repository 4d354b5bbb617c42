"""A run is repeated cheaply, and followed closely from its last healthy step on."""

from __future__ import annotations

import math
import sys

import pytest
from tests.seams.conftest import SCRIPTS, watched  # noqa: F401  fixture

from gradbelt._types import Onset
from gradbelt.belt.judge import onset
from gradbelt.blackbox import load_run
from gradbelt.examine.reproduce import FAR, aimed, trace_from
from gradbelt.supervise.plan import Plan
from gradbelt.testing import make_run

linux = pytest.mark.skipif(sys.platform != "linux", reason="snapshots need Linux")
SQRT = ("backward", "sqrt", 21)


def origin(verdict):
    return tuple(verdict["origin"][part] for part in ("pass", "op", "line"))


@linux
def test_only_the_steps_from_the_last_healthy_one_on_are_followed(watched):  # noqa: F811
    done = watched(SCRIPTS / "late.py", options=("--no-trials",))
    assert done.verdict["reproduced"]
    assert done.verdict["first_bad_step"] == 40
    assert origin(done.verdict) == SQRT
    again, traced = load_run(done.folder / "again"), load_run(done.folder / "again" / "traced")
    assert [row.step for row in again.steps] == list(range(40))
    assert [row.step for row in traced.steps] == [39, 40]
    assert [row.total for row in traced.steps[:1]] == [row.total for row in again.steps[39:40]]


@pytest.mark.slow
def test_where_no_snapshot_can_be_left_the_same_is_found_in_one_go(watched, tmp_path):  # noqa: F811
    script = tmp_path / "late.py"
    start = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    script.write_text((SCRIPTS / "late.py").read_text().replace("import atexit\n", f"import atexit; {start}"))
    done = watched(script, options=("--no-trials",))
    assert done.verdict["reproduced"]
    assert origin(done.verdict) == SQRT
    assert not (done.folder / "again" / "traced").exists()
    reasons = [event.message for event in load_run(done.folder / "again").events if event.kind == "no_snapshot"]
    assert any("1 more thread" in reason or "need Linux" in reason for reason in reasons)


@pytest.mark.slow
@linux
def test_a_long_way_is_gone_with_a_look_at_every_tenth_step(watched, tmp_path):  # noqa: F811
    """All of what the first run measured is not measured again: the first steps are, those before the onset, and a few
    in between, which have to be the same."""
    script = tmp_path / "later.py"
    source = (SCRIPTS / "late.py").read_text()
    script.write_text(source.replace("step == 40", "step == 140").replace("range(60)", "range(150)"))
    done = watched(script, options=("--no-trials",))
    assert done.verdict["reproduced"]
    assert origin(done.verdict) == SQRT
    again = load_run(done.folder / "again")
    assert [row.step for row in again.steps] == [*range(20), *range(20, 99, 10), *range(99, 140)]
    watched_run = {row.call: row.total for row in load_run(done.folder).steps}
    assert all(watched_run[row.call] == pytest.approx(row.total) for row in again.steps)


@pytest.mark.slow
@linux
def test_where_that_run_breaks_between_two_looks_all_between_them_is_followed(watched, tmp_path):  # noqa: F811
    script = tmp_path / "fickle.py"
    count = "import os; bad = 77 if os.path.exists('seen') else 140; open('seen', 'w').close()\n"
    source = (SCRIPTS / "late.py").read_text().replace("step == 40", "step == bad").replace("range(60)", "range(150)")
    script.write_text(source.replace("import atexit\n", f"import atexit; {count}"))
    done = watched(script, options=("--no-trials",))
    assert done.verdict["reproduced"] is False
    assert origin(done.verdict) == SQRT
    traced = load_run(done.folder / "again" / "traced")
    assert {*range(50, 78)} <= {row.step for row in traced.steps}


@pytest.mark.slow
@linux
def test_a_second_run_that_goes_its_own_way_is_followed_where_it_broke_itself(watched, tmp_path):  # noqa: F811
    script = tmp_path / "fickle.py"
    count = "import os; bad = 20 if os.path.exists('seen') else 40; open('seen', 'w').close()\n"
    source = (SCRIPTS / "late.py").read_text().replace("step == 40", "step == bad")
    script.write_text(source.replace("import atexit\n", f"import atexit; {count}"))
    done = watched(script, options=("--no-trials",))
    assert done.verdict["first_bad_step"] == 40
    assert done.verdict["reproduced"] is False
    assert origin(done.verdict) == SQRT


@pytest.mark.slow
def test_of_two_optimizers_the_one_whose_gradients_grew_did_it(watched):  # noqa: F811
    done = watched(SCRIPTS / "two_optimizers.py", options=("--no-trials",))
    assert origin(done.verdict) == ("update", "SGD.step", 15)


def test_the_last_healthy_step_is_finite_and_belongs_to_no_warning():
    run = make_run("explodes")
    found = onset(run)
    assert found.healthy_step < found.warning_step <= found.bad_step
    assert all(math.isfinite(row.total) for row in run.steps[: found.healthy_step + 1])
    assert onset(make_run("all_nan")).healthy_step is None
    assert onset(make_run("healthy")).healthy_step is None


@pytest.mark.parametrize(
    ("healthy", "bad", "first"), [(39, 40, 39), (35, 40, 35), (39 - FAR, 40, 39), (None, 40, 39), (None, 0, None)]
)
def test_the_tracing_begins_at_a_healthy_step_that_is_near(healthy, bad, first):
    found = Onset(exploded=True, warning_step=None, bad_step=bad, findings=(), healthy_step=healthy)
    assert trace_from(found) == first
    assert aimed(Plan(script="x", folder="y", seed=0), found).trace_from == first


@pytest.mark.slow
def test_a_recurrence_without_modules_is_seen_in_the_graph(watched):  # noqa: F811
    done = watched(SCRIPTS / "sick" / "recurrence_by_hand.py", options=("--no-trials",))
    assert done.verdict["causes"][0]["cause"] == "recurrence"
    assert "50 times" in " ".join(done.verdict["causes"][0]["evidence"])


@pytest.mark.slow
def test_a_net_that_is_asked_many_times_in_a_step_is_no_recurrence(watched):  # noqa: F811
    """An agent acts between its updates, and values many states in one loss."""
    done = watched(SCRIPTS / "sick" / "acts_between_steps.py", options=("--no-trials",))
    assert done.verdict["exploded"]
    assert "recurrence" not in [cause["cause"] for cause in done.verdict["causes"]]
