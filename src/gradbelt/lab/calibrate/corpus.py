"""Which trainings are run, and one run of one: into a black box, with what is known of it beside it."""

from __future__ import annotations

import math
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gradbelt.blackbox import Writer
from gradbelt.lab.calibrate.fault import HOSTS

if TYPE_CHECKING:
    from gradbelt.lab.calibrate.natural import Natural
    from gradbelt.lab.calibrate.training import Learnt

STEPS = 1200  # of a healthy training, unless it is among LENGTHS
LENGTHS = {  # times STEPS
    "mlp_tail": 3.0, "edge_sgd": 2.0, "edge_adam": 2.0, "one_by_one": 2.0, "mlp_momentum": 2.0, "linear_sgd": 2.0,
    "char_rnn_sgd": 0.5, "char_gru_rmsprop": 0.5, "gpt_accumulated": 0.5, "lbfgs": 0.2, "actor_critic": 1.5,
    "ppo": 1.5, "q_learning": 1.5,
}  # fmt: skip
SEEDS = 2
TWIN = 400  # steps of a training that faults are put into, and of its twin without one
DEPARTED = 1.5  # times the highest loss of its twin, and a fault has done something
BEFORE = 50  # steps before the fault over which that is taken, too
WORSE = 0.05  # share of what the twin learnt: a fault that costs as much has done something


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One training to run. Several faults of one host share its twin, so they are one job."""

    script: str
    seed: int
    steps: int
    natural: bool = False
    faults: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.script}-{self.seed}"

    @property
    def total(self) -> int:
        """Steps it takes at most."""
        return self.steps * (1 + len(self.faults))


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """What is known of a run beside what any detector says; kept in its black box as `lab`.

    A healthy one has no shape. `effect` is what a fault did: "nonfinite", "worse" (than its twin at the end, or for
    those that fail by themselves, it learnt nothing), "departed" (its loss rose far above its twin's), or "none".
    """

    name: str
    script: str
    seed: int
    fault: str | None  # its name; of a training that fails by itself the script's
    shape: str | None
    kinds: tuple[str, ...]  # symptoms that name it, where no warning is due
    at: int  # the step it begins at
    effect: str
    before: float
    after: float
    healthy: bool  # by what it learnt
    steps: int
    sizes: Mapping[str, int]

    @property
    def counts(self) -> bool:
        """Whether it is part of the corpus: healthy where it should be, sick where it should be."""
        return self.healthy if self.shape is None else self.effect != "none"


def jobs(*, steps: int = STEPS, seeds: int = SEEDS, first: int = 0, only: Iterable[str] = ()) -> tuple[Job, ...]:
    """Every training of the corpus, longest first; `only` names scripts, hosts included.

    `first` is the first seed: what was mended on some seeds is to be judged on others.
    """
    from gradbelt.lab.calibrate.healthy import HEALTHY
    from gradbelt.lab.calibrate.injected import INJECTED
    from gradbelt.lab.calibrate.natural import NATURAL

    twin = min(TWIN, steps)
    found = []
    for seed in range(first, first + seeds):
        for script in HEALTHY:
            found.append(Job(script=script, seed=seed, steps=max(round(steps * LENGTHS.get(script, 1.0)), twin)))
        for i, host in enumerate(HOSTS):
            fit = [fault for fault in INJECTED if host in fault.hosts]
            faults = tuple(fault.__name__ for fault in fit[(seed + i) % 2 :: 2])
            found.append(Job(script=host, seed=100 + seed, steps=twin, faults=faults))
        # twice as many of these: they are short
        for number in (2 * seed, 2 * seed + 1):
            found += [Job(script=script, seed=number, steps=twin, natural=True) for script in NATURAL]
    wanted = set(only)
    chosen = [job for job in found if not wanted or job.script in wanted]
    return tuple(sorted(chosen, key=lambda job: -job.total))


def record(job: Job, folder: Path) -> list[Label]:
    """The job's runs, each recorded in a folder of its own in `folder`."""
    import torch

    torch.set_num_threads(1)
    if job.natural:
        return [_record(job, folder)]
    twin: list[float] = []
    labels = [_record(job, folder, losses=twin)]
    return labels + [_record(job, folder, fault=fault, twin=(labels[0], twin)) for fault in job.faults]


def record_all(todo: Iterable[Job], folder: Path, workers: int) -> Iterator[tuple[Job, list[Label]]]:
    """Each job as it ends. With one worker in this process, else in children."""
    if workers <= 1:
        for job in todo:
            yield job, record(job, folder)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        started = {pool.submit(record, job, folder): job for job in todo}
        for done in as_completed(started):
            yield started[done], done.result()


def _record(
    job: Job,
    folder: Path,
    *,
    fault: str | None = None,
    twin: tuple[Label, list[float]] | None = None,
    losses: list[float] | None = None,
) -> Label:
    from gradbelt.lab.calibrate.healthy import HEALTHY
    from gradbelt.lab.calibrate.injected import INJECTED
    from gradbelt.lab.calibrate.natural import NATURAL
    from gradbelt.lab.calibrate.training import Training

    name = job.name if fault is None else f"{job.name}-{fault}"
    kinds = {kind.__name__: kind for kind in INJECTED}
    rng = np.random.default_rng([job.seed, zlib.crc32(name.encode())])
    at = 0 if fault is None else int(rng.integers(job.steps * 3 // 8, job.steps * 5 // 8))
    put = None if fault is None else kinds[fault](at, rng)
    natural = NATURAL[job.script] if job.natural else None
    writer = Writer(folder / name, {"script": f"lab/{job.script}", "seed": job.seed}, warn=_warn)
    try:
        training = Training(seed=job.seed, steps=job.steps, write=writer.step, fault=put)
        learnt = training.run(natural.script if natural else HEALTHY[job.script])
        if losses is not None:
            losses += training.losses
        broke = not all(map(math.isfinite, training.losses)) or not math.isfinite(learnt.after)
        label = Label(
            name=name, script=job.script, seed=job.seed,
            fault=job.script if natural else fault,
            shape=natural.shape if natural else put.shape if put else None,
            kinds=natural.kinds if natural else put.kinds if put else (),
            at=at,
            effect=_effect(natural, broke, learnt, training.losses, at, twin),
            before=learnt.before, after=learnt.after, healthy=learnt.healthy and not broke,
            steps=training.step + 1, sizes=training.sizes,
        )  # fmt: skip
        writer.note(lab=asdict(label))
    finally:
        writer.close()
    return label


def _effect(
    natural: Natural | None,
    broke: bool,
    learnt: Learnt,
    losses: list[float],
    at: int,
    twin: tuple[Label, list[float]] | None,
) -> str:
    """What a fault did, by the losses and by what was learnt, beside a twin that had none."""
    if broke:
        return "nonfinite"
    if natural is not None:
        return "none" if learnt.healthy or natural.shape == "nonfinite" else "worse"
    if twin is None:
        return "none"
    known, beside = twin
    if learnt.after - known.after > WORSE * abs(known.before - known.after):
        return "worse"
    return "departed" if max(losses[at:]) > DEPARTED * max(beside[max(at - BEFORE, 0) :]) else "none"


def _warn(line: str) -> None:
    sys.stderr.write(f"gradbelt: {line}\n")
