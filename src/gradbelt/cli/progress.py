"""What is going on while the clinic works: a bar in a terminal, a line elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gradbelt._told import say, tell
from gradbelt._types import Outcome


class Bar:
    """On stderr, gone when done. Without a terminal one line a phase, so that a log stays readable."""

    def __init__(self, lang: str) -> None:
        self._lang, self._live = lang, sys.stderr.isatty()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("gradbelt: {task.description}"),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not self._live,
        )
        self._task = self._progress.add_task("", total=None, visible=False)
        self._said: set[str] = set()

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def examining(self, step: int) -> None:
        """The script is running again, up to `step`."""
        self._show(
            say(tell("running it again up to step {step}, to see where it began", step=step), self._lang), 0, None
        )

    def trying(self, outcomes: tuple[Outcome, ...], waiting: int, running: tuple[str, ...]) -> None:
        """Trials are running."""
        done, total = len(outcomes), len(outcomes) + waiting + len(running)
        self._show(
            say(tell("trying remedies on the script"), self._lang),
            done,
            total,
            ", ".join(r or "control" for r in running),
        )

    def proving(self) -> None:
        """The fixed copy is running."""
        self._show(say(tell("running the fixed copy"), self._lang), 0, None)

    def _show(self, phase: str, done: int, total: int | None, detail: str = "") -> None:
        if self._live:
            text = f"{phase}: {detail}" if detail else phase
            self._progress.update(self._task, description=text, completed=done, total=total, visible=True)
        elif phase not in self._said:
            self._said.add(phase)
            print(f"gradbelt: {phase} ...", file=sys.stderr, flush=True)  # noqa: T201  a log, not a library's chatter
