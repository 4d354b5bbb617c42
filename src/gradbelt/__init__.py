"""A seatbelt, a black box and a clinic for neural-network training that explodes.

>>> import gradbelt
>>> gradbelt.__version__
'0.1.0'

Importing gradbelt loads no framework: every name below is fetched when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gradbelt import clip as clip
    from gradbelt import errors as errors
    from gradbelt.belt.belt import Belt as Belt
    from gradbelt.belt.fasten import fasten as fasten
    from gradbelt.blackbox import load_run as load_run
    from gradbelt.clip.dropin import clip_grad_norm_ as clip_grad_norm_
    from gradbelt.clip.dropin import clip_grad_value_ as clip_grad_value_
    from gradbelt.clip.dropin import clip_grads_with_norm_ as clip_grads_with_norm_
    from gradbelt.clip.dropin import get_total_norm as get_total_norm

_WHERE = {
    "Belt": "gradbelt.belt.belt",
    "fasten": "gradbelt.belt.fasten",
    "load_run": "gradbelt.blackbox",
    "clip_grad_norm_": "gradbelt.clip.dropin",
    "clip_grad_value_": "gradbelt.clip.dropin",
    "clip_grads_with_norm_": "gradbelt.clip.dropin",
    "get_total_norm": "gradbelt.clip.dropin",
    "clip": "",
    "errors": "",
}

__all__ = [
    "Belt", "__version__", "clip", "clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "errors", "fasten",
    "get_total_norm", "load_run",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'gradbelt' has no attribute {name!r}")
    if not _WHERE[name]:
        return importlib.import_module(f"gradbelt.{name}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
