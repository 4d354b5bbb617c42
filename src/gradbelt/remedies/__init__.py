"""One file a remedy: something done to an unchanged script from outside, and the edit it stands for.

A remedy is written `name` or `name=value`; `a+b` where two go together. To add one: write `remedies/my.py` with a
frozen dataclass that has `name`, `invasive`, `SOURCE`, `EDIT` and `fit(patient)`, and name it in REMEDIES. The
commands, the trials and the contract tests find it by themselves. No module here imports torch before `fit`: the
parent process lists remedies without it.
"""

from __future__ import annotations

import difflib
from dataclasses import fields
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from gradbelt.errors import NoSuchName, UsageError

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
    """An intervention. Its docstring says what it does, when it helps and what it leaves alone."""

    name: ClassVar[str]
    invasive: ClassVar[Invasive]
    SOURCE: ClassVar[str]
    EDIT: ClassVar[str]

    def fit(self, patient: Patient) -> None:
        """Puts itself on a patient, after torch was imported and before the script uses it."""


from gradbelt.remedies.clip_norm import ClipNorm  # noqa: E402  they need the names above
from gradbelt.remedies.clip_value import ClipValue  # noqa: E402
from gradbelt.remedies.lower_lr import LowerLr  # noqa: E402
from gradbelt.remedies.optimizer_defaults import OptimizerDefaults  # noqa: E402
from gradbelt.remedies.precision import Precision  # noqa: E402
from gradbelt.remedies.reinit import HeInit, OrthogonalInit, XavierInit  # noqa: E402
from gradbelt.remedies.skip_spike import SkipSpike  # noqa: E402
from gradbelt.remedies.skip_step import SkipStep  # noqa: E402
from gradbelt.remedies.warmup import Warmup  # noqa: E402
from gradbelt.remedies.zero_grad import ZeroGrad  # noqa: E402
from gradbelt.remedies.zero_nan import ZeroNan  # noqa: E402

REMEDIES: dict[str, type[Remedy]] = {
    remedy.name: remedy
    for remedy in (
        ClipNorm, ClipValue, SkipStep, SkipSpike, ZeroNan, LowerLr, Warmup, OptimizerDefaults, ZeroGrad, Precision,
        HeInit, XavierInit, OrthogonalInit,
    )
}  # fmt: skip

PLANNED = (
    "agc", "lsuv", "norm_layer", "activation_swap", "skip_connection", "residual_scale", "gated_rnn", "truncated_bptt",
    "skip_batch", "impute_data", "normalise_input", "normalise_target", "eps_in_op", "mask_fix", "loss_reduction",
    "loss_scale", "higher_eps", "lower_beta2", "qk_norm", "logit_scaling",
)  # fmt: skip
"""Names that are reserved and not built yet."""


def parse(text: str) -> list[Remedy]:
    """The remedies that `text` names.

    Raises:
        NoSuchName: There is no such remedy; the message lists near ones.
        UsageError: The value is missing, superfluous or not a number.

    >>> parse("clip_norm=0.5+skip_step")
    [ClipNorm(value=0.5), SkipStep()]
    """
    return [_one(part.strip()) for part in text.split("+")]


def spell(remedy: Remedy) -> str:
    """The remedy as a user writes it.

    >>> spell(ClipNorm(0.5))
    'clip_norm=0.5'
    """
    value = getattr(remedy, "value", None)
    return remedy.name if value is None else f"{remedy.name}={value:g}" if value != 1.0 else f"{remedy.name}=1.0"


def _one(text: str) -> Remedy:
    name, equals, value = text.partition("=")
    if name in PLANNED:
        raise UsageError(f"remedy {name!r} can't be applied from outside yet; there are: {', '.join(sorted(REMEDIES))}")
    if name not in REMEDIES:
        near = difflib.get_close_matches(name, REMEDIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(sorted(REMEDIES))}"
        raise NoSuchName(f"no remedy named {name!r}{hint}")
    kind: Any = REMEDIES[name]
    if not equals:
        return kind()  # type: ignore[no-any-return]
    if "value" not in {field.name for field in fields(kind)}:
        raise UsageError(f"remedy {name!r} takes no value, got {text!r}; write {name!r}")
    try:
        number = float(value)
    except ValueError:
        raise UsageError(
            f"remedy {name!r} takes a number, got {value!r}; write for example {spell(kind())!r}"
        ) from None
    if not 0 < number < float("inf"):
        raise UsageError(f"remedy {name!r} takes a number above zero, got {value!r}")
    return kind(number)  # type: ignore[no-any-return]
