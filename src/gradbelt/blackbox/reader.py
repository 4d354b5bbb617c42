"""Read a run back: finished, still going, or killed half-way."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import Literal

import numpy as np

from gradbelt._types import BUCKETS, Activation, Counts, Event, Floats, RunRecord, StepRecord
from gradbelt.blackbox.schema import APPLICATION, FILENAME, ROWS, SCHEMA
from gradbelt.errors import UnreadableRecord

PATIENCE = 5.0  # seconds to wait while another process recovers the file after a crash


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One line of `gradbelt runs`."""

    folder: Path
    script: str
    started: float  # seconds since the epoch
    num_steps: int
    finished: bool
    exploded: bool | None  # None while there is no verdict


def load_run(path: str | Path) -> RunRecord:
    """The run recorded in a run folder, or in a `blackbox.sqlite`: all that has reached the file so far.

    Works while another process writes, after kill -9, and where the folder can only be read. Steps are in the order of
    their calls, events in the order they came. Per-parameter arrays are float32 and read-only.

    Raises UnreadableRecord where there is no run, or one that is damaged, foreign, or from a newer gradbelt.

    >>> load_run("/dev/null")
    Traceback (most recent call last):
    gradbelt.errors.UnreadableRecord: /dev/null is neither a run folder nor a blackbox.sqlite. ...
    """
    try:
        file = _find(Path(path))
    except OSError as error:
        raise UnreadableRecord(f"{path} can't be read: {error.strerror}. Ask its owner for access") from error
    with _reading(file) as connection:
        if connection is None:
            return RunRecord(folder=file.parent, meta={}, steps=())
        meta, (schema,) = _meta(connection), connection.execute("PRAGMA user_version").fetchone()
        streams: dict[int, str] = dict(connection.execute("SELECT id, name FROM streams"))
        return RunRecord(
            folder=file.parent,
            meta=meta,
            steps=_steps(connection, streams, _activations(connection) if schema > 2 else {}),
            events=_events(connection),
            tail={streams[number]: _float(value) for number, value in connection.execute("SELECT * FROM tail")},
        )


def list_runs(root: str | Path) -> list[RunSummary]:
    """The runs lying directly in `root`, newest first. What can't be read is passed over; no `root`, no runs.

    >>> list_runs("/no/such/folder")
    []
    """
    runs = []
    for file in Path(root).glob(f"*/{FILENAME}"):
        with contextlib.suppress(UnreadableRecord, OSError):
            runs.append(_summary(file))
    return sorted(runs, key=lambda run: (run.started, run.folder.name), reverse=True)


def _summary(file: Path) -> RunSummary:
    with _reading(file) as connection:
        meta = {} if connection is None else _meta(connection)
        (last,) = (None,) if connection is None else connection.execute("SELECT max(step) FROM steps").fetchone()
    started = meta.get("started")
    return RunSummary(
        folder=file.parent,
        script=str(meta.get("script", "")),
        started=float(started) if isinstance(started, int | float) else file.stat().st_mtime,
        num_steps=0 if last is None else 1 + int(last),
        finished="finished" in meta,
        exploded=_exploded(file.with_name("verdict.json")),
    )


def _exploded(verdict: Path) -> bool | None:
    with contextlib.suppress(OSError, ValueError):
        story = json.loads(verdict.read_text(encoding="utf-8"))
        if isinstance(story, dict) and isinstance(story.get("exploded"), bool):
            return bool(story["exploded"])
    return None


# ------------------------------------------------------------------------------------------------------ one table each


