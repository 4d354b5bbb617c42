"""One file a remedy: something done to an unchanged script from outside, and the edit it stands for.

A remedy is written `name` or `name=value`; `a+b` where two go together. To add one: write `remedies/my.py` with a
frozen dataclass that has `name`, `invasive`, `SOURCE`, `EDIT` and `fit(patient)`, and name it in REMEDIES. The
commands, the trials and the contract tests find it by themselves. No module here imports torch before `fit`: the
parent process lists remedies without it.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import fields
from typing import Any

from gradbelt.errors import NoSuchName, UsageError
from gradbelt.remedies.activation_swap import ActivationSwap
from gradbelt.remedies.agc import Agc
from gradbelt.remedies.clip_norm import ClipNorm
from gradbelt.remedies.clip_value import ClipValue
from gradbelt.remedies.eps_in_op import EpsInOp
from gradbelt.remedies.gated_rnn import GatedRnn
from gradbelt.remedies.higher_eps import HigherEps
from gradbelt.remedies.impute_data import ImputeData
from gradbelt.remedies.logit_scaling import LogitScaling
from gradbelt.remedies.loss_reduction import LossReduction
from gradbelt.remedies.loss_scale import LossScale
from gradbelt.remedies.lower_beta2 import LowerBeta2
from gradbelt.remedies.lower_lr import LowerLr
from gradbelt.remedies.lsuv import Lsuv
from gradbelt.remedies.mask_fix import MaskFix
from gradbelt.remedies.norm_layer import NormLayer
from gradbelt.remedies.normalise_input import NormaliseInput
from gradbelt.remedies.normalise_target import NormaliseTarget
from gradbelt.remedies.optimizer_defaults import OptimizerDefaults
from gradbelt.remedies.precision import Precision
from gradbelt.remedies.qk_norm import QkNorm
from gradbelt.remedies.reinit import HeInit, OrthogonalInit, XavierInit
from gradbelt.remedies.remedy import Invasive as Invasive
from gradbelt.remedies.remedy import Remedy as Remedy
from gradbelt.remedies.residual_scale import ResidualScale
from gradbelt.remedies.skip_batch import SkipBatch
from gradbelt.remedies.skip_connection import SkipConnection
from gradbelt.remedies.skip_spike import SkipSpike
from gradbelt.remedies.skip_step import SkipStep
from gradbelt.remedies.truncated_bptt import TruncatedBptt
from gradbelt.remedies.warmup import Warmup
from gradbelt.remedies.zero_grad import ZeroGrad
from gradbelt.remedies.zero_nan import ZeroNan

REMEDIES: dict[str, type[Remedy]] = {
    remedy.name: remedy
    for remedy in (
        ClipNorm, ClipValue, SkipStep, SkipSpike, ZeroNan, LowerLr, Warmup, OptimizerDefaults, ZeroGrad, Precision,
        HeInit, XavierInit, OrthogonalInit,
        Agc, HigherEps, LowerBeta2, LossScale, LossReduction, TruncatedBptt, SkipBatch, ImputeData, NormaliseInput,
        NormaliseTarget, EpsInOp, MaskFix,
        Lsuv, NormLayer, ActivationSwap, SkipConnection, ResidualScale, GatedRnn, QkNorm, LogitScaling,
    )
}  # fmt: skip


def parse(text: str) -> list[Remedy]:
    """The remedies that `text` names.

    Raises:
        NoSuchName: There is no such remedy; the message lists near ones.
        UsageError: The value is missing, superfluous or not a number.

    >>> parse("clip_norm=0.5+skip_step")
    [ClipNorm(value=0.5), SkipStep()]
    """
    return [_one(part) for part in parts(text)]


def parts(text: str) -> list[str]:
    """The remedies that go together in `text`, each as it is written; a plus before a digit belongs to a number.

    >>> parts("clip_norm=1e+30+skip_step")
    ['clip_norm=1e+30', 'skip_step']
    """
    return [part.strip() for part in re.split(r"\+(?!\d)", text)]


def spell(remedy: Remedy) -> str:
    """The remedy as a user writes it, and as `parse` reads it back to the last bit.

    >>> spell(ClipNorm(0.5)), spell(ClipNorm(1e30)), spell(ClipNorm(0.1 + 0.2))
    ('clip_norm=0.5', 'clip_norm=1e+30', 'clip_norm=0.30000000000000004')
    """
    value = getattr(remedy, "value", None)
    if value is None:
        return remedy.name
    short = "1.0" if value == 1.0 else f"{value:g}"
    return f"{remedy.name}={short if float(short) == value else repr(float(value))}"


def _one(text: str) -> Remedy:
    name, equals, value = text.partition("=")
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
