"""What the seams see of each kind of loop."""

from __future__ import annotations

import math

import pytest
from tests.seams.conftest import SCRIPTS

from gradbelt.blackbox import load_run


def test_an_ordinary_loop(watched):
    """Every step with its loss, its call site, its learning rate, its norms by name."""
    record = load_run(watched(SCRIPTS / "healthy.py", "20").folder)
    assert [row.step for row in record.steps] == list(range(20))
    row = record.steps[3]
    assert list(row.losses) == ["healthy.py:14"]
    assert row.lr == 0.05
    assert row.names == ("0.weight", "0.bias", "2.weight", "2.bias")
    assert math.isclose(row.total, math.sqrt(sum(float(n) ** 2 for n in row.norm)), rel_tol=1e-5)
    assert row.weight is not None


def test_a_loop_written_by_hand_counts_its_backwards(watched):
    """No optimizer: the parameters are found from the graph, and the division by zero at step 12 is found in it."""
    done = watched(SCRIPTS / "by_hand.py")
    assert done.verdict["steps"] == 30
    assert done.verdict["first_bad_step"] == 12
    assert load_run(done.folder).steps[0].optimizer == -1


def test_a_loop_through_autograd_grad_counts_its_calls(watched):
    """No backward and no .grad either; the belt clips the very tensors that the loop is about to use."""
    done = watched(SCRIPTS / "autograd_grad.py")
    assert done.verdict["steps"] == 40
    assert done.verdict["exploded"]
    assert load_run(done.folder).steps[0].names == ("weight", "bias")
    clipped = watched(SCRIPTS / "autograd_grad.py", options=("--watch-only", "--with", "clip_norm=0.1"))
    assert not clipped.verdict["exploded"]


def test_a_loop_through_torch_func_counts_its_calls(watched):
    """What is differentiated inside of it, and for an input alone, is no step; vmapped tensors are let be while the
    origin is looked for, and the belt clips what the loop is about to use."""
    done = watched(SCRIPTS / "functional.py", options=("--no-trials",))
    assert done.verdict["steps"] == 40
    assert done.verdict["exploded"]
    assert done.verdict["reproduced"]
    assert load_run(done.folder).steps[0].names == ("0.weight", "0.bias", "2.weight", "2.bias")
    clipped = watched(SCRIPTS / "functional.py", options=("--watch-only", "--with", "clip_norm=0.01"))
    assert not clipped.verdict["exploded"]


def test_what_breaks_under_torch_func_is_found_to_its_line(watched):
    done = watched(SCRIPTS / "functional_breaks.py", options=("--no-trials",))
    assert done.verdict["first_bad_step"] == 12
    assert done.verdict["reproduced"]
    assert (done.verdict["origin"]["op"], done.verdict["origin"]["line"]) == ("log", 12)


def test_a_loss_that_nothing_bounds_is_dated_to_where_it_left(watched):
    """It lies ever lower and has not come back; running it again is not given up for that, and the targets are named
    that take its bound away, not the size of the step."""
    found = watched(SCRIPTS / "unbounded.py", options=("--no-trials",)).verdict
    assert found["first_bad_step"] < 40
    assert found["reproduced"]
    assert found["causes"][0]["cause"] == "unnormalised_data"


def test_two_optimizers_share_their_step_numbers(watched):
    record = load_run(watched(SCRIPTS / "gan.py").folder)
    assert {row.optimizer for row in record.steps} == {0, 1}
    assert record.num_steps == 40
    assert len(record.steps) == 80
    streams = {where for row in record.steps for where in row.losses}
    assert streams == {"gan.py:11", "gan.py:14"}
    assert {name.split(".")[0] for row in record.steps for name in row.names} == {"D", "G"}


def test_a_closure_is_one_step_however_often_it_is_evaluated(watched):
    record = load_run(watched(SCRIPTS / "lbfgs.py").folder)
    assert record.num_steps == 8
    assert record.steps[0].total > 0.1


def test_steps_that_a_loss_scaler_leaves_out_are_no_steps_and_no_alarm(watched):
    """Norms and losses on record are the unscaled ones."""
    done = watched(SCRIPTS / "scaler.py")
    assert not done.verdict["exploded"]
    assert "nan in the gradients" not in done.stderr
    assert 0 < done.verdict["steps"] < 60
    row = load_run(done.folder).steps[0]
    assert row.total < 1e3
    assert all(loss < 1e3 for loss in row.losses.values())


def test_a_scaler_that_finds_no_scale_is_told_of_and_dates_the_explosion(watched, tmp_path):
    """Once, while the script runs, though no step takes place any more; the scale is on record."""
    script = tmp_path / "spiral.py"
    source = (SCRIPTS / "scaler.py").read_text().replace("range(60)", "range(90)")
    script.write_text(source.replace(".mean() / 2", ".mean() / 2 * (1 if step < 40 else float('inf'))"))
    done = watched(script)
    rows = load_run(done.folder).steps
    assert rows[-1].scale == rows[0].scale < 2.0**40
    (found,) = (each for each in done.verdict["symptoms"] if each["kind"] == "inf_grad")
    assert done.verdict["first_bad_step"] == found["step"] == len(rows)
    assert done.stderr.count("the loss scaler leaves out step after step") == 2  # live, and in the verdict


def test_sparse_gradients_are_read(watched):
    assert load_run(watched(SCRIPTS / "sparse.py").folder).steps[0].total > 0


@pytest.mark.slow
def test_an_unseeded_script_differs_from_run_to_run_and_repeats_with_a_seed(watched, tmp_path):
    script = tmp_path / "unseeded.py"
    script.write_text(
        "import random, numpy, torch\n"
        "print(random.random(), numpy.random.rand(), torch.rand(1).item(), sorted({'a', 'b'}, key=hash))\n"
    )
    free = {watched(script, options=("--watch-only",), environment={"PYTHONHASHSEED": ""}).stdout for _ in range(2)}
    assert len(free) == 2
    assert len({watched(script, options=("--watch-only", "--seed", "5")).stdout for _ in range(2)}) == 1


def test_remedies_compose_and_act(watched):
    """The belt clips, the learning rate is lower, and the run that diverged learns."""
    options = ("--no-trials", "--with", "clip_norm=1.0", "--with", "lower_lr=0.01")
    done = watched(SCRIPTS / "diverges.py", options=options)
    assert done.returncode == 0
    assert not done.verdict["exploded"]
    rows = load_run(done.folder).steps
    assert all(row.total_after <= 1.0 + 1e-6 for row in rows)
    assert any(row.action == "scale" for row in rows)


def test_every_patch_is_taken_off_again():
    """A process that was watched in is as it was: nothing of ours stays on torch."""
    import torch

    from gradbelt.supervise.patient import Patient
    from gradbelt.supervise.plan import Plan
    from gradbelt.supervise.seams import Seams

    def looks():
        return (
            torch.autograd.backward, torch.optim.Optimizer.__init__,
            torch.amp.GradScaler.scale, torch.amp.GradScaler.step,
            torch.nn.utils.clip_grad_norm_, torch.nn.utils.clip_grad.clip_grad_norm_,
            len(torch.optim.optimizer._global_optimizer_pre_hooks) if hasattr(torch.optim, "optimizer") else 0,
        )  # fmt: skip

    before = looks()
    patient = Patient(Plan(script="x", folder="/nonexistent/x", seed=0), warn=lambda _: None)
    seams = Seams(patient)
    seams.open()
    assert looks() != before
    seams.close()
    assert looks() == before
