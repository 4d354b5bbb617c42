"""Seeds, so that a run can be repeated. The script's own seeding comes later and wins; it can be shifted."""

from __future__ import annotations

import functools
import random
import secrets
from collections.abc import Callable
from types import ModuleType
from typing import Any


def fresh_seed() -> int:
    """A new seed: a script that seeds nothing must go on being different every time it is run."""
    return secrets.randbelow(2**31)


def seed_python(seed: int) -> None:
    random.seed(seed)


def seed_numpy(numpy: ModuleType, seed: int) -> None:
    numpy.random.seed(seed % 2**32)


def seed_torch(torch: ModuleType, seed: int) -> None:
    torch.manual_seed(seed)


def shift_python(by: int) -> None:
    """From now on every seed that is given to `random` is that much larger."""
    random.seed = _shifted(random.seed, by)


def shift_numpy(numpy: ModuleType, by: int) -> None:
    """Likewise for NumPy's own functions, `numpy.random.default_rng(0)` among them."""
    numpy.random.seed = _shifted(numpy.random.seed, by)
    numpy.random.default_rng = _shifted(numpy.random.default_rng, by)


def shift_torch(torch: ModuleType, by: int) -> None:
    """Likewise for torch, on all devices. A `torch.Generator` of the script's own keeps its seed."""
    torch.manual_seed = torch.random.manual_seed = _shifted(torch.manual_seed, by)  # type: ignore[attr-defined]


def _shifted(seed: Callable[..., Any], by: int) -> Callable[..., Any]:
    """The function with a whole number in first place made larger; anything else is handed on.

    >>> _shifted(lambda seed=None: seed, 2)(3), _shifted(lambda seed=None: seed, 2)()
    (5, None)
    """

    @functools.wraps(seed)
    def shifted(*args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], int):
            args = (args[0] + by, *args[1:])
        elif isinstance(kwargs.get("seed"), int):
            kwargs = {**kwargs, "seed": kwargs["seed"] + by}
        return seed(*args, **kwargs)

    return shifted
