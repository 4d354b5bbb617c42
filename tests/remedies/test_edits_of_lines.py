"""Edits on the lines where a remedy acted: they apply, and the edited script does what the trial did."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.remedies.test_edits import apply, changed, edit, sites
from tests.remedies.test_interventions import SICK, run

from gradbelt.blackbox import load_run
from gradbelt.remedies import parse
from gradbelt.remedies.edits import Sites, patch, patches
from gradbelt.remedies.edits.acted import Deed

FRAME = """\
import torch

model = torch.nn.Linear(4, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
x = model(torch.ones(8, 4))
y = x.detach()
{}
"""


@pytest.mark.parametrize(
    ("remedy", "what", "old", "new"),
    [
        ("eps_in_op", "sqrt", "torch.sqrt(x)", "torch.sqrt(x.clamp_min(1e-06))"),
        ("eps_in_op", "log", "-(1 - x).log().mean()", "-(1 - x).clamp_min(1e-06).log().mean()"),
        ("eps_in_op=1e-4", "log", "torch.log(1 - x)", "torch.log((1 - x).clamp_min(0.0001))"),
        ("eps_in_op", "acos", "x.acos()", "x.clamp(-0.999999, 0.999999).acos()"),
        ("eps_in_op", "exp", "(x + y).exp().sum()", "(x + y).clamp_max(79).exp().sum()"),
        ("eps_in_op", "div at zero", "x / y", "x / torch.where(y.abs() < 1e-06, 1e-06, y)"),
        ("mask_fix", "0 / 0", "x.sum(1) / y.sum(1) / 2", "x.sum(1) / torch.where(y.sum(1) == 0, 1, y.sum(1)) / 2"),
        ("loss_reduction", "sum made a mean", "(x - y).square().sum()", "(x - y).square().mean()"),
        ("loss_reduction", "sum made a mean", "torch.sum((x - y) ** 2)", "torch.mean((x - y) ** 2)"),
        (
            "loss_reduction", "sum made a mean",
            "torch.nn.functional.l1_loss(x, y, reduction='sum')",
            "torch.nn.functional.l1_loss(x, y, reduction='mean')",
        ),
    ],
)  # fmt: skip
def test_only_the_operation_on_the_line_changes(remedy, what, old, new, tmp_path):
    text = FRAME.format(f"loss = {old}  # here")
    seen = replace(sites(text), deeds=(Deed(remedy.partition("=")[0], what, 7, facts={"high": 79}),))
    assert edit(tmp_path, text, remedy, seen) == f"-loss = {old}  # here\n+loss = {new}  # here\n"


def test_half_of_a_batch_is_no_half_precision(tmp_path):
    """A word in the script that only sounds like it."""
    text = FRAME.format("loss = torch.sqrt(x[: len(x) // 2])  # half")
    seen = replace(sites(text), deeds=(Deed("eps_in_op", "sqrt", 7),))
    assert ".clamp_min(1e-06))  # half" in edit(tmp_path, text, "eps_in_op", seen)
    half = text.replace("Linear(4, 1)", "Linear(4, 1).half()")
    (tmp_path / "train.py").write_text(half)
    assert patch(tmp_path / "train.py", parse("eps_in_op"), seen, shown_as="train.py") is None


def test_a_softmax_gets_a_line_that_says_which_rows_are_empty(tmp_path):
    text = FRAME.format("w = torch.softmax(x, dim=-1)")
    seen = replace(sites(text), deeds=(Deed("mask_fix", "softmax", 7),))
    assert edit(tmp_path, text, "mask_fix", seen) == (
        "-w = torch.softmax(x, dim=-1)\n"
        "+empty = torch.isneginf(x).all(-1, keepdim=True)\n"
        "+w = torch.softmax(x.masked_fill(empty, 0.0), dim=-1).masked_fill(empty, 0.0)\n"
    )


@pytest.mark.parametrize(
    ("remedy", "what", "line"),
    [
        ("eps_in_op", "log from logits", "torch.log(x)"),  # the trial went by the logits, which this line doesn't have
        ("eps_in_op", "div", "x / y"),  # a divisor that was also just below zero
        ("eps_in_op", "div at zero", "x / y + y / x"),
        ("eps_in_op", "sqrt", "x + 1"),
        ("mask_fix", "softmax", "torch.softmax(model(y), 1)"),  # would run the model twice
        ("mask_fix", "attention", "x + 1"),
        ("loss_reduction", "sum made a mean", "x.sum() + y.sum()"),
    ],
)
def test_where_the_line_does_not_show_it_there_is_no_edit(remedy, what, line, tmp_path):
    (tmp_path / "train.py").write_text(FRAME.format(f"loss = {line}"))
    for deeds in ((Deed(remedy, what, 7),), (), None):
        seen = Sites(deeds=deeds)
        assert patch(tmp_path / "train.py", parse(remedy), seen, shown_as="train.py") is None


@pytest.mark.parametrize(
    ("made", "remedy", "new"),
    [
        ("Adam(p, lr=0.1)", "higher_eps", "Adam(p, lr=0.1, eps=1e-06)"),
        ("AdamW(p, eps=1e-10)", "higher_eps=1e-5", "AdamW(p, eps=1e-05)"),
        ("Adam(p, lr=0.1)", "lower_beta2", "Adam(p, lr=0.1, betas=(0.9, 0.95))"),
        ("AdamW(p, betas=(0.8, 0.999), eps=1e-9)", "lower_beta2", "AdamW(p, betas=(0.8, 0.95), eps=1e-9)"),
        ("AdamW(p, betas=(0.8, 0.9))", "lower_beta2", None),
        ("SGD(p, lr=0.1)", "higher_eps", None),
        ("Adam(p, 0.1, (0.9, 0.999))", "lower_beta2", None),
        ("Adam(p, betas=pair)", "lower_beta2", None),
    ],
)
def test_a_constant_is_written_into_the_construction(made, remedy, new, tmp_path):
    text = f"import torch\np = [torch.ones(1)]\noptimizer = torch.optim.{made}\noptimizer.step()\n"
    (tmp_path / "train.py").write_text(text)
    diff = patch(tmp_path / "train.py", parse(remedy), Sites(steps=(4,), made=(3,)), shown_as="train.py")
    if new is None:
        assert diff is None
    else:
        assert f"+optimizer = torch.optim.{new}\n" in changed(text, apply(tmp_path, diff))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eps_in_op", "mask_fix", "loss_reduction", "higher_eps"])
def test_the_edited_script_goes_as_the_trial_did(name, tmp_path):
    """Found from the records of the run and of its trial; its losses are the trial's."""
    text = (SICK / f"{name}.py").read_text()
    (tmp_path / "train.py").write_text(text)
    run(tmp_path / "train.py", tmp_path / "run")
    treated, *_ = run(tmp_path / "train.py", tmp_path / "run" / "trials" / name, name)
    record = load_run(tmp_path / "run")
    record = replace(record, meta={**record.meta, "cwd": str(tmp_path), "script": "train.py"})
    diff = patches(record)((name,))
    assert diff is not None
    apply(tmp_path, diff)
    edited, *_ = run(tmp_path / "train.py", tmp_path / "edited")
    first, second = (load_run(tmp_path / way).steps for way in (f"run/trials/{name}", "edited"))
    assert edited.outcome == treated.outcome == "learning"
    assert len(first) == len(second)
    if name != "loss_reduction":  # there the script goes on seeing the sum in the trial
        assert edited.loss == pytest.approx(treated.loss, rel=1e-3)


BY_HAND = """\
import torch

torch.manual_seed(0)
model = torch.nn.Linear(16, 1)
x = torch.randn(256, 16)
y = x @ torch.randn(16, 1)
SCALE = 2.0**20
for step in range(60):
    i = torch.randint(0, 256, (32,))
    with torch.autocast("cpu", dtype=torch.float16):
        out = model(x[i])
    loss = (out - y[i]).square().mean()
    (loss * SCALE).backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.05 * p.grad / SCALE
            p.grad = None
print(loss.item())
"""


@pytest.mark.slow
def test_the_scale_of_a_loop_without_optimizer_is_lowered_where_it_is_written(tmp_path, monkeypatch):
    """Fixed, and undone by hand: both trial and diff multiply by 1024."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(BY_HAND)
    bare, *_ = run("train.py", tmp_path / "bare")
    _, printed, *_ = run("train.py", tmp_path / "run", "loss_scale")
    diff = patches(load_run(tmp_path / "run"))(())
    assert "-SCALE = 2.0**20\n+SCALE = 1024.0\n" in diff
    apply(tmp_path, diff)
    _, edited, *_ = run("train.py", tmp_path / "edited")
    assert bare.outcome == "nonfinite"
    assert float(edited) == pytest.approx(float(printed), rel=1e-3)
