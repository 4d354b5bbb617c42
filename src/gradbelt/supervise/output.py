"""The script's standard output, passed on as it is and kept in `stdout.log` beside it."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class _Tee(io.RawIOBase):
    """Writes to the real descriptor first, and what was written to the log. A log that fails is dropped, never
    raised."""

    def __init__(self, real: io.FileIO, log: io.FileIO | None, *, silent: bool) -> None:
        self._real, self._log, self._silent = real, log, silent

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._real.isatty()

    def fileno(self) -> int:
        return self._real.fileno()

    @property
    def name(self) -> Any:
        return self._real.name

    def write(self, data: Any) -> int:
        view = memoryview(data)
        written = len(view) if self._silent else self._real.write(view)
        if self._log is not None and written:
            try:
                self._log.write(view[:written])
            except OSError:
                self._log = None
        return written or 0

    def turn(self, log: io.FileIO | None) -> None:
        """From now on it goes to another log."""
        self._log = log


class Heard(io.TextIOWrapper):
    """Standard output with somebody who listens, where there is one."""

    hear: Callable[[str], None] | None = None

    def write(self, text: str) -> int:
        written = super().write(text)
        if self.hear is not None:
            self.hear(text)
        return written


def tee_stdout(log: Path, *, silent: bool = False) -> Callable[[Path], None]:
    """From now on `sys.stdout` also goes to `log`; with `silent`, only there.

    Same encoding, same buffering, same answer to `isatty`. What a subprocess or C code writes to descriptor 1 passes
    through without being logged.

    Returns:
        What turns the log to another file, wherever `sys.stdout` points by then.
    """
    old = sys.stdout
    if old is None:
        return lambda _log: None
    old.flush()
    real = io.FileIO(old.fileno(), "w", closefd=False)
    sys.stdout = Heard(
        io.BufferedWriter(tee := _Tee(real, _opened(log), silent=silent)),
        encoding=old.encoding,
        errors=old.errors,
        newline="\n" if sys.platform != "win32" else None,
        line_buffering=getattr(old, "line_buffering", False),
        write_through=getattr(old, "write_through", False),
    )
    return lambda log: tee.turn(_opened(log))


def _opened(log: Path) -> io.FileIO | None:
    try:
        return io.FileIO(log, "a")
    except OSError:
        return None
