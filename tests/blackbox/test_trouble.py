"""What goes wrong with a disk is said once and never reaches the training."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import gradbelt.blackbox.writer
from gradbelt._types import Event
from gradbelt.blackbox import Writer, load_run


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", folder], capture_output=True)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if mounted.returncode:
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def check_stopped_early(trained: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert trained.returncode == 0 and trained.stdout.endswith("trained to the end\n")
    warned = trained.stderr.splitlines()
    assert len(warned) == 1 and warned[0].startswith("warned: the black box in")
    steps = load_run(folder).steps
    assert 5 < len(steps) < 3000
    assert [step.call for step in steps] == list(range(len(steps)))
    assert all((step.norm == step.call).all() for step in steps)


@pytest.mark.parametrize("limit", [150_000, 400_000])
def test_a_file_that_may_not_grow_costs_one_warning(tmp_path: Path, loop: list[str], limit: int) -> None:
    """Past a quota the writer says so once and is off; training ends well, and the steps before are readable."""
    trained = subprocess.run(
        [*loop, str(tmp_path / "run"), "--steps", "3000", "--limit", str(limit), "--pause", "0.0002"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    check_stopped_early(trained, tmp_path / "run")


def test_a_full_disk_costs_one_warning(tiny_disk: Path, loop: list[str]) -> None:
    """The same on a disk that is really full, which also has no room for what a reader would like to write."""
    command = [*loop, str(tiny_disk / "run"), "--steps", "3000", "--pause", "0.0002"]
    trained = subprocess.run(command, capture_output=True, text=True, timeout=60)
    with (tiny_disk / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(b"x" * 4096)
        except OSError:
            pass
    check_stopped_early(trained, tiny_disk / "run")


def test_a_locked_file_costs_one_warning(tmp_path: Path, row, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that keeps the file locked is waited for once, briefly; then the writer is off."""
    monkeypatch.setattr(gradbelt.blackbox.writer, "PATIENCE", 0.1)
    said: list[str] = []
    writer = Writer(tmp_path, {}, warn=said.append)
    writer.step(row(0))
    writer.event(Event(call=0, step=0, kind="commit", message=""))
    holder = sqlite3.connect(tmp_path / "blackbox.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    for call in range(1, 50):
        writer.step(row(call))
    writer.close()
    assert time.monotonic() - began < 2
    holder.close()
    assert len(said) == 1 and "locked" in said[0] and "call 1:" in said[0]
    assert len(load_run(tmp_path).steps) == 1


@pytest.mark.parametrize("folder", ["/dev/null/runs/a", "/proc/gradbelt/a", "/proc"])
def test_a_folder_that_can_not_be_written_costs_one_warning(folder: str, row) -> None:
    """Where there is nowhere to write, training goes on unrecorded, and every method still answers."""
    said: list[str] = []
    writer = Writer(folder, {"script": "train.py"}, warn=said.append)
    assert writer.off
    writer.step(row(0))
    writer.event(Event(call=0, step=0, kind="error", message="x"))
    writer.tail({"train.py:61": 1.0})
    writer.note(finished=True)
    writer.restart()
    writer.close()
    assert len(said) == 1 and folder in said[0]


def test_a_read_only_folder_costs_one_warning(shared_folder: Path, python) -> None:
    """The same for an ordinary user in a folder that is not theirs to write."""
    shared_folder.chmod(0o555)
    tried = python(
        "import os\n"
        "from gradbelt.blackbox import Writer\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "writer = Writer(args[0], {}, warn=print)\n"
        "writer.step(row(0))\n"
        "assert writer.off",
        shared_folder,
    )
    assert tried.returncode == 0, tried.stderr
    assert tried.stdout.count("no black box in") == 1 and "Permission denied" in tried.stdout


def test_a_second_run_never_writes_over_the_first(tmp_path: Path, row) -> None:
    """A folder that holds a run is left as it is, and the newcomer is told."""
    with_one = Writer(tmp_path, {"script": "first.py"}, warn=pytest.fail)
    with_one.step(row(0))
    said: list[str] = []
    assert Writer(tmp_path, {"script": "second.py"}, warn=said.append).off
    with_one.step(row(1))
    with_one.close()
    assert len(said) == 1 and "File exists" in said[0]
    run = load_run(tmp_path)
    assert run.meta["script"] == "first.py" and len(run.steps) == 2


def test_a_warning_that_raises_stays_inside(row) -> None:
    """Where the user turns warnings into errors, a broken black box still doesn't end the training."""

    def warn(text: str) -> None:
        raise RuntimeWarning(text)

    Writer("/dev/null/runs", {}, warn=warn).step(row(0))


def test_a_row_that_can_not_be_written_costs_one_warning(tmp_path: Path, row) -> None:
    """Whatever is handed in, nothing is raised; the steps before are kept."""
    said: list[str] = []
    writer = Writer(tmp_path, {}, warn=said.append)
    writer.step(row(0))
    writer.tail({"train.py:61": "seven"})  # type: ignore[dict-item]
    writer.step(row(1))
    writer.close()
    assert len(said) == 1
    assert [step.call for step in load_run(tmp_path).steps] == [0]


def test_a_file_system_without_wal_is_good_enough(tmp_path: Path, row, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SQLite has no shared memory, as on some network drives, the run is recorded all the same."""
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **kw: connect(f"file:{path}?vfs=unix-none", uri=True, **kw))
    writer = Writer(tmp_path, {}, warn=pytest.fail)
    for call in range(20):
        writer.step(row(call))
    assert not os.path.exists(tmp_path / "blackbox.sqlite-wal")
    writer.close()
    monkeypatch.undo()
    assert len(load_run(tmp_path).steps) == 20
