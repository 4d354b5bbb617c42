"""Where in the user's code we are: "train.py:61"."""

from __future__ import annotations

import functools
import itertools
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from types import FrameType

from gradbelt.supervise.script import is_ours

_LIBRARY = tuple(
    os.path.realpath(path) + os.sep
    for path in {
        *(sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    }
    if path
)


@functools.cache
def kind_of(filename: str) -> str:
    """ "user", "library" (site-packages, the standard library), "torch" or "ours"."""
    if filename.startswith("<"):
        return "torch"  # code that was made, not written: never a line a user could open
    real = os.path.realpath(filename)
    if is_ours(real):
        return "ours"
    if f"{os.sep}torch{os.sep}" in real and real.startswith(_LIBRARY):
        return "torch"
    return "library" if real.startswith(_LIBRARY) else "user"


def outward(frame: FrameType | None) -> Iterator[tuple[FrameType, str]]:
    """The frame and those that called it, each with whose code it is (see `kind_of`)."""
    while frame is not None:
        yield frame, kind_of(frame.f_code.co_filename)
        frame = frame.f_back


def user_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost frame of user code at or above `frame`; else the innermost that is neither torch's nor ours."""
    second = None
    for each, kind in outward(frame):
        if kind == "user":
            return each
        if kind == "library" and second is None:
            second = each
    return second


def line(frame: FrameType) -> str:
    """ "train.py:61"."""
    return f"{short(frame.f_code.co_filename)}:{frame.f_lineno}"


@functools.cache
def short(filename: str) -> str:
    """The file as a user would say it: relative to the script's folder where it lies in it."""
    main = sys.modules.get("__main__")
    base = os.path.dirname(os.path.abspath(getattr(main, "__file__", None) or "."))
    relative = os.path.relpath(filename, base)
    return os.path.basename(filename) if relative.startswith("..") else relative


def span(frame: FrameType) -> list[int] | None:
    """The expression that a frame is carrying out: line, column, last line, and the column behind it.

    Columns count bytes of UTF-8. None where the code does not know.
    """
    positions = frame.f_code.co_positions()
    first, last, column, end = next(itertools.islice(positions, frame.f_lasti // 2, None), (None,) * 4)
    if first is None or last is None or column is None or end is None:
        return None
    return [first, column, last, end]


def here(depth: int = 1) -> str:
    """ "train.py:61" for the line of user code that led here."""
    frame = user_frame(sys._getframe(depth))
    return "?" if frame is None else line(frame)
