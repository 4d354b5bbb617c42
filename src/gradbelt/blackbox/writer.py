"""Write a run down while it happens, without ever getting in its way."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import json
import math
import os
import sqlite3
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from gradbelt import __version__
from gradbelt._told import tell
from gradbelt._types import Activation, Event, Floats, StepRecord
from gradbelt.blackbox.schema import DDL, FILENAME, ROWS, SCHEMA

COMMIT_EVERY = 0.02  # seconds; a loop faster than this shares a commit among its steps
COMMIT_SELDOM = 1.0  # seconds; where the file system has no WAL and each commit waits for the disk
PATIENCE = 1.0  # seconds to wait, once, for another process that holds the file locked


class Writer:
    """Every step handed in is on file 20 ms of training later, and training never notices.

    No method raises or hangs: at the first trouble (a full disk, a folder that can't be written, a locked file) `warn`
    is called with one sentence, the writer is `off`, and further calls do nothing. What was written until then stays
    readable. Only a KeyboardInterrupt passes through. A process forked from this one inherits a writer that is off.

    A kill -9 costs the steps of the last 20 ms (of the last second, where the file system has no WAL), and never the
    file. Steps may come from any thread.

    `meta` and event data may hold anything; what JSON can't say is kept as text. `started` (seconds since the epoch),
    `gradbelt` and `schema` are filled in. A folder that already holds a run is left alone; this run goes unrecorded.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     writer = Writer(folder, {"script": "train.py"}, warn=print)
    ...     writer.note(finished=True, exit_code=0)
    ...     writer.off, writer.close(), writer.off
    (False, None, True)
    >>> Writer("/dev/null/runs", {}, warn=print).off
    no black box in /dev/null/runs: [Errno 20] Not a directory: '/dev/null/runs'. Training goes on unrecorded; ...
    True
    """

    def __init__(
        self, folder: str | os.PathLike[str], meta: Mapping[str, object], *, warn: Callable[[str], None]
    ) -> None:
        self.folder = Path(folder)
        self._warn = warn
        # Reentrant, because a signal handler may report its event while the same thread is in the middle of a step.
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._commit_every = COMMIT_EVERY
        self._committed = 0.0
        self._newest = -1  # largest call written
        self._names: tuple[str, ...] | None = None  # parameters of the last row, and their layout
        self._layout = 0
        self._layouts: dict[tuple[str, ...], int] = {}
        self._sites: dict[tuple[tuple[str, str], ...], int] = {}
        self._streams: dict[str, int] = {}
        self._tailed = False
        _open_writers.add(self)
        try:
            self._open({"schema": SCHEMA, "gradbelt": __version__, "started": time.time(), **meta})
        except Exception as error:
            self._drop()
            self._say(
                "no black box in {folder}: {why}. Training goes on unrecorded; to record it, choose a folder that is "
                "new and can be written.",
                error,
            )

    @property
    def off(self) -> bool:
        """True once nothing more is written: closed, given up, or in a forked child."""
        return self._connection is None

    def step(self, row: StepRecord) -> None:
        """`row` is written; a row that has the same call replaces the earlier one."""
        self._attempt(False, self._insert_step, row)

    def event(self, event: Event) -> None:
        """`event` is on file, and with it all that came before."""
        self._attempt(True, self._insert_event, event)

    def tail(self, losses: Mapping[str, float]) -> None:
        """`losses` is what was seen after the last step; the next step, or the next tail, takes its place."""
        self._attempt(False, self._replace_tail, losses)

    def note(self, **meta: object) -> None:
        """These keys of the run's meta are on file, replacing earlier values."""
        self._attempt(True, self._replace_meta, meta)

    def restart(self) -> None:
        """All steps and losses so far are forgotten; meta and events stay."""
        self._attempt(True, self._delete_steps)

    def close(self) -> None:
        """Everything is on file, in one file, and the writer is off. Closing twice is fine."""
        self._attempt(True, lambda _: None)
        if not self.off:
            with self._lock:
                self._drop()

    def __del__(self) -> None:
        # hasattr: __init__ may have been interrupted before there was anything to close.
        if hasattr(self, "_connection"):
            self.close()

    # ------------------------------------------------------------------------------------- opening, giving up, forking

    def _open(self, meta: Mapping[str, object]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / FILENAME
        # Claim the name first: of two writers only one gets it, and no earlier run is ever written over.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        # IMMEDIATE: sqlite3 begins a write transaction by itself before the first INSERT after a commit.
        connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level="IMMEDIATE", check_same_thread=False)
        self._connection = connection
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        self._commit_every = COMMIT_EVERY if mode == "wal" else COMMIT_SELDOM
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(DDL)
        self._replace_meta(connection, meta)
        connection.commit()
        self._committed = time.monotonic()

    def _attempt(self, commit: bool, write: Callable[..., None], *args: object) -> None:
        # Before the lock: in a forked child it may be held for ever by a thread that only the parent has.
        if self.off:
            return
        with self._lock:
            connection = self._connection
            if connection is None:
                return
            try:
                write(connection, *args)
                if commit or time.monotonic() - self._committed >= self._commit_every:
                    connection.commit()
                    self._committed = time.monotonic()
                return
            except Exception as error:
                if self._connection is not connection:  # a signal handler's own call gave up, and said so
                    return
                why = error
                self._drop()
        self._say(
            "the black box in {folder} stopped at call {call}: {why}. Training goes on unrecorded; the calls before "
            "stay readable.",
            why,
        )

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.commit()
            with contextlib.suppress(sqlite3.Error):
                # One plain file, which can be read from a read-only disk too. Fails, harmlessly, while someone reads.
                connection.execute("PRAGMA busy_timeout = 0")
                connection.execute("PRAGMA journal_mode = DELETE")
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def _say(self, sentence: str, why: Exception) -> None:
        # Where warnings are errors, `warn` raises; that must not end the training either.
        with contextlib.suppress(Exception):
            self._warn(tell(sentence, folder=str(self.folder), call=max(self._newest, 0), why=str(why)))

    def _abandon(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Closing it here, even as the child exits, could check in or delete the WAL that the parent writes to. One
            # reference too many keeps Python from ever doing so.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))

    # ------------------------------------------------------------------------------------------------ one table each

    def _insert_step(self, connection: sqlite3.Connection, row: StepRecord) -> None:
        call = int(row.call)
        if call <= self._newest:
            connection.execute("DELETE FROM losses WHERE call = ?", (call,))
            connection.execute("DELETE FROM forwards WHERE call = ?", (call,))
        self._newest = max(self._newest, call)
        if self._tailed:
            connection.execute("DELETE FROM tail")
            self._tailed = False
        if row.names is not self._names:
            self._layout = self._layout_of(connection, row.names)
            self._names = row.names
        stats, stat_rows = _float32(row.norm), 1
        if row.weight is not None:
            stats, stat_rows = stats + _float32(row.weight), 2
        if row.peak is not None and row.zeros is not None:
            stats, stat_rows = stats + _float32(row.peak) + _float32(row.zeros), stat_rows + 2
        unclipped: float | str | None = None
        if row.unclipped is not None:
            unclipped = "nan" if math.isnan(row.unclipped) else float(row.unclipped)
        # Losses first, so that an interrupt in between leaves losses without a step, which readers pass over.
        for name, value in row.losses.items():
            connection.execute(
                "INSERT OR REPLACE INTO losses VALUES (?,?,?)", (call, self._stream_of(connection, name), float(value))
            )
        if row.activations:
            self._insert_activations(connection, call, row.activations)
        connection.execute(
            "INSERT OR REPLACE INTO steps VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                call, int(row.step), int(row.optimizer), float(row.time), float(row.lr), float(row.total),
                float(row.total_after), _text(row.action), unclipped, _json(row.bad) if row.bad else None,
                self._layout, stat_rows, stats, None if row.scale is None else float(row.scale),
                None if row.moved is None else _float32(row.moved),
                None if row.piled is None else _float32(row.piled),
                None if row.exponents is None else zlib.compress(row.exponents.tobytes(), 1),
                None if row.faint is None else _float32(row.faint),
            ),
        )  # fmt: skip

    def _insert_activations(self, connection: sqlite3.Connection, call: int, shown: tuple[Activation, ...]) -> None:
        sites = tuple((each.name, each.kind) for each in shown)
        if sites not in self._sites:
            number = len(self._sites)
            connection.execute("INSERT OR REPLACE INTO sites VALUES (?,?)", (number, _json(sites)))
            self._sites[sites] = number
        stats = np.array([[getattr(each, row) for each in shown] for row in ROWS])
        connection.execute(
            "INSERT OR REPLACE INTO forwards VALUES (?,?,?)", (call, self._sites[sites], _float32(stats))
        )

    def _insert_event(self, connection: sqlite3.Connection, event: Event) -> None:
        connection.execute(
            "INSERT INTO events (call, step, kind, message, data) VALUES (?,?,?,?,?)",
            (int(event.call), int(event.step), _text(event.kind), _text(event.message), _json(event.data)),
        )

    def _replace_tail(self, connection: sqlite3.Connection, losses: Mapping[str, float]) -> None:
        self._tailed = True
        connection.execute("DELETE FROM tail")
        for name, value in losses.items():
            connection.execute("INSERT INTO tail VALUES (?,?)", (self._stream_of(connection, name), float(value)))

    def _replace_meta(self, connection: sqlite3.Connection, meta: Mapping[str, object]) -> None:
        for key, value in meta.items():
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (_text(key), _json(value)))

    def _delete_steps(self, connection: sqlite3.Connection) -> None:
        for table in ("steps", "losses", "forwards", "tail"):
            connection.execute(f"DELETE FROM {table}")  # noqa: S608  the four names above
        self._newest = -1
        self._tailed = False

    # OR REPLACE: an interrupt between row and dict hands the same number out again.
    def _layout_of(self, connection: sqlite3.Connection, names: tuple[str, ...]) -> int:
        if names not in self._layouts:
            number = len(self._layouts)
            connection.execute("INSERT OR REPLACE INTO layouts VALUES (?,?)", (number, _json(names)))
            self._layouts[names] = number
        return self._layouts[names]

    def _stream_of(self, connection: sqlite3.Connection, name: str) -> int:
        if name not in self._streams:
            number = len(self._streams)
            connection.execute("INSERT OR REPLACE INTO streams VALUES (?,?)", (number, _text(name)))
            self._streams[name] = number
        return self._streams[name]


def _float32(norms: Floats) -> bytes:
    if norms.dtype == np.dtype("<f4"):
        return norms.tobytes()
    with np.errstate(over="ignore"):  # past 3.4e38 a norm is written as inf
        return norms.astype("<f4").tobytes()


def _text(text: str) -> str:
    """`text` as SQLite takes it: half a surrogate pair, as in an undecodable file name, would be refused."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _json(value: object) -> str:
    try:
        return json.dumps(value, default=_plain)
    except (TypeError, ValueError, RecursionError):  # keys that are not names; a value that holds itself
        return json.dumps(repr(value))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


_open_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


def _abandon_all() -> None:
    for writer in list(_open_writers):
        writer._abandon()


def _close_all() -> None:
    for writer in list(_open_writers):
        writer.close()


os.register_at_fork(after_in_child=_abandon_all)
atexit.register(_close_all)
