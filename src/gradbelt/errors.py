"""Everything gradbelt raises on purpose, and what a shell sees of it.

    GradbeltError
    ├── UsageError            exit 2   the command, a rule or a remedy was written in a way we can't honour
    │   └── NoSuchName        exit 2   no rule, remedy, run or script of that name; the message lists near ones
    ├── BrokenScript          exit 1   the user's script is not Python; python's own exit code for it
    ├── UnreadableRecord      exit 3   a run folder that is not one, is damaged, or comes from a newer gradbelt
    ├── NoStep                exit 4   the script made no training step, so there is nothing to check
    └── NonFinite             the caller asked to be told (`error_if_nonfinite=True`)

    BuckleWarning             a warning, not an error: the belt, or the script's own clipping, is put on wrongly

Each message says what was seen, where, what was allowed and what to do next.
"""

from __future__ import annotations

from typing import ClassVar

HEALTHY = 0
EXPLODED = 10
USAGE = 2
UNREADABLE = 3
NO_STEP = 4


class GradbeltError(Exception):
    """Base of all of them; `exit_code` is what the command line returns."""

    exit_code: ClassVar[int] = 1


class UsageError(GradbeltError, ValueError):
    """The request can't be honoured as written."""

    exit_code: ClassVar[int] = USAGE


class NoSuchName(UsageError):
    """A name that is not one of ours."""


class BrokenScript(GradbeltError):
    """The script can't even be compiled."""


class UnreadableRecord(GradbeltError):
    """A run that can't be read back."""

    exit_code: ClassVar[int] = UNREADABLE


class NoStep(GradbeltError):
    """The script made no training step."""

    exit_code: ClassVar[int] = NO_STEP


class NonFinite(GradbeltError, RuntimeError):
    """A total norm that is nan or inf, where the caller asked for an error."""


class BuckleWarning(UserWarning):
    """Clipping that does nothing, or not what its author believes; said once, at one of the first steps.

    `warnings.filterwarnings("ignore", category=gradbelt.errors.BuckleWarning)` turns it off.
    """
