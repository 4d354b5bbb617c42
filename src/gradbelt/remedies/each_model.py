"""What remedies on the model have in common: when they act, on what they must not, and how they say they could not."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Generator, nn

    from gradbelt.supervise.deeds import Deeds
    from gradbelt.supervise.patient import Patient
    from gradbelt.supervise.rehearse import Course

    Again = Callable[..., Course]
    Act = Callable[[Course, Again], int]

MARK = "_gradbelt_remedies"


def rehearsed(patient: Patient, name: str, act: Act, *, what: str, nothing: str) -> Deeds:
    """Has `act` change each outermost module that holds parameters, once it is known what its first forward does.

    Args:
        act: Called with the course of the forward and a function that rehearses once more; answers in how many places
        it acted. what: What the record says was done there. nothing: What it says if that was nowhere.

    Answers the account it keeps, for what an edit needs to know.
    """
    from gradbelt.supervise.rehearse import NoRehearsal, rehearse

    deeds = patient.deeds(name, otherwise=nothing, soon=True)

    def at_call(root: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        if next(root.parameters(), None) is None:
            return
        try:
            for _ in range(act(rehearse(root, args, kwargs), lambda *watch: rehearse(root, args, kwargs, *watch))):
                deeds(what)
        except NoRehearsal as reason:
            deeds.otherwise = str(reason)

    patient.at_call.append(at_call)
    return deeds


def first(module: nn.Module, name: str) -> bool:
    """Whether the remedy has not been on this module, nor on one that it is a copy of."""
    done = vars(module).setdefault(MARK, set())  # goes along when the script copies its model
    if name in done:
        return False
    done.add(name)
    return True


def paths(root: nn.Module, modules: Iterable[nn.Module]) -> list[str]:
    """What `named_modules` calls them, in its order."""
    wanted = set(modules)
    return [path for path, module in root.named_modules() if module in wanted]


def replace(patient: Patient, owner: Any, name: str, ours: Callable[..., Any]) -> None:
    """`owner.name` becomes `ours(original, ...)` until the script ends."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def patched(*args: Any, **kwargs: Any) -> Any:
        return ours(original, *args, **kwargs)

    setattr(owner, name, patched)
    patient.around.callback(setattr, owner, name, original)


def pretrained(patient: Patient) -> weakref.WeakSet[nn.Module]:
    """The modules whose weights came from a checkpoint, by `load_state_dict`; it fills as the script loads."""
    from torch import nn

    loaded: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def load_state_dict(original: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        loaded.update(module.modules())
        return original(module, *args, **kwargs)

    replace(patient, nn.Module, "load_state_dict", load_state_dict)
    return loaded


def numbers(patient: Patient) -> Generator:
    """Random numbers of our own, so that the script draws the same batches as without the remedy."""
    import torch

    return torch.Generator().manual_seed(patient.plan.seed)
