"""What a user may rely on in a diff of their own file: it applies, does what the trial did, and leaves the rest."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradbelt.blackbox import load_run
from gradbelt.remedies import parse
from gradbelt.remedies.edits import Sites, patch, patches
from gradbelt.remedies.edits.weave import applied, difference

PATCH = shutil.which("patch")

PLAIN = """\
import torch

model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.45)  # copied
for step in range(10):
    loss = model(torch.randn(8, 4)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()  # here
print(loss.item())
"""


def sites(text):
    """Where a run would pass: every step of an optimizer, every backward, every construction."""

    def on(pattern):
        return tuple(i for i, line in enumerate(re.split(r"\r\n|\n", text), 1) if re.search(pattern, line))

    return Sites(
        steps=on(r"\b(opt\w*|[gd]|scaler|o)(\[\d\])?\.step\("),
        backwards=on(r"\.backward\("),
        made=on(r"\b(SGD|Adam|LBFGS|Lion)\("),
    )


def diff_of(folder, text, remedies, seen=None):
    (folder / "train.py").write_bytes(text.encode())
    wanted = [remedy for each in remedies.split("+") for remedy in parse(each)]
    return patch(folder / "train.py", wanted, sites(text) if seen is None else seen, shown_as="train.py")


def apply(folder, diff):
    """The file after `patch -p1 < diff` in `folder`, by the program where there is one."""
    path = folder / "train.py"
    by_hand = _apply(path.read_bytes().decode(), diff)
    if PATCH:
        done = subprocess.run(
            [PATCH, "-p1", "--no-backup-if-mismatch"], input=diff.encode(), cwd=folder, capture_output=True
        )
        assert done.returncode == 0, done.stdout
        assert b"fuzz" not in done.stdout and b"offset" not in done.stdout
        assert path.read_bytes().decode() == by_hand
    path.write_bytes(by_hand.encode())
    compile(by_hand.encode(), "train.py", "exec")
    return by_hand


def _apply(old, diff):
    """A unified diff applied, strictly."""
    rows, out, at = diff.split("\n"), [], 0
    source = old.split("\n")
    source = [row + "\n" for row in source[:-1]] + ([source[-1]] if source[-1] else [])
    for index, row in enumerate(rows[2:], 2):
        if match := re.fullmatch(r"@@ -(\d+)(?:,(\d+))? \+\S+ @@", row):
            start = int(match[1]) - (match[2] != "0")
            out += source[at:start]
            at = start
        elif row[:1] in (" ", "-", "+"):
            whole = row[1:] + ("" if rows[index + 1].startswith("\\") else "\n")
            if row[0] != "+":
                assert source[at] == whole
                at += 1
            if row[0] != "-":
                out.append(whole)
    return "".join(out + source[at:])


def changed(old, new):
    """Lines that went and lines that came."""
    rows = difflib.unified_diff(old.split("\n"), new.split("\n"), n=0, lineterm="")
    return "".join(f"{row}\n" for row in list(rows)[2:] if not row.startswith("@"))


def edit(folder, text, remedies, seen=None):
    diff = diff_of(folder, text, remedies, seen)
    assert diff is not None
    return changed(text, apply(folder, diff))


CLIP = "torch.nn.utils.clip_grad_norm_"
FINITE = "p.grad is None or torch.isfinite(p.grad).all()"
GROUPS = 'for group in {}.param_groups for p in group["params"]'


@pytest.mark.parametrize(
    ("remedy", "lines"),
    [
        ("clip_norm=1.0", f"+    {CLIP}(model.parameters(), 1.0)\n"),
        ("clip_value=0.5", "+    torch.nn.utils.clip_grad_value_(model.parameters(), 0.5)\n"),
        (
            "skip_step",
            (
                f"-    optimizer.step()  # here\n+    if all({FINITE} for p in model.parameters()):\n"
                "+        optimizer.step()  # here\n"
            ),
        ),
        (
            "zero_nan",
            (
                "+    for p in model.parameters():\n+        if p.grad is not None:\n"
                "+            torch.nan_to_num_(p.grad, nan=0.0, posinf=0.0, neginf=0.0)\n"
            ),
        ),
        (
            "lower_lr=0.1",
            (
                "-optimizer = torch.optim.SGD(model.parameters(), lr=0.45)  # copied\n"
                "+optimizer = torch.optim.SGD(model.parameters(), lr=0.045)  # copied\n"
            ),
        ),
        (
            "warmup=20",
            (
                "+warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 20, total_iters=19)\n"
                "+    warmup.step()\n"
            ),
        ),
        (
            "he_init",
            (
                "+for layer in model.modules():\n+    if isinstance(layer, torch.nn.Linear):\n"
                '+        torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")\n'
            ),
        ),
        (
            "clip_norm=1.0+skip_step+lower_lr=0.1",
            (
                "-optimizer = torch.optim.SGD(model.parameters(), lr=0.45)  # copied\n"
                "+optimizer = torch.optim.SGD(model.parameters(), lr=0.045)  # copied\n"
                f"-    optimizer.step()  # here\n+    if all({FINITE} for p in model.parameters()):\n"
                f"+        {CLIP}(model.parameters(), 1.0)\n+        optimizer.step()  # here\n"
            ),
        ),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_remedy_becomes_the_lines_a_colleague_would_write(tmp_path, remedy, lines, end):
    assert edit(tmp_path, PLAIN.replace("\n", end), remedy) == lines.replace("\n", end)


def test_no_newline_at_the_end_tabs_and_a_byte_order_mark_stay(tmp_path):
    text = "\ufeff" + PLAIN.replace("    ", "\t").partition("print")[0].rstrip().partition("  # here")[0]
    diff = diff_of(tmp_path, text, "warmup=2+clip_norm=1.0", sites(text))
    new = apply(tmp_path, diff)
    assert new.startswith("\ufeffimport") and new.endswith("\toptimizer.step()\n\twarmup.step()")
    assert f"\n\t{CLIP}(model.parameters(), 1.0)\n" in new


@pytest.mark.parametrize(
    ("lr", "new"),
    [
        ("lr=1e-3", "lr=0.0001"),
        ("lr=args.lr", "lr=args.lr * 0.1"),
        ("lr=base / 2", "lr=base / 2 * 0.1"),
        ("lr=base + 1", "lr=(base + 1) * 0.1"),
        ("lr=a if b else c", "lr=(a if b else c) * 0.1"),
        ("0.5", "0.05"),
        ("momentum=0.9", "momentum=0.9, lr=0.0001"),
    ],
)
def test_a_learning_rate_is_lowered_however_it_is_given(tmp_path, lr, new):
    text = PLAIN.replace("lr=0.45", lr)
    assert edit(tmp_path, text, "lower_lr=0.1").splitlines()[1] == (
        f"+optimizer = torch.optim.SGD(model.parameters(), {new})  # copied"
    )


def test_groups_are_lowered_each(tmp_path):
    text = PLAIN.replace("model.parameters(), lr=0.45", "[{'params': [a], 'lr': 3e-3}, {'params': [b]}], lr=0.1")
    assert "[{'params': [a], 'lr': 0.0003}, {'params': [b]}], lr=0.01)" in edit(tmp_path, text, "lower_lr=0.1")
    text = PLAIN.replace("model.parameters(), lr=0.45", "[{'params': [a], 'lr': rate}, {'params': [b], 'lr': 1}]")
    assert "[{'params': [a], 'lr': rate * 0.1}, {'params': [b], 'lr': 0.1}])" in edit(tmp_path, text, "lower_lr=0.1")


@pytest.mark.parametrize(
    ("args", "new"),
    [
        ("model.parameters(), lr=2e-3, betas=(0.999, 0.9)", "model.parameters(), lr=2e-3"),
        ("model.parameters(), betas=(0.5, 0.9), eps=1, lr=2e-3", "model.parameters(), lr=2e-3"),
        ("model.parameters(), eps=1,", "model.parameters(),"),
    ],
)
def test_constants_go_back_to_the_defaults_by_being_left_out(tmp_path, args, new):
    text = PLAIN.replace("SGD(model.parameters(), lr=0.45)", f"Adam({args})")
    assert (
        edit(tmp_path, text, "optimizer_defaults").splitlines()[1] == f"+optimizer = torch.optim.Adam({new})  # copied"
    )


@pytest.mark.parametrize(
    ("imports", "sgd", "said"),
    [
        ("import torch as th", "th.optim.SGD", "th.nn.utils.clip_grad_norm_("),
        ("from torch import nn, optim", "optim.SGD", "nn.utils.clip_grad_norm_("),
        ("from torch.nn.utils import clip_grad_norm_\nimport torch", "torch.optim.SGD", "clip_grad_norm_("),
        ("import os\nfrom torch.optim import SGD", "SGD", "torch.nn.utils.clip_grad_norm_("),
    ],
)
def test_torch_is_called_as_the_script_calls_it(tmp_path, imports, sgd, said):
    text = f"{imports}\n\noptimizer = {sgd}(model.parameters())\nloss.backward()\noptimizer.step()\n"
    lines = edit(tmp_path, text, "clip_norm=1.0")
    assert f"+{said}model.parameters(), 1.0)\n" in lines
    assert ("+import torch\n" in lines) == ("import os" in imports)


def test_several_statements_on_a_line_stay_on_it_while_they_can(tmp_path):
    text = (
        "import torch\ng, d = torch.optim.SGD(G.parameters(), 1), torch.optim.Adam(D.parameters())\n"
        "for x in data:\n    d.zero_grad(); a.backward(); d.step()\n    g.zero_grad(); b.backward(); g.step()  # g\n"
    )
    assert edit(tmp_path, text, "clip_norm=1.0") == (
        "-    d.zero_grad(); a.backward(); d.step()\n-    g.zero_grad(); b.backward(); g.step()  # g\n"
        f"+    d.zero_grad(); a.backward(); {CLIP}(D.parameters(), 1.0); d.step()\n"
        f"+    g.zero_grad(); b.backward(); {CLIP}(G.parameters(), 1.0); g.step()  # g\n"
    )
    assert edit(tmp_path, text, "skip_step").endswith(
        f"+    g.zero_grad(); b.backward()\n+    if all({FINITE} for p in G.parameters()):\n+        g.step()  # g\n"
    )
    assert edit(tmp_path, text, "lower_lr=0.1").splitlines()[1] == (
        "+g, d = torch.optim.SGD(G.parameters(), 0.1), torch.optim.Adam(D.parameters(), lr=0.0001)"
    )
    assert edit(tmp_path, text, "warmup=5").count("+warmup_") == 2


def test_one_line_bodies_are_opened_where_they_must_be(tmp_path):
    text = PLAIN.replace("    optimizer.step()  # here", "    if step % 2: optimizer.step(); n = 1  # here")
    line = f"    if step % 2: {CLIP}(model.parameters(), 1.0); optimizer.step(); n = 1  # here\n"
    assert f"+{line}" in edit(tmp_path, text, "clip_norm=1.0")
    assert edit(tmp_path, text, "skip_step") == (
        "-    if step % 2: optimizer.step(); n = 1  # here\n+    if step % 2:\n"
        f"+        if all({FINITE} for p in model.parameters()):\n+            optimizer.step()\n"
        "+        n = 1  # here\n"
    )


def test_an_optimizer_of_a_class_is_reached_through_its_groups(tmp_path):
    text = (
        "import torch\nclass T:\n    def __init__(self, m):\n        self.opt = torch.optim.SGD(m.parameters(), lr=1)\n"
        "    @staticmethod\n    def other(): pass\n"
        "    def fit(self, loss):\n        with x:\n            loss.backward()\n            self.opt.step()\n"
    )
    assert edit(tmp_path, text, "clip_norm=1.0") == (f"+            {CLIP}([p {GROUPS.format('self.opt')}], 1.0)\n")
    assert edit(tmp_path, text, "warmup=3") == (
        "+        self.warmup = torch.optim.lr_scheduler.LinearLR(self.opt, start_factor=1 / 3, total_iters=2)\n"
        "+            self.warmup.step()\n"
    )


def test_a_model_that_may_have_become_another_is_not_named(tmp_path):
    """Between construction and step `model` is bound again, or is another function's."""
    again = PLAIN.replace("for step", "model = other()\nfor step")
    assert GROUPS.format("optimizer") in edit(tmp_path, again, "clip_norm=1.0")
    passed = (
        "import torch\ndef fit(model, optimizer):\n    loss.backward()\n    optimizer.step()\n"
        "def main():\n    model = M()\n    optimizer = torch.optim.SGD(model.parameters(), lr=1)\n"
        "    fit(M(), optimizer)\n"
    )
    assert GROUPS.format("optimizer") in edit(tmp_path, passed, "clip_norm=1.0")
    assert diff_of(tmp_path, passed, "warmup=5") is None


def test_a_scaler_unscales_first_once(tmp_path):
    scaled = PLAIN.replace("optimizer.step()", "scaler.step(optimizer)")
    scaled = scaled.replace("for step", 'scaler = torch.amp.GradScaler("cpu")\nfor step')
    unscale, clip = "    scaler.unscale_(optimizer)\n", f"    {CLIP}(model.parameters(), 1.0)\n"
    assert edit(tmp_path, scaled, "clip_norm=1.0") == f"+{unscale}+{clip}"
    already = scaled.replace("    scaler.step", f"{unscale}    scaler.step")
    assert edit(tmp_path, already, "clip_norm=1.0") == f"+{clip}"
    for remedy in ("skip_step", "zero_nan", "warmup=5"):
        assert diff_of(tmp_path, scaled, remedy) is None


@pytest.mark.parametrize(
    ("old", "new"), [("5.0", "0.5"), ("args.clip", "min(args.clip, 0.5)"), ("max_norm=2", "max_norm=0.5")]
)
def test_a_clip_that_is_there_gets_a_lower_threshold(tmp_path, old, new):
    text = PLAIN.replace("    optimizer.step", f"    {CLIP}(model.parameters(), {old})\n    optimizer.step")
    assert edit(tmp_path, text, "clip_norm=0.5").splitlines()[1] == f"+    {CLIP}(model.parameters(), {new})"


def test_a_closure_clips_after_its_backward(tmp_path):
    text = (
        "import torch\noptimizer = torch.optim.LBFGS(model.parameters(), lr=0.5)\ndef closure():\n"
        "    loss = f()\n    loss.backward()\n    return loss\nfor i in range(3):\n    optimizer.step(closure)\n"
    )
    assert edit(tmp_path, text, "clip_norm=1.0") == f"+    {CLIP}(model.parameters(), 1.0)\n"
    for remedy in ("skip_step", "zero_grad", "warmup=5"):
        assert diff_of(tmp_path, text, remedy) is None


HAND = "import torch\nfor x in data:\n    loss = f(x)\n    loss.backward()\n{}\n"


@pytest.mark.parametrize(
    ("update", "what"),
    [
        ("    for p in model.parameters():\n        p.data.add_(p.grad, alpha=-lr)", "model.parameters()"),
        ("    with torch.no_grad():\n        w -= 0.1 * w.grad\n        b -= 0.1 * b.grad", "[w, b]"),
        ("    w.data -= 0.1 * w.grad\n    b.data -= 0.1 * b.grad\n    w.grad = None", "[w, b]"),
        ("    for p in params:\n        p.data -= lr * p.grad\n        p.grad.zero_()", "params"),
        (
            "    for p in a.parameters():\n        p -= p.grad\n    for p in b.parameters():\n        p -= p.grad",
            "[*a.parameters(), *b.parameters()]",
        ),
    ],
)
def test_a_loop_without_optimizer_clips_all_that_it_updates(tmp_path, update, what):
    assert edit(tmp_path, HAND.format(update), "clip_norm=1.0") == f"+    {CLIP}({what}, 1.0)\n"


@pytest.mark.parametrize(
    ("update", "new"),
    [
        ("p.data.add_(p.grad, alpha=-lr)", "p.data.add_(p.grad, alpha=-lr * 0.1)"),
        ("p.data.add_(-lr * p.grad)", "p.data.add_(-lr * p.grad, alpha=0.1)"),
        ("p -= 0.5 * p.grad", "p -= 0.5 * p.grad * 0.1"),
        ("p.data -= p.grad", "p.data -= p.grad * 0.1"),
        ("p.data.addcdiv_(p.grad, v, value=-lr)", None),
        ("p.data.copy_(p - p.grad)", None),
    ],
)
def test_the_rate_of_an_update_by_hand_is_lowered(tmp_path, update, new):
    text = HAND.format(f"    with torch.no_grad():\n        for p in params:\n            {update}")
    if new is None:
        assert diff_of(tmp_path, text, "lower_lr=0.1") is None
    else:
        assert edit(tmp_path, text, "lower_lr=0.1") == f"-            {update}\n+            {new}\n"


def test_an_update_by_hand_is_left_out_only_where_it_is_one_statement(tmp_path):
    one = HAND.format("    for p in model.parameters():\n        p.data.add_(p.grad, alpha=-lr)")
    assert f"+    if all({FINITE} for p in model.parameters()):\n+        for p" in edit(tmp_path, one, "skip_step")
    for more in ("\n        p.grad = None", "\n    for p in model.parameters():\n        p.data -= p.grad"):
        assert diff_of(tmp_path, one.rstrip() + more + "\n", "skip_step") is None
    for remedy in ("warmup=5", "zero_grad", "he_init"):
        assert diff_of(tmp_path, one, remedy) is None


def test_gradients_are_cleared_before_backward_or_where_they_accumulate_after_the_step(tmp_path):
    forgotten = PLAIN.replace("    optimizer.zero_grad()\n", "")
    assert edit(tmp_path, forgotten, "zero_grad") == "+    optimizer.zero_grad()\n"
    assert "zero_grad()\n    loss.backward()" in (tmp_path / "train.py").read_text()
    accumulating = forgotten.replace("    optimizer.step()  # here", "    if step % 4 == 3:\n        optimizer.step()")
    assert edit(tmp_path, accumulating, "zero_grad") == "+        optimizer.zero_grad()\n"
    assert "step()\n        optimizer.zero_grad()" in (tmp_path / "train.py").read_text()
    assert diff_of(tmp_path, PLAIN, "zero_grad") is None  # it clears already


def test_of_two_optimizers_only_the_one_that_is_never_cleared_gets_a_line(tmp_path):
    text = (
        "import torch\ng, d = torch.optim.SGD(G.parameters(), 1), torch.optim.Adam(D.parameters())\n"
        "for x in data:\n    g.zero_grad()\n    a.backward()\n    g.step()\n    g.zero_grad()\n"
        "    b.backward()\n    d.step()\n"
    )
    assert edit(tmp_path, text, "zero_grad") == "+    d.zero_grad()\n"
    assert (tmp_path / "train.py").read_text().endswith("    d.step()\n    d.zero_grad()\n")
    assert diff_of(tmp_path, text.replace("    g.zero_grad()\n    b", "    d.zero_grad()\n    b"), "zero_grad") is None


def test_recurrent_layers_are_filled_gate_by_gate(tmp_path):
    text = PLAIN.replace("torch.nn.Linear(4, 1)", "torch.nn.LSTM(4, 8)")
    lines = edit(tmp_path, text, "orthogonal_init")
    assert "weight.data.split(layer.hidden_size)" in lines
    assert "RNNBase" not in edit(tmp_path, text, "he_init")


def test_autocast_is_turned_off_where_it_is_all_there_is(tmp_path):
    text = PLAIN.replace("    loss = ", '    with torch.autocast("cpu", dtype=torch.float16): loss = ')
    assert '+    with torch.autocast("cpu", dtype=torch.float16, enabled=False): loss' in edit(
        tmp_path, text, "precision"
    )
    assert diff_of(tmp_path, text + "model.half()\n", "precision") is None


@pytest.mark.parametrize(
    ("remedy", "old", "new"),
    [
        ("clip_norm=1.0", "    optimizer.step()", "    get().step()"),
        ("clip_norm=1.0", "    optimizer.step()", "    [o.step() for o in (optimizer,)]"),
        ("clip_norm=1.0", "import torch\n", "import torch\nfrom accelerate import Accelerator\n"),
        ("clip_norm=5.0", "    optimizer.step()", f"    {CLIP}(model.parameters(), 1.0)\n    optimizer.step()"),
        ("skip_step", "import torch\n", "import torch\ne = torch.nn.Embedding(9, 9, sparse=True)\n"),
        ("lower_lr=0.1", "lr=0.45", "**settings"),
        ("lower_lr=0.1", "torch.optim.SGD", "make_sgd"),
        ("lower_lr=0.1", "print", 'optimizer.load_state_dict(torch.load("a"))\nprint'),
        ("lower_lr=0.1", "print", 'optimizer.param_groups[0]["lr"] = 1.0\nprint'),
        ("lower_lr=0.1", "print", "s = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 100)\nprint"),
        ("warmup=20", "print", "s = torch.optim.lr_scheduler.StepLR(optimizer, 10)\nprint"),
        ("warmup=20", "optimizer = torch", "if 1: optimizer = torch"),
        ("optimizer_defaults", "lr=0.45", "lr=0.45, momentum=0.9"),
        ("he_init", "model.parameters()", "[w]"),
        ("he_init", "model = ", "model.load_state_dict(s); model = "),
        ("he_init", "print", "model.apply(fill)\nprint"),
        ("skip_spike=10+clip_norm=1.0", "", ""),
        ("precision", "", ""),
    ],
)
def test_where_no_honest_edit_is_known_there_is_none(tmp_path, remedy, old, new):
    assert diff_of(tmp_path, PLAIN.replace(old, new), remedy) is None


def test_a_target_network_that_copies_the_learning_one_is_no_checkpoint(tmp_path):
    """What a neighbour in the same run holds brings no old learning rate back; an optimizer's own state may."""
    text = PLAIN.replace("print", "target.load_state_dict(model.state_dict())\nprint")
    assert "+optimizer = torch.optim.SGD(model.parameters(), lr=0.045)  # copied\n" in edit(
        tmp_path, text, "lower_lr=0.1"
    )
    text = PLAIN.replace("print", "optimizer.load_state_dict(other.state_dict())\nprint")
    assert diff_of(tmp_path, text, "lower_lr=0.1") is None


def test_a_file_that_is_no_utf8_no_python_or_not_there_has_no_diff(tmp_path):
    path, remedies, seen = tmp_path / "train.py", parse("clip_norm=1.0"), sites(PLAIN)
    assert patch(path, remedies, seen, shown_as="train.py") is None
    for data in (b"# -*- coding: latin-1 -*-\n# \xe9\n" + PLAIN.encode(), b"# \xe9\n", b"def (:\n", b"\0"):
        path.write_bytes(data)
        assert patch(path, remedies, seen, shown_as="train.py") is None


def test_a_line_in_another_file_has_no_diff(tmp_path):
    assert diff_of(tmp_path, PLAIN, "clip_norm=1.0", Sites()) is None
    assert diff_of(tmp_path, PLAIN, "lower_lr=0.1", Sites(steps=(9,))) is None
    assert diff_of(tmp_path, PLAIN, "clip_norm=1.0", Sites(steps=(6,), made=(4,))) is None


TEXTS = st.text(st.sampled_from("ab\n\r\t -+\\@"), max_size=40)


@given(TEXTS, TEXTS)
def test_a_diff_applied_gives_the_text_it_was_made_for(old, new):
    """Whatever ends lines, and whether the last one ends; and it fits no other text."""
    diff = difference(old, new, "train.py")
    assert (applied(old, diff) if diff else old) == new
    if diff and old:
        with pytest.raises(ValueError, match="does not fit"):
            applied(old.replace("\n", "!\n") + "!", diff)


# ------------------------------------------------------------------------------------------------------------ behaviour

ALIKE = {
    "plain": (
        "clip_norm=0.5+warmup=20",
        """\
model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for step in range(60):
    loss = (model(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
""",
    ),
    "class": (
        "zero_nan+lower_lr=0.1",
        """\
class Trainer:
    def __init__(self, model):
        self.model = model
        self.opt = torch.optim.Adam(model.parameters(), 0.1)

    def fit(self):
        for step in range(40):
            loss = (self.model(x) - y).square().mean() / (1.0 if step % 9 else 0.0)
            self.opt.zero_grad(); loss.backward(); self.opt.step()

model = torch.nn.Linear(8, 1)
Trainer(model).fit()
""",
    ),
    "scaler": (
        "clip_norm=0.1",
        """\
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
for step in range(40):
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = (model(x) - y).square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
""",
    ),
    "gan": (
        "clip_value=0.01+skip_step",
        """\
G, model = torch.nn.Linear(8, 8), torch.nn.Linear(8, 1)
g, d = torch.optim.Adam(G.parameters(), 1e-2), torch.optim.SGD(model.parameters(), 1e-2)
for step in range(40):
    fake = G(torch.randn(16, 8))
    a = model(fake.detach()).square().mean() / (step != 7) if step != 7 else model(fake.detach()).sum() * math.nan
    d.zero_grad(); a.backward(); d.step()
    b = -model(fake).mean()
    g.zero_grad(); b.backward(); g.step()
print(repr(sum(p.double().sum().item() for p in G.parameters())))
""",
    ),
    "by_hand": (
        "clip_norm=0.1+skip_step",
        """\
model = torch.nn.Linear(8, 1)
for step in range(40):
    model.zero_grad()
    loss = (model(x) - y).square().mean() * (math.nan if step == 5 else 1.0)
    loss.backward()
    for p in model.parameters():
        p.data.add_(p.grad, alpha=-0.1)
""",
    ),
    "lbfgs": (
        "clip_value=0.5",
        """\
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
def closure():
    optimizer.zero_grad()
    loss = (model(x) - y).square().mean()
    loss.backward()
    return loss
for step in range(6):
    optimizer.step(closure)
""",
    ),
    "accumulates": (
        "zero_grad",
        """\
model = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.5)
for step in range(40):
    loss = (model(x[step::40]) - y[step::40]).square().mean()
    loss.backward()
    if step % 2:
        optimizer.step()
""",
    ),
    "constants": (
        "optimizer_defaults+skip_step",
        """\
def train(net, opt):
    for step in range(40):
        loss = (net(x) - y).square().mean() * (math.inf if step == 11 else 1.0)
        opt.zero_grad()
        loss.backward()
        opt.step()

model = torch.nn.Linear(8, 1)
train(model, torch.optim.Adam(model.parameters(), lr=0.05, betas=(0.999, 0.9), eps=1e-2))
""",
    ),
}
HEAD = "import math\nimport torch\n\ntorch.manual_seed(0)\nx = torch.randn(80, 8)\ny = x @ torch.randn(8, 1)\n"
TAIL = "print(repr(sum(p.double().sum().item() for p in model.parameters())))\n"


QUICK = {"plain"}  # the others take a minute


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(ALIKE)]
)
def test_the_patched_script_does_what_the_remedy_did_from_outside(tmp_path, name):
    """The sum of the final weights of the watched run under the remedy, and of the patched script run bare."""
    remedy, body = ALIKE[name]
    (tmp_path / "train.py").write_text(HEAD + body + TAIL)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}

    def run(*command):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return [float(line) for line in done.stdout.split()]

    bare = run("train.py")
    under = run("-m", "gradbelt", "run", "--watch-only", "--out", "run", "--with", remedy, "train.py")
    diff = patches(load_run(tmp_path / "run"))(())
    assert diff is not None
    apply(tmp_path, diff)
    assert run("train.py") == pytest.approx(under, rel=1e-4)
    assert bare != pytest.approx(under, rel=1e-3), "the remedy changes nothing here, so this shows nothing"
