"""Runs a script as `python script.py` would, or a module as `python -m module` would."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import types
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path

_HOME = str(Path(__file__).resolve().parents[1]) + os.sep


class Enough(BaseException):
    """The horizon of a trial is reached."""


def run_script(path: str, argv: tuple[str, ...]) -> None:
    """Executes the file as `__main__`: same `sys.argv`, `sys.path[0]`, `__file__`; a folder or zip runs its
    `__main__`."""
    sys.argv[:] = [path, *argv]
    if Path(path).is_dir() or path.endswith(".zip"):
        runpy.run_path(path, run_name="__main__")
        return
    sys.path.insert(0, str(Path(path).resolve().parent))
    full = os.path.abspath(path)
    loader = SourceFileLoader("__main__", full)
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __file__=full, __loader__=loader, __spec__=None, __package__=None, __cached__=None, __builtins__=__builtins__
    )
    sys.modules["__main__"] = main
    exec(compile(loader.get_data(full), full, "exec", dont_inherit=True), main.__dict__)  # noqa: S102  the user's script


def run_module(name: str, argv: tuple[str, ...]) -> None:
    """Executes a module as `__main__`, relative imports included."""
    sys.argv[:] = [name, *argv]
    sys.path.insert(0, os.getcwd())
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def exit_like_python(run: Callable[[], None], on_error: Callable[[BaseException], None]) -> int:
    """Calls `run` and answers the exit code plain python would give; tracebacks show the script's frames alone.

    Ctrl-C ends the process by SIGINT after everything was flushed, as it ends python.
    """
    try:
        run()
    except Enough:
        return 0
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)  # noqa: T201  what python prints for sys.exit("message")
        return 1
    except BaseException as error:
        on_error(error)
        error.__traceback__ = without_us(error.__traceback__)
        sys.excepthook(type(error), error, error.__traceback__)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def is_ours(filename: str) -> bool:
    """Whether a file is gradbelt's own code."""
    return filename.startswith(_HOME)


def without_us(trace: types.TracebackType | None) -> types.TracebackType | None:
    """The traceback without gradbelt's and runpy's frames."""
    frames = []
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if not is_ours(name) and name != "<frozen runpy>":
            frames.append(trace)
        trace = trace.tb_next
    rest: types.TracebackType | None = None
    for frame in reversed(frames):
        rest = types.TracebackType(rest, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return rest