def _meta(connection: Connection) -> dict[str, object]:
    return {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM meta")}


def _activations(connection: Connection) -> dict[int, tuple[Activation, ...]]:
    sites = {number: json.loads(names) for number, names in connection.execute("SELECT id, names FROM sites")}
    shown = {}
    for call, number, stats in connection.execute("SELECT call, sites, stats FROM forwards"):
        columns = _stats(stats, len(ROWS), len(sites[number])).T.tolist()
        shown[call] = tuple(
            Activation(name=name, kind=kind, **dict(zip(ROWS, column, strict=True)))
            for (name, kind), column in zip(sites[number], columns, strict=True)
        )
    return shown


def _steps(
    connection: Connection, streams: Mapping[int, str], shown: Mapping[int, tuple[Activation, ...]]
) -> tuple[StepRecord, ...]:
    losses: dict[int, dict[str, float]] = {}
    for call, stream, value in connection.execute("SELECT call, stream, value FROM losses ORDER BY call, stream"):
        losses.setdefault(call, {})[streams[stream]] = _float(value)
    layouts = {
        number: tuple(json.loads(names)) for number, names in connection.execute("SELECT id, names FROM layouts")
    }
    columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(steps)")}
    later = ", ".join(name if name in columns else "NULL" for name in ("scale", "moved", "piled", "exponents", "faint"))
    steps = []
    for (
        call,
        step,
        optimizer,
        time,
        lr,
        total,
        total_after,
        action,
        unclipped,
        bad,
        layout,
        stat_rows,
        stats,
        scale,
        moved,
        piled,
        exponents,
        faint,
    ) in connection.execute(
        "SELECT call, step, optimizer, time, lr, total, total_after, action, unclipped, bad, layout, stat_rows, stats, "  # noqa: S608  names of our own
        f"{later} FROM steps ORDER BY call"
    ):
        names = layouts[layout]
        norm, *sampled = _stats(stats, stat_rows, len(names))
        weight = sampled.pop(0) if stat_rows % 2 == 0 else None
        peak, zeros = sampled or (None, None)
        steps.append(
            StepRecord(
                call=call, step=step, optimizer=optimizer, time=_float(time), lr=_float(lr), total=_float(total),
                total_after=_float(total_after), action=action, losses=losses.get(call, {}), names=names, norm=norm,
                weight=weight, peak=peak, zeros=zeros, bad=json.loads(bad) if bad else {},
                unclipped=None if unclipped is None else float(unclipped), activations=shown.get(call, ()),
                scale=scale, moved=None if moved is None else _stats(moved, 1, len(names))[0],
                piled=None if piled is None else _stats(piled, 1, len(names))[0],
                exponents=None if exponents is None else _counts(exponents),
                faint=None if faint is None else _stats(faint, 1, len(names))[0],
            )
        )  # fmt: skip
    return tuple(steps)


def _events(connection: Connection) -> tuple[Event, ...]:
    return tuple(
        Event(call=call, step=step, kind=kind, message=message, data=json.loads(data))
        for call, step, kind, message, data in connection.execute(
            "SELECT call, step, kind, message, data FROM events ORDER BY id"
        )
    )


def _stats(blob: bytes, rows: int, columns: int) -> Floats:
    return np.frombuffer(blob, dtype="<f4").reshape(rows, columns)


def _counts(blob: bytes) -> Counts:
    return np.frombuffer(zlib.decompress(blob), np.uint8).reshape(-1, BUCKETS)


def _float(value: float | None) -> float:
    return math.nan if value is None else value


# ------------------------------------------------------------------------------------------- finding and opening a file


def _find(path: Path) -> Path:
    if path.is_file():
        return path
    if path.is_dir():
        if (path / FILENAME).is_file():
            return path / FILENAME
        raise UnreadableRecord(
            f"{path} holds no {FILENAME}, so it is not a run. See which runs there are: gradbelt runs"
        )
    if path.exists():
        raise UnreadableRecord(
            f"{path} is neither a run folder nor a {FILENAME}. See which runs there are: gradbelt runs"
        )
    raise UnreadableRecord(f"{path} does not exist. See which runs there are: gradbelt runs")


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[Connection | None]:
    """One consistent view of `file`; None where the run ended before its first row.

    What is wrong with the file, or turns out to be while it is read, is raised as UnreadableRecord.
    """
    try:
        with contextlib.ExitStack() as stack:
            connection = _connect(file, stack)
            yield connection if _recognise(file, connection) else None
    except (sqlite3.Error, OSError) as error:
        if _code(error) == "SQLITE_NOTADB":
            raise UnreadableRecord(_foreign(file)) from error
        if _code(error).startswith(("SQLITE_CORRUPT", "SQLITE_ERROR")):  # ERROR: a table or column is missing
            raise UnreadableRecord(_damaged(file, error)) from error
        raise UnreadableRecord(
            f"{file} can't be read now: {error}. Try again, or copy its folder and read the copy"
        ) from error
    except (ValueError, TypeError, LookupError, OverflowError, zlib.error) as error:
        raise UnreadableRecord(_damaged(file, error)) from error


def _recognise(file: Path, connection: Connection) -> bool:
    """True for a black box, False for one in which nothing was written yet; anything else is refused."""
    (application,), (schema,) = (
        connection.execute(f"PRAGMA {pragma}").fetchone() for pragma in ("application_id", "user_version")
    )
    if application != APPLICATION:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
            return False
        raise UnreadableRecord(_foreign(file))
    if schema > SCHEMA:
        raise UnreadableRecord(
            f"{file} was written by a newer gradbelt: schema {schema}, this one reads up to {SCHEMA}. "
            "Upgrade: pip install -U gradbelt"
        )
    return True


def _code(error: Exception) -> str:
    return getattr(error, "sqlite_errorname", "")  # set only by SQLite itself


def _foreign(file: Path) -> str:
    return f"{file} is not a gradbelt black box. See which runs there are: gradbelt runs"


def _damaged(file: Path, error: Exception) -> str:
    return (
        f"{file} is damaged: {error}. SQLite may still save some of it: "
        f"sqlite3 {file} .recover | sqlite3 {file.with_name('recovered.sqlite')}"
    )


def _connect(file: Path, stack: contextlib.ExitStack) -> Connection:
    file = file.resolve()  # SQLite, too, looks for the WAL beside what a link points at
    # Nobody but SQLite looks into the file while it can be opened: closing it would drop every POSIX lock that this
    # process holds on it, those of a Writer in this same process included.
    try:
        return _begin(file, "mode=ro", stack)
    except sqlite3.OperationalError as error:
        if _code(error).startswith("SQLITE_BUSY"):
            raise
    # SQLite needs to write beside a WAL file to read it. Where it may not, and there is no WAL, nobody can be writing.
    if not any(path.is_file() and path.stat().st_size for path in _beside(file)):
        return _begin(file, "immutable=1", stack)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gradbelt-")))
    _copy(file, folder)
    return _begin(folder / file.name, "mode=rw", stack)


def _begin(file: Path, mode: Literal["mode=ro", "mode=rw", "immutable=1"], stack: contextlib.ExitStack) -> Connection:
    connection: Connection = sqlite3.connect(
        f"{file.as_uri()}?{mode}", uri=True, timeout=PATIENCE, isolation_level=None
    )
    stack.callback(connection.close)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens the file, and fixes the view
    return connection


def _beside(file: Path) -> tuple[Path, Path]:
    return file.with_name(file.name + "-wal"), file.with_name(file.name + "-journal")


def _copy(file: Path, folder: Path, attempts: int = 5) -> None:
    """`folder` holds a consistent copy of the database and its WAL, even if someone writes meanwhile.

    A WAL's first 32 bytes change whenever it starts over. While they stay, all that moved from it into the database
    since is still in the WAL, so the database copied first and the WAL copied after it belong together.
    """
    wal, journal = _beside(file)
    for _ in range(attempts):
        before = _head(wal)
        shutil.copyfile(file, folder / file.name)
        for extra in (wal, journal):
            (folder / extra.name).unlink(missing_ok=True)  # from the attempt before
            if extra.is_file():
                shutil.copyfile(extra, folder / extra.name)
        if _head(wal) == before:
            return
    raise sqlite3.OperationalError(f"it changed {attempts} times while it was copied")


def _head(wal: Path) -> bytes:
    with contextlib.suppress(FileNotFoundError), wal.open("rb") as stream:
        return stream.read(32)
    return b""
