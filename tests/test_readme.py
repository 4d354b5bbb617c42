"""What the README shows, works: its Python runs, its commands and their options exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from gradbelt.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
CHEAP = {"remedies", "causes", "symptoms", "rules", "runs"}


def shell_lines():
    """Indented lines, and what stands in backticks, that call gradbelt: without the remark behind them."""
    lines = [line.strip().removeprefix("$ ") for line in README.splitlines() if line.startswith("    ")]
    lines += re.findall(r"`([^`\n]+)`", README)
    lines = [re.split(r"\s{2,}", line)[0] for line in lines]
    return [line for line in dict.fromkeys(lines) if re.match(r"(torchrun .* -m )?gradbelt \w", line)]


def calls(line):
    """The words after `gradbelt`; `a | b` names several commands."""
    words = shlex.split(line[line.index("gradbelt ") :])[1:]
    if "|" not in words:
        return [words]
    return [[word] for word in words if word != "|"]


def test_every_python_block_runs_one_after_the_other(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    held = {"__name__": "__main__"}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), held)
    assert len(BLOCKS) >= 4


@pytest.mark.parametrize("line", shell_lines())
def test_every_command_has_the_options_it_is_shown_with(line):
    for words in calls(line):
        assert words[0] in COMMANDS
        command = cli.get_command(click.Context(cli), words[0])
        known = {name: option for option in command.params for name in option.opts if name.startswith("-")}
        rest = iter(words[1:])
        for word in rest:
            name = word.partition("=")[0]
            if not name.startswith("-"):
                break  # the script, and what is its own
            assert name in known, f"{line}: no option {name}; there are {sorted(known)}"
            if not known[name].is_flag and "=" not in word:
                next(rest)


def test_the_readme_shows_every_command():
    shown = {words[0] for line in shell_lines() for words in calls(line)}
    assert set(COMMANDS) - {"demo"} <= shown


@pytest.mark.parametrize("line", [line for line in shell_lines() if {words[0] for words in calls(line)} <= CHEAP])
def test_the_cheap_ones_run(line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words in calls(line):
        assert not cli.main(words, standalone_mode=False)


def test_every_target_of_make_is_there():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"(?:^    |`)make (\w+)", README, re.MULTILINE))
    assert {"demo", "test", "bench"} <= shown <= targets


def test_the_diff_is_taken_out_of_the_verdict_as_shown(tmp_path):
    """The line of Python that hands it to `patch`."""
    line = next(line.strip() for line in README.splitlines() if line.strip().startswith("python -c"))
    (tmp_path / "train.py").write_text("lr = 2\n")
    (tmp_path / "verdict.json").write_text(
        '{"prescriptions": [{"patch": "--- a/train.py\\n+++ b/train.py\\n@@ -1 +1 @@\\n-lr = 2\\n+lr = 1\\n"}]}'
    )
    command = line.replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "train.py").read_text() == "lr = 1\n"
