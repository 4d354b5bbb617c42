from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gradbelt._types import StepRecord
from gradbelt.blackbox import Writer, list_runs, load_run, reader
from gradbelt.errors import UnreadableRecord


@pytest.fixture
def run(tmp_path: Path, row) -> Path:
    """A finished run of 200 steps."""
    folder = tmp_path / "run"
    writer = Writer(folder, {"script": "train.py"}, warn=pytest.fail)
    for call in range(200):
        writer.step(row(call))
    writer.close()
    return folder


def test_a_run_is_named_by_its_folder_or_its_file(run: Path, tmp_path: Path) -> None:
    """Folder, file, text, relative or linked: all lead to the same record."""
    (tmp_path / "link").symlink_to(run)
    for path in (run, str(run), run / "blackbox.sqlite", tmp_path / "link"):
        assert len(load_run(path).steps) == 200
    assert load_run(run / "blackbox.sqlite").folder == run


def test_reading_a_finished_run_leaves_nothing_behind(run: Path) -> None:
    """A run folder looks the same after it was read."""
    load_run(run)
    list_runs(run.parent)
    assert [path.name for path in run.iterdir()] == ["blackbox.sqlite"]


def test_odd_folder_names_are_fine(tmp_path: Path) -> None:
    """Spaces, percent signs, question marks and other scripts in a path don't matter."""
    folder = tmp_path / "50% done?mode=x #1 学習"
    Writer(folder, {"script": "train.py"}, warn=pytest.fail).close()
    assert load_run(folder).meta["script"] == "train.py"


def missing(run: Path) -> str:
    shutil.rmtree(run)
    return "does not exist"


def empty_folder(run: Path) -> str:
    (run / "blackbox.sqlite").unlink()
    return "holds no blackbox.sqlite"


def garbage(run: Path) -> str:
    (run / "blackbox.sqlite").write_bytes(bytes(range(1, 256)) * 100)
    return "is not a gradbelt black box"


def foreign(run: Path) -> str:
    (run / "blackbox.sqlite").unlink()
    connection = sqlite3.connect(run / "blackbox.sqlite")
    connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    return "is not a gradbelt black box"


def newer(run: Path) -> str:
    connection = sqlite3.connect(run / "blackbox.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    return "written by a newer gradbelt: schema 99"


def truncated(run: Path) -> str:
    with (run / "blackbox.sqlite").open("r+b") as file:
        file.truncate(40_000)
    return "is damaged"


def overwritten(run: Path) -> str:
    with (run / "blackbox.sqlite").open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 30_000)
    return "is damaged"


def table_lost(run: Path) -> str:
    with sqlite3.connect(run / "blackbox.sqlite") as connection:
        connection.execute("DROP TABLE losses")
    return "is damaged"


def row_bent(run: Path) -> str:
    with sqlite3.connect(run / "blackbox.sqlite") as connection:
        connection.execute("UPDATE steps SET stats = x'00' WHERE call = 7")
    return "is damaged"


TROUBLES = [missing, empty_folder, garbage, foreign, newer, truncated, overwritten, table_lost, row_bent]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_can_not_be_read_says_why_in_one_line(run: Path, trouble: Callable[[Path], str]) -> None:
    """A record that is missing, damaged, foreign or too new raises UnreadableRecord: what was seen, what to do next."""
    why = trouble(run)
    with pytest.raises(UnreadableRecord, match=why) as caught:
        load_run(run)
    assert "\n" not in str(caught.value) and str(run) in str(caught.value)
    assert any(next_step in str(caught.value) for next_step in ("gradbelt runs", "pip install -U", ".recover"))


def test_a_run_that_died_at_birth_is_an_empty_run(tmp_path: Path) -> None:
    """A file in which nothing was written yet is a run without meta and without steps."""
    (tmp_path / "blackbox.sqlite").touch()
    assert load_run(tmp_path).steps == () and load_run(tmp_path).meta == {}


READING = """
import os
from gradbelt.blackbox import load_run
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
assert not os.access(args[0], os.W_OK)
print(len(load_run(args[0]).steps))
"""


@pytest.mark.parametrize("left", ["finished", "finished while read", "killed", "killed, log only", "still written"])
def test_a_run_reads_where_nothing_may_be_written(shared_folder: Path, row, python, left: str) -> None:
    """On a read-only folder, archive or colleague's run, a record reads as well as at home."""
    live, folder = shared_folder / "live", shared_folder / "copy"
    writer = Writer(live, {}, warn=pytest.fail)
    for call in range(100):
        writer.step(row(call))
    writer.note(committed=True)
    if left == "finished":
        writer.close()
    if left == "finished while read":  # the reader keeps the file in WAL mode, though there is no WAL left
        guest = sqlite3.connect(live / "blackbox.sqlite", isolation_level=None)
        guest.execute("BEGIN")
        guest.execute("SELECT * FROM meta").fetchone()
        writer.close()
        guest.close()
    # A copy of all three files, taken between two commits, is what a kill would have left.
    shutil.copytree(live, folder)
    if left == "killed, log only":
        (folder / "blackbox.sqlite-shm").unlink()
    target = live if left == "still written" else folder
    for file in target.iterdir():
        file.chmod(0o444)
    target.chmod(0o555)
    before = sorted(path.name for path in target.iterdir())
    read = python(READING, target)
    assert (read.returncode, read.stdout) == (0, "100\n"), read.stderr
    assert sorted(path.name for path in target.iterdir()) == before
    writer.close()


