"""Trainings that go well, as people write them. Whether one did is judged by what it learnt, never by a detector.

To add one: a function of a `Training` that says what it `Learnt`, in its file's SCRIPTS. That it learns
is checked for every seed, whenever it is run: one that did not is no part of the corpus.
"""

from __future__ import annotations

from collections.abc import Callable

from gradbelt.lab.calibrate.healthy import agents, generative, language, tabular, vision
from gradbelt.lab.calibrate.training import Learnt, Training

HEALTHY: dict[str, Callable[[Training], Learnt]] = {
    script.__name__: script for part in (language, vision, generative, tabular, agents) for script in part.SCRIPTS
}
