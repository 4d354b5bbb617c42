"""Trials as tasks of a Ray cluster: the one that RAY_ADDRESS names or that runs here, else one of this machine alone.

A task runs the script in the folder it is run in here, with this environment: the script, what it imports and what it
reads lie in a folder that all machines share. Its record is written where it runs, and comes back with the answer.
"""

from __future__ import annotations

import io
import logging
import math
import os
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gradbelt.supervise.launch import LOG, launch, wait_until
from gradbelt.supervise.plan import Plan

OWN = ("RAY_", "CUDA_VISIBLE_DEVICES", "TMPDIR")
"""Beginnings of variables that each machine sets for itself."""


def room() -> int:
    """Tasks that the cluster has processors for."""
    return max(1, int(_ray().cluster_resources().get("CPU", 1)))


class OnRay:
    """Starts each plan as one task, on one processor, and on one GPU where the cluster has any."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ray = _ray()
        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
        self._run = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(carried_out)
        here = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
        self._environment = {**here, **environment}
        self._tasks: list[Task] = []

    def start(self, plan: Plan) -> Task:
        self._tasks.append(Task(plan, self._run.remote(asdict(plan), os.getcwd(), self._environment)))
        return self._tasks[-1]

    def close(self) -> None:
        for task in self._tasks:
            if task.poll() is None:
                task.kill()


class Task:
    """A plan that is carried out somewhere; to be waited for and stopped as a `subprocess.Popen` is."""

    def __init__(self, plan: Plan, ref: Any) -> None:
        self.plan, self.returncode = plan, None
        self._ref = ref

    returncode: int | None

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        ray = _ray()
        if self.returncode is not None:
            return self.returncode
        if not ray.wait([self._ref], timeout=timeout)[0]:
            raise subprocess.TimeoutExpired(str(self._ref), timeout or 0.0)
        folder = Path(self.plan.folder)
        try:
            code, record = ray.get(self._ref)
            with tarfile.open(fileobj=io.BytesIO(record)) as tar:
                tar.extractall(folder, filter="data")
        except ray.exceptions.TaskCancelledError:
            code = -signal.SIGTERM
        except ray.exceptions.RayError as error:  # its machine went away, say
            folder.mkdir(parents=True, exist_ok=True)
            (folder / LOG).write_text(f"{type(error).__name__}: {error}\n".partition("\n")[0])
            code = -signal.SIGKILL
        self.returncode = code
        return int(code)

    def terminate(self) -> None:
        _ray().cancel(self._ref)

    def kill(self) -> None:
        _ray().cancel(self._ref, force=True)


def carried_out(fields: dict[str, Any], cwd: str, environment: dict[str, str]) -> tuple[int, bytes]:
    """Runs a plan; its exit code and the record it left, as a tar archive. Runs in a process of Ray's."""
    os.chdir(cwd)
    with tempfile.TemporaryDirectory(prefix="gradbelt-") as folder:
        child = launch(replace(Plan.of(fields), folder=folder), environment)
        with suppress(KeyboardInterrupt):  # cancelled: what there is of the record is sent all the same
            wait_until(child, math.inf)
        code = -signal.SIGTERM if child.returncode is None else child.returncode
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
            tar.add(folder, arcname=".")
        return code, packed.getvalue()


def _ray() -> Any:
    import ray

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    return ray
