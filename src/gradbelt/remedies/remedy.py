"""What a remedy is."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from gradbelt.supervise.patient import Patient


class Invasive(IntEnum):
    """How deep an edit goes; among remedies that do equally well, the shallowest comes first."""

    CONFIGURATION = 0
    OPTIMIZER = 1
    DATA = 2
    NUMERICS = 3
    INITIALISATION = 4
    ARCHITECTURE = 5


class Remedy(Protocol):
    """An intervention. Its docstring says what it does, when it helps and what it leaves alone.

    One that has `midway = True` beside its name can be put on in the middle of a run, and acts from there as it would
    have from the start. One that does what others do, and more, names those in `INCLUDES`.
    """

    name: ClassVar[str]
    invasive: ClassVar[Invasive]
    SOURCE: ClassVar[str]
    EDIT: ClassVar[str]

    def fit(self, patient: Patient) -> None:
        """Puts itself on a patient, after torch was imported and before the script uses it."""
