"""Do the ranks of a distributed run see the same total norm? Asked without a collective, so nothing can hang.

Each rank leaves what it saw at its first step in the store of the process group; rank 0 looks a few steps later whether
the others have left theirs, and never waits for one that has not.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math

import torch.distributed as dist

from gradbelt._types import Measurement, Misfit
from gradbelt.belt.misfits import misfit

WHEN = (3, 6, 12, 25, 50, 100)  # calls at which rank 0 looks again for those that were late
MOST = 7  # ranks it looks at
CLOSE = 1e-3  # of the norm; an all-reduce gives every rank the same bits
_numbers = itertools.count()  # belts are made in the same order on every rank


class Agreement:
    """Compares the first step of replicas: same names and same weights, before anything could drift apart.

    Ranks that hold different parameters (pipeline stages), pieces of them (FSDP, ZeRO) or other values (independent
    runs) are no replicas, and are not compared. Training that lets replicas drift on purpose (local SGD) is told too.
    """

    def __init__(self) -> None:
        self._place = f"gradbelt/{next(_numbers)}"
        self._waiting: set[int] = set()
        self._mine: tuple[str, float] | None = None

    def look(self, seen: Measurement) -> Misfit | None:
        """Leaves word at call 0; on rank 0 the answer, at the call at which it is known that a rank disagrees."""
        if seen.call == 0:
            self._leave_word(seen)
        elif self._waiting and seen.call in WHEN:
            return self._read(seen)
        return None

    def _leave_word(self, seen: Measurement) -> None:
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() < 2 or seen.weight is None:
            return
        replica = hashlib.sha256("\n".join(seen.names).encode() + seen.weight.tobytes()).hexdigest()
        if dist.get_rank() == 0:
            self._mine = replica, seen.total
            self._waiting = set(range(1, min(dist.get_world_size(), MOST + 1)))
        else:
            store = dist.distributed_c10d._get_default_store()
            store.set(f"{self._place}/{dist.get_rank()}", json.dumps([replica, seen.total]))

    def _read(self, seen: Measurement) -> Misfit | None:
        if not dist.is_initialized() or self._mine is None:
            return None
        store = dist.distributed_c10d._get_default_store()
        replica, here = self._mine
        for rank in sorted(self._waiting):
            key = f"{self._place}/{rank}"
            if not store.check([key]):
                continue
            self._waiting.discard(rank)
            other, there = json.loads(store.get(key))
            if other == replica and math.isfinite(here) and abs(there - here) > CLOSE * max(here, there):
                self._waiting.clear()
                return misfit("ranks_disagree", seen.step, here=f"{here:.4g}", rank=0, there=f"{there:.4g}", other=rank)
        return None
