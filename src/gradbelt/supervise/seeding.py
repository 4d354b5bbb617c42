"""Seeds, so that a run can be repeated. The script's own seeding comes later and wins."""

from __future__ import annotations

import random
import secrets
from types import ModuleType


def fresh_seed() -> int:
    """A new seed: a script that seeds nothing must go on being different every time it is run."""
    return secrets.randbelow(2**31)


def seed_python(seed: int) -> None:
    random.seed(seed)


def seed_numpy(numpy: ModuleType, seed: int) -> None:
    numpy.random.seed(seed % 2**32)


def seed_torch(torch: ModuleType, seed: int) -> None:
    torch.manual_seed(seed)
