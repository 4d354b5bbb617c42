"""The first batch once more, after the first update: does its own loss fall?

A copy of the process is forked at the start of the first forward, and waits. Once the script has made its update, the
copy is given a share of it and goes on: the same batch, the same random numbers, the script's own loss, whatever that
is. Nothing of the model has to be known. Cost: one forward for each share that is tried, most often one.
"""

from __future__ import annotations

import os
import random
import select
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from gradbelt.supervise.snapshots import die_with, flush, obstacle

SHARES = (1.0, 0.1, 0.01, 1e-3)  # of the update; the next is tried where the one before raises the loss
PATIENCE = 60.0  # seconds that one forward may take


class Again:
    """Copies of this process, one for each share, paused where they were made.

    Args:
        weights: All that the update may change.
        folder: Where the updated weights are handed over.
    """

    def __init__(self, weights: Sequence[Tensor], folder: str) -> None:
        self.weights, self._file = list(weights), os.path.join(folder, "updated.pt")
        self._copies: dict[float, tuple[int, int, int]] = {}  # share -> process, where it listens, where it answers
        self._answer: int | None = None  # in a copy
        drawn = random.getstate()  # Python draws it anew in a process that was forked
        flush()
        for share in SHARES:
            listens, asks = os.pipe()
            hears, answers = os.pipe()
            parent, pid = os.getpid(), os.fork()
            if pid == 0:
                os.close(asks)
                os.close(hears)
                self._answer = answers
                self._wait(share, listens, parent)
                self._copies.clear()
                random.setstate(drawn)
                return
            os.close(listens)
            os.close(answers)
            self._copies[share] = pid, asks, hears

    @classmethod
    def prepare(cls, weights: Sequence[Tensor], folder: str) -> Again | None:
        """None where this process can't be copied."""
        return None if not weights or obstacle() is not None else cls(weights, folder)

    @property
    def is_copy(self) -> bool:
        return self._answer is not None

    def _wait(self, share: float, listens: int, parent: int) -> None:
        """Returns, in a copy, once it is asked; its weights have made that share of the update by then."""
        try:
            die_with(parent)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(nowhere, stream)
            if not os.read(listens, 1):
                os._exit(0)
            with torch.no_grad(), torch._C.DisableTorchFunction():
                for weight, updated in zip(self.weights, torch.load(self._file), strict=True):
                    weight.add_(updated - weight, alpha=share)
        except BaseException:
            os._exit(1)

    def answer(self, loss: float) -> None:
        """In a copy: says what the loss came to, and ends."""
        if self._answer is not None:
            os.write(self._answer, repr(loss).encode())
            os._exit(0)

    def losses(self, before: float) -> dict[float, float]:
        """Share of the update -> the loss of the first batch after it, down to the first that does not raise it.

        The weights are updated by now. Ends all copies.
        """
        found: dict[float, float] = {}
        with torch._C.DisableTorchFunction():
            torch.save([weight.detach() for weight in self.weights], self._file)
        for share, (_, asks, hears) in self._copies.items():
            os.write(asks, b".")
            said = os.read(hears, 64) if select.select([hears], [], [], PATIENCE)[0] else b""
            if not said:
                break
            found[share] = float(said)
            if found[share] <= before:  # equal where the update changes other weights than that loss depends on
                break
        self.close()
        return found

    def close(self) -> None:
        """No copy is left."""
        for pid, asks, hears in self._copies.values():
            os.close(asks)
            os.close(hears)
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._copies.clear()