@pytest.mark.parametrize("moment", ["blackbox.sqlite", "blackbox.sqlite-wal"])
def test_a_run_that_moves_while_it_is_copied_is_read_whole(
    tmp_path: Path, row, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Where the record has to be copied to be read, and its writer ends just then, no step is missing or mixed up."""
    writer = Writer(tmp_path, {}, warn=pytest.fail)
    for call in range(100):
        writer.step(row(call))
    writer.note(committed=True)
    begin, copyfile = reader._begin, shutil.copyfile

    def only_copies(file: Path, *args):
        if file.parent == tmp_path and not writer.off:
            raise sqlite3.OperationalError("attempt to write a readonly database")
        return begin(file, *args)

    def copy(source: Path, target: Path) -> None:
        copyfile(source, target)
        if source.name == moment and not writer.off:
            for call in range(100, 200):
                writer.step(row(call))
            writer.close()

    monkeypatch.setattr(reader, "_begin", only_copies)
    monkeypatch.setattr(shutil, "copyfile", copy)
    run = load_run(tmp_path)
    assert writer.off
    assert [step.call for step in run.steps] == list(range(200))
    assert all((step.norm == step.call).all() for step in run.steps)


def test_a_long_run_reads_in_a_moment(tmp_path: Path) -> None:
    """20 000 steps of 100 parameters read back in well under a second on a quiet machine (4 s are allowed here)."""
    names = tuple(f"p{i}" for i in range(100))
    norm = np.ones(100, np.float32)
    writer = Writer(tmp_path, {}, warn=pytest.fail)
    for call in range(20_000):
        writer.step(
            StepRecord(
                call=call, step=call, optimizer=0, time=0.0, lr=0.1, total=10.0, total_after=10.0, action="keep",
                losses={"train.py:61": 1.0}, names=names, norm=norm, weight=None,
            )
        )  # fmt: skip
    writer.close()
    assert (tmp_path / "blackbox.sqlite").stat().st_size < 20_000 * 700
    began = time.monotonic()
    assert len(load_run(tmp_path).steps) == 20_000
    assert time.monotonic() - began < 4


def test_runs_are_listed_newest_first(tmp_path: Path, row) -> None:
    """Every readable run directly in the folder is listed with what became of it; anything else is passed over."""
    for name, started, steps in (("b", 200.0, 3), ("a", 100.0, 0), ("c", 300.0, 1)):
        writer = Writer(tmp_path / name, {"script": f"{name}.py", "started": started}, warn=pytest.fail)
        for call in range(steps):
            writer.step(row(call))
        if name == "b":
            writer.note(finished=400.0)
            (tmp_path / name / "verdict.json").write_text('{"exploded": true}')
        writer.close()
    (tmp_path / "a" / "verdict.json").write_text("{half a fi")
    (tmp_path / "c" / "verdict.json").write_text('{"exploded": false}')
    (tmp_path / "not a run").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "blackbox.sqlite").write_bytes(b"no database at all" * 100)
    runs = list_runs(tmp_path)
    assert [run.script for run in runs] == ["c.py", "b.py", "a.py"]
    assert [run.num_steps for run in runs] == [1, 3, 0]
    assert [run.finished for run in runs] == [False, True, False]
    assert [run.exploded for run in runs] == [False, True, None]
    assert runs[0].folder == tmp_path / "c"


AS_SCHEMA_1_WAS = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE layouts (id INTEGER PRIMARY KEY, names TEXT NOT NULL);
CREATE TABLE streams (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE steps (
    call INTEGER PRIMARY KEY, step INTEGER NOT NULL, optimizer INTEGER NOT NULL,
    time REAL, lr REAL, total REAL, total_after REAL, action TEXT NOT NULL, unclipped, bad TEXT,
    layout INTEGER NOT NULL, stat_rows INTEGER NOT NULL, stats BLOB NOT NULL
);
CREATE TABLE losses (call INTEGER, stream INTEGER, value REAL, PRIMARY KEY (call, stream)) WITHOUT ROWID;
CREATE TABLE tail (stream INTEGER PRIMARY KEY, value REAL);
CREATE TABLE events (
    id INTEGER PRIMARY KEY, call INTEGER NOT NULL, step INTEGER NOT NULL,
    kind TEXT NOT NULL, message TEXT NOT NULL, data TEXT NOT NULL
);
INSERT INTO meta VALUES ('schema', '1'), ('script', '"train.py"');
INSERT INTO layouts VALUES (0, '["w", "b"]');
INSERT INTO streams VALUES (0, 'train.py:61');
INSERT INTO steps VALUES (0, 0, 0, 0.5, 0.1, 5.0, 5.0, 'keep', NULL, NULL, 0, 2, x'0000404000008040000080BF0000803F');
INSERT INTO steps VALUES (1, 1, 0, 0.6, 0.1, 5.0, 1.0, 'scale', NULL, NULL, 0, 1, x'0000404000008040');
INSERT INTO losses VALUES (0, 0, 2.5), (1, 0, NULL);
PRAGMA application_id = 0x67626C74;
"""


@pytest.mark.parametrize("schema", [1, 2])
def test_a_record_of_an_earlier_schema_still_reads(tmp_path: Path, schema: int) -> None:
    """A run recorded before peaks, zeros and activations were kept reads as it always did, without them."""
    connection = sqlite3.connect(tmp_path / "blackbox.sqlite")
    connection.executescript(AS_SCHEMA_1_WAS)
    connection.execute(f"PRAGMA user_version = {schema}")
    connection.close()
    run = load_run(tmp_path)
    first, second = run.steps
    assert run.meta["script"] == "train.py" and first.losses == {"train.py:61": 2.5}
    assert first.norm.tolist() == [3.0, 4.0] and second.norm.tolist() == [3.0, 4.0]
    assert first.weight is not None and first.weight.tolist() == [-1.0, 1.0] and second.weight is None
    assert first.peak is None and first.zeros is None and second.peak is None
    assert first.activations == ()
