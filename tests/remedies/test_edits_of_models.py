"""What a user may rely on in the diff of a remedy on the model or on its loss: the patched script goes as the trial
did."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.remedies.test_edits import apply, edit, sites
from tests.remedies.test_interventions import run
from tests.seams.conftest import SCRIPTS

from gradbelt.blackbox import load_run
from gradbelt.remedies import parse
from gradbelt.remedies.edits import Sites, by_hand, edited, patches
from gradbelt.remedies.edits.acted import Deed
from gradbelt.remedies.edits.source import NoEdit

SPIKES = """\
import torch

torch.manual_seed(0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
for step in range(80):
    x = torch.randn(16, 4)
    y = x.sum(1, keepdim=True)
    if step % 9 == 7:
        y[0] = -9999.0
    loss = (model(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(model.weight.tolist())
"""
FRAME = """\
import torch
import torch.nn.functional as F

model = torch.nn.Linear(4, 3)
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
criterion = torch.nn.CrossEntropyLoss()
x = model(torch.ones(8, 4))
y = x.argmax(1)
{}
"""


def treated(text, remedy, folder, monkeypatch):
    """The script's trial under the remedy, its diff, and the patched script's run."""
    monkeypatch.chdir(folder)
    (folder / "train.py").write_text(text)
    run("train.py", folder / "run")
    tried, *_ = run("train.py", folder / "run" / "trials" / remedy, *remedy.split("+"))
    diff = patches(load_run(folder / "run"))(tuple(remedy.split("+")))
    assert diff is not None
    apply(folder, diff)
    mended, *_ = run("train.py", folder / "mended")
    return tried, diff, mended


EDITS = (
    ("deep_plain", "skip_connection", "for block in (model.layers[i] for i in range(60)):"),
    ("residual_no_norm", "residual_scale", "for layer in (model[i].down for i in range(1, 41)):"),
    ("logits_large", "logit_scaling", "(30 / logits.detach().abs().amax(1, keepdim=True)).clamp(max=1), y)"),
    ("attention_sharp", "qk_norm", "(torch.nn.functional.rms_norm(q, q.shape[-1:], eps=1e-06), torch.nn"),
)


@pytest.mark.slow
@pytest.mark.parametrize(("script", "remedy", "line"), EDITS)
def test_the_patched_script_goes_as_the_trial_did(script, remedy, line, tmp_path, monkeypatch):
    """Loss by loss."""
    text = (SCRIPTS / "remedies" / f"{script}.py").read_text()
    tried, diff, mended = treated(text, remedy, tmp_path, monkeypatch)
    assert line in diff
    assert mended.steps == tried.steps
    for (_, one), (_, other) in zip(mended.curve, tried.curve, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    assert mended.outcome == tried.outcome == "learning"


@pytest.mark.slow
@pytest.mark.parametrize("hand", [pytest.param("1", marks=pytest.mark.slow), None])
def test_attention_written_by_hand_is_normed_and_a_layer_of_torchs_is_told_in_words(hand, tmp_path, monkeypatch):
    monkeypatch.setenv("HAND" if hand else "MODULE", "1")
    text = (SCRIPTS / "remedies" / "attention_sharp.py").read_text()
    if hand:
        tried, diff, mended = treated(text, "qk_norm", tmp_path, monkeypatch)
        assert "functional.rms_norm(k, k.shape[-1:], eps=1e-06).transpose(-2, -1)) / math" in diff
        assert mended.loss == pytest.approx(tried.loss, rel=1e-3)
        return
    with pytest.raises(AssertionError):
        treated(text, "qk_norm", tmp_path, monkeypatch)
    said = by_hand(load_run(tmp_path / "run"))(("qk_norm",))
    assert "at train.py:35: q, k = F.rms_norm" in said


@pytest.mark.slow
def test_spikes_are_left_out_as_in_the_trial(tmp_path, monkeypatch):
    """One batch in nine has a target of -9999."""
    tried, diff, _ = treated(SPIKES, "skip_spike=10", tmp_path, monkeypatch)
    printed = [(tmp_path / way / "stdout.log").read_text() for way in ("run/trials/skip_spike=10", "mended", "run")]
    assert printed[0] == printed[1] != printed[2]
    assert tried.outcome == "learning"
    assert (
        "+    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), float('inf')))\n"
        "+    if norm < (10 * statistics.median(norms[-200:]) if len(norms) >= 5 else float('inf')):\n"
        "+        norms.append(norm)\n"
        "+        optimizer.step()\n"
    ) in diff


@pytest.mark.parametrize(
    ("remedy", "line", "facts"),
    [
        ("logit_scaling", "loss = F.cross_entropy(x, y) + F.cross_entropy(2 * x, y)", {"dims": 2}),
        ("logit_scaling", "loss = 2 * criterion(model(y), y)", {"dims": 2}),
        ("logit_scaling", "loss = criterion(x, y)", {"dims": None}),
        ("logit_scaling", "loss = helper(x, y)", {"dims": 2}),
        ("qk_norm", "w = x @ y", {}),
        ("qk_norm", "w = (x @ y.mT) @ (y @ x.mT)", {}),
    ],
)
def test_where_the_line_does_not_show_it_there_is_no_edit(remedy, line, facts):
    what = {"logit_scaling": "logits bounded", "qk_norm": "queries and keys normed"}[remedy]
    with pytest.raises(NoEdit):
        edited(FRAME.format(line), parse(remedy), Sites(deeds=(Deed(remedy, what, 9, facts=facts),)))


def test_a_loss_gets_bounded_logits(tmp_path):
    text = FRAME.format("loss = criterion(x, y)")
    seen = replace(sites(text), deeds=(Deed("logit_scaling", "logits bounded", 9, facts={"dims": 3}),))
    new = "x * (30 / x.detach().abs().amax((1, 2), keepdim=True)).clamp(max=1)"
    assert edit(tmp_path, text, "logit_scaling", seen) == f"-loss = criterion(x, y)\n+loss = criterion({new}, y)\n"


def test_queries_and_keys_that_are_computed_in_their_product_get_names(tmp_path):
    text = FRAME.format("w = model(y) @ model(x).transpose(-2, -1) / 2")
    seen = replace(sites(text), deeds=(Deed("qk_norm", "queries and keys normed", 9),))
    norm = "torch.nn.functional.rms_norm({0}, {0}.shape[-1:], eps=1e-06)"
    assert edit(tmp_path, text, "qk_norm", seen) == (
        "-w = model(y) @ model(x).transpose(-2, -1) / 2\n"
        "+query = model(y)\n+key = model(x)\n"
        f"+w = {norm.format('query')} @ {norm.format('key')}.transpose(-2, -1) / 2\n"
    )


def test_layers_without_numbers_in_a_row_are_not_named():
    text = FRAME.format("pass")
    for layers in ([f"{n * n}" for n in range(20)], [f"a{n}" for n in range(20)]):
        deeds = (Deed("skip_connection", "way around a block", 0, facts={"layers": layers}),)
        with pytest.raises(NoEdit):
            edited(text, parse("skip_connection"), Sites(made=(5,), deeds=deeds))


EMPTY_SETS = """\
import torch

torch.manual_seed(0)
attend, out = torch.nn.MultiheadAttention(8, 2, batch_first=True), torch.nn.Linear(8, 1)
optimizer = torch.optim.Adam([*attend.parameters(), *out.parameters()], lr=0.01)
for step in range(40):
    x = torch.randn(16, 5, 8)
    hidden = torch.rand(16, 5) < 0.7
    h, _ = attend(x, x, x, key_padding_mask=hidden)
    loss = (out(h.mean(1)) - x[:, 0, :1]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def test_a_mask_that_leaves_a_layer_nothing_is_told_in_words(tmp_path, monkeypatch):
    """The softmax is on none of the script's lines, so the words are about the mask."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(EMPTY_SETS)
    bare, *_ = run("train.py", tmp_path / "run")
    tried, *_ = run("train.py", tmp_path / "run" / "trials" / "mask_fix", "mask_fix")
    assert (bare.outcome, tried.steps) == ("nonfinite", 40)
    record = load_run(tmp_path / "run")
    assert patches(record)(("mask_fix",)) is None
    said = by_hand(record)(("mask_fix",))
    assert said.startswith("to change by hand, at train.py:9: give it a mask that leaves something over in every row")
