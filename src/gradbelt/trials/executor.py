"""Where trials run: in processes of this machine, or on a Ray cluster. Both are given the same plans."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Protocol

from gradbelt.errors import UsageError
from gradbelt.supervise.launch import Child
from gradbelt.supervise.plan import Plan
from gradbelt.supervise.starter import Starter

EXECUTORS = ("local", "ray")


class Executor(Protocol):
    """Starts plans."""

    def start(self, plan: Plan) -> Child:
        """The plan's process, or what stands for it; when it has ended, the record lies in the plan's folder."""

    def close(self) -> None:
        """Ends what was started, and what is kept for starting."""


def check(name: str) -> None:
    """Said before anything is run: what the executor needs is there."""
    if name == "ray" and find_spec("ray") is None:
        raise UsageError("--executor ray needs Ray, which is not installed; pip install 'gradbelt[ray]'")


def room(name: str) -> int:
    """How many trials it runs at a time, where nobody says how many."""
    if name == "ray":
        from gradbelt.trials import on_ray

        return on_ray.room()
    return os.cpu_count() or 1


def executor(name: str, plan: Plan, environment: Mapping[str, str]) -> Executor:
    """One for plans that differ from this in their remedies and folders alone."""
    if name == "ray":
        from gradbelt.trials.on_ray import OnRay

        return OnRay(environment)
    return Starter(plan, environment)
