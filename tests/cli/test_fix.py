"""`gradbelt run --fix`: the proven edit in a copy beside the script, which is run; nothing of the user's is touched."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.seams.conftest import ENVIRONMENT, SCRIPTS

from gradbelt._types import Prescription
from gradbelt.cli.fix import check_place, fix, fixed_name
from gradbelt.errors import UsageError
from gradbelt.supervise.plan import Plan

DIVERGES = (SCRIPTS / "diverges.py").read_text()
PATCH = """\
--- a/train.py
+++ b/train.py
@@ -5,3 +5,3 @@
 for step in range(4):
-    optimizer.param_groups[0]["lr"] = 9
+    optimizer.param_groups[0]["lr"] = 0.1
     loss = model(torch.ones(2, 3)).square().mean()
"""
SCRIPT = """\
import torch
torch.manual_seed(0)
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1)
for step in range(4):
    optimizer.param_groups[0]["lr"] = 9
    loss = model(torch.ones(2, 3)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A script that diverges, imports a neighbour and reads a file beside itself; run with --fix from the folder
    above."""
    top = tmp_path_factory.mktemp("project")
    (top / "here").mkdir()
    (top / "here" / "neighbour.py").write_text("STEPS = 80\n")
    (top / "here" / "seed.txt").write_text("0")
    text = DIVERGES.replace("import torch\n", "import pathlib\nimport torch\nfrom neighbour import STEPS\n")
    text = text.replace("range(80)", "range(STEPS)").replace(
        "manual_seed(0)", "manual_seed(int((pathlib.Path(__file__).parent / 'seed.txt').read_text()))"
    )
    (top / "here" / "train.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "gradbelt", "run", "--fix", "--budget", "30s", "--out", "run", "here/train.py"],
        capture_output=True, text=True, cwd=top, env=ENVIRONMENT,
    )  # fmt: skip
    return top, text, done


@pytest.mark.slow
def test_a_copy_that_learns_ends_with_0_and_says_so(project):
    top, _, done = project
    assert done.returncode == 0, done.stderr
    told = json.loads((top / "run" / "verdict.json").read_text())["fix"]
    assert told["file"] == "here/train_fixed.py"
    assert told["trial"]["outcome"] == "learning"
    assert told["trial"]["steps"] == 80
    assert "here/train_fixed.py holds the edit for" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_the_script_stays_and_the_copy_is_what_patch_makes_of_it(project):
    top, text, _ = project
    assert (top / "here" / "train.py").read_text() == text
    fixed = (top / "here" / "train_fixed.py").read_text()
    subprocess.run(["patch", "-p1", "-i", "run/fix.patch"], cwd=top, check=True, capture_output=True)
    *lines, mark = fixed.splitlines()
    assert lines == (top / "here" / "train.py").read_text().splitlines() != text.splitlines()
    assert mark.startswith("# a copy of train.py by gradbelt run --fix")
    (top / "here" / "train.py").write_text(text)


@pytest.mark.slow
def test_a_copy_that_was_changed_is_not_written_over(project):
    """Said before anything is run; --force writes over it, and an untouched copy is in nobody's way."""
    top, _, _ = project
    path = top / "here" / "train_fixed.py"
    script = str(top / "here" / "train.py")
    check_place(script, module=False, force=False)
    before = path.read_text()
    path.write_text(before.replace("import torch", "import torch  # mine"))
    with pytest.raises(UsageError, match="is there already"):
        check_place(script, module=False, force=False)
    check_place(script, module=False, force=True)
    path.write_text(before)


@pytest.mark.parametrize(
    ("script", "module", "name"),
    [
        ("train.py", False, "train_fixed.py"),
        ("a/b/train.py", False, "a/b/train_fixed.py"),
        ("pkg.train", True, "pkg.train_fixed"),
        ("app", False, "app/__main___fixed.py"),
        ("app", True, "app.__main___fixed"),
    ],
)
def test_the_copy_lies_where_imports_and_data_are_found(script, module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app").mkdir()
    assert fixed_name(script, module=module) == name


def prescribed(patch, *, verified=True):
    return (Prescription(rank=1, remedies=("lower_lr=0.1",), verified=verified, why="w", patch=patch),)


@pytest.mark.parametrize(
    ("prescriptions", "said"),
    [
        ((), "no trial has proven a cure"),
        (prescribed(PATCH, verified=False), "no trial has proven a cure"),
        (prescribed(None), "by hand"),
        (prescribed(PATCH.replace("train.py", "other.py")), "another file"),
        (prescribed(PATCH.replace("range(4)", "range(5)")), "does not fit"),
    ],
)
def test_without_a_proven_edit_nothing_is_written(prescriptions, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "run").mkdir()
    made = fix(prescriptions, Plan(script="train.py", folder="run", seed=0), metric=None, force=False)
    assert made.file is None
    assert not made.proven
    assert said in made.note
    assert not (tmp_path / "train_fixed.py").exists()


def test_a_module_s_copy_is_run_as_a_module(tmp_path, monkeypatch):
    """Its relative imports hold, Windows newlines stay, and the learning is judged."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").touch()
    (tmp_path / "pkg" / "data.py").touch()
    text = SCRIPT.replace("import torch\n", "from . import data; import torch\n").replace("\n", "\r\n")
    (tmp_path / "pkg" / "train.py").write_bytes(text.encode())
    (tmp_path / "run").mkdir()
    patch = PATCH.replace("train.py", "pkg/train.py").replace("\n", "\r\n")
    patch = patch.replace(".py\r\n", ".py\n").replace("@@\r\n", "@@\n")
    made = fix(prescribed(patch), Plan(script="pkg.train", module=True, folder="run", seed=0), metric=None, force=False)
    assert made.file == "pkg.train_fixed"
    assert made.outcome is not None
    assert made.outcome.steps == 4
    assert made.proven, made
    data = (tmp_path / "pkg" / "train_fixed.py").read_bytes()
    assert data.count(b"\r\n") == data.count(b"\n")


@pytest.mark.parametrize("words", [("--fix", "--no-trials"), ("--fix", "--watch-only"), ("--force",)])
def test_words_that_do_not_go_together_are_refused(words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gradbelt", "run", *words, str(SCRIPTS / "healthy.py")],
        capture_output=True, text=True, cwd=tmp_path, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--fix" in done.stderr
    assert list(tmp_path.iterdir()) == []
