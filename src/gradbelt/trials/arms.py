"""What to try next: the arms that the evidence makes likely first, then what the outcomes suggest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradbelt._types import Outcome, Suspicion
from gradbelt.causes import CAUSES, Case, suspect
from gradbelt.remedies import REMEDIES, parse, parts

CONTROL = ""
DEEP = 8  # layers, below which a way past them is not worth a trial
LARGE = 1e3  # a first loss above it may come of targets in large units
DOUBT = 0.1  # confidence below which nothing is prescribed for a cause, nor tried once there is a cure

ARMS: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lower_lr=0.1", "lower_lr=0.01"),
    "init": ("he_init", "he_init+skip_connection", "lsuv", "xavier_init", "orthogonal_init", "norm_layer"),
    "depth": ("he_init", "lsuv", "he_init+skip_connection", "norm_layer+skip_connection", "residual_scale"),
    "recurrence": (
        "clip_norm=1.0", "orthogonal_init", "truncated_bptt", "clip_norm=0.1", "gated_rnn", "gated_rnn+clip_norm=1.0",
    ),
    "unnormalised_data": ("normalise_input", "normalise_input+normalise_target", "clip_norm=1.0", "lower_lr=0.01"),
    "data_outlier": ("skip_batch", "impute_data", "skip_spike=10", "skip_step", "clip_norm=1.0"),
    "numeric_op": ("eps_in_op", "mask_fix", "skip_step", "zero_nan"),
    "low_precision": ("higher_eps=1e-4", "loss_scale", "precision", "skip_step"),
    "accumulation_bug": ("zero_grad",),
    "optimizer_state": ("optimizer_defaults", "lower_beta2", "higher_eps"),
    "activation": ("activation_swap", "xavier_init", "norm_layer", "he_init+skip_connection"),
    "missing_norm": ("norm_layer", "norm_layer+skip_connection", "residual_scale"),
    "residual_scaling": ("residual_scale", "norm_layer", "lower_lr=0.1"),
    "attention_logits": ("qk_norm", "logit_scaling", "lower_lr=0.1"),
    "sequence_length": ("truncated_bptt", "clip_norm=1.0", "clip_norm=0.1"),
    "loss_scale_bug": ("loss_reduction", "loss_scale", "lower_lr=0.01", "clip_norm=1.0"),
}  # fmt: skip
"""What is likely to cure each cause."""

EMPTY = frozenset(
    ["softmax", "safe_softmax", "log_softmax", "logsumexp", "div", "mean", "mul", "nll_loss", "cross_entropy_loss"]
)
"""Operations that break where a mask leaves nothing over; among those with a pole, only a division does."""

BATTERY = ("clip_norm=1.0", "lower_lr=0.1", "skip_step")
"""Tried on every patient: each speaks for or against most causes, whatever its outcome."""


def first_arms(case: Case) -> list[str]:
    """The control, then arms by the likelihood of the causes they are for."""
    arms = [CONTROL]
    for suspicion in suspect(case):
        arms += [arm for arm in ARMS.get(suspicion.cause, ()) if fits(case, arm)]
    arms += BATTERY
    if case.at_once:
        arms.append("zero_nan")
    if case.evidence.unusual:
        arms.append("optimizer_defaults")
    if case.evidence.saturating:
        arms.append("activation_swap")
    if case.evidence.half:
        arms += ["precision", "clip_value=0.5"]
    if case.losses and case.losses[0] > LARGE:
        arms.append("normalise_target")
    return list(dict.fromkeys(arms))


def fits(case: Case, arm: str) -> bool:
    """Whether the evidence leaves something for the arm to act on."""
    origin = case.evidence.origin
    match arm:
        case "mask_fix":
            return origin is not None and origin.op in EMPTY
        case "eps_in_op":
            return origin is not None and (origin.op not in EMPTY or origin.op == "div")
        case "impute_data":
            return origin is not None and origin.stage == "data" and origin.op != "batch"
        case "loss_scale":
            return bool(case.evidence.half)
        case "higher_eps=1e-4":  # float16 holds no 1e-8: Adam divides by zero
            return origin is not None and origin.stage == "update" and "float16" in case.evidence.half
        case "gated_rnn" | "gated_rnn+clip_norm=1.0":
            return any(kind in ("RNN", "RNNCell") for kind in case.evidence.recurrent)
        case "residual_scale" | "he_init+skip_connection" | "norm_layer+skip_connection":
            return case.evidence.depth is None or case.evidence.depth >= DEEP
        case _:
            return True


def more_arms(case: Case, outcomes: Sequence[Outcome]) -> list[str]:
    """What the outcomes so far suggest on top: lower values, other initialisations, pairs."""
    done = {outcome.remedy: outcome for outcome in outcomes}
    arms: list[str] = []

    def failed(*remedies: str) -> bool:
        return all(remedy in done and done[remedy].outcome != "learning" for remedy in remedies)

    if "clip_norm=1.0" in done and not case.at_once:
        arms += ["clip_norm=0.1"] if failed("clip_norm=1.0") else ["clip_norm=0.5"]
    if failed("clip_norm=1.0") and done["clip_norm=1.0"].outcome == "finite_not_learning":
        arms.append("clip_norm=1.0+lower_lr=0.1")
    if failed("lower_lr=0.1"):
        arms.append("lower_lr=0.01")
    if failed("lower_lr=0.1", "lower_lr=0.01") and not case.at_once:
        arms.append("lower_lr=0.001")
    if failed("lower_lr=0.1") or failed("clip_norm=1.0"):
        arms.append(f"warmup={max(10, case.record.num_steps // 5)}")
    if failed("skip_step", "clip_norm=1.0"):
        arms.append("clip_norm=1.0+skip_step")
    if failed("clip_norm=1.0", "clip_norm=0.1"):
        arms.append("clip_value=0.5")
    if failed("normalise_input") or failed("normalise_target"):
        arms.append("normalise_input+normalise_target")
    if failed("eps_in_op"):  # the pole is gone, and what drove the numbers into it is not
        arms += ["eps_in_op+normalise_input", "eps_in_op+lower_lr=0.1"]
    if failed("zero_grad") and not done["zero_grad"].idle:  # no longer added up, and still too large
        arms += ["zero_grad+lower_lr=0.1", "zero_grad+clip_norm=1.0"]
    if failed("skip_spike=10"):
        arms.append("clip_norm=0.1")
    if not any(outcome.outcome == "learning" for outcome in outcomes) and case.early:
        arms += ["he_init", "lsuv", "xavier_init", "orthogonal_init", "norm_layer"]
        arms += ["orthogonal_init+clip_norm=1.0", "he_init+lower_lr=0.1", "qk_norm", "logit_scaling"]
        arms += [arm for arm in ("he_init+skip_connection", "residual_scale") if fits(case, arm)]
    if not any(outcome.outcome == "learning" for outcome in outcomes):
        so_far, planned = replace(case, outcomes=tuple(outcomes)), set[str]().union(*map(names, first_arms(case)))
        arms += [name for name in usual(so_far, suspect(so_far)) if name in REMEDIES and name not in planned]
    return [arm for arm in dict.fromkeys(arms) if arm not in done]


def usual(case: Case, suspicions: Sequence[Suspicion]) -> dict[str, str]:
    """Cure -> the one of the two likeliest causes that it is usual against, of those that no arm has tried; whether or
    not a trial can."""
    cures = {cause.name: cause.cures for cause in CAUSES}
    tried = {name for outcome in case.outcomes for name in names(outcome.remedy)}
    found: dict[str, str] = {}
    for cause in [suspicion.cause for suspicion in suspicions[:2] if suspicion.confidence >= DOUBT]:
        for name in cures.get(cause, ()):
            if name not in tried and fits(case, name):
                found.setdefault(name, cause)
    return found


def names(arm: str) -> set[str]:
    """The remedies of an arm, without their values."""
    return {part.partition("=")[0] for part in parts(arm)}


def deeds(arm: str) -> set[str]:
    """All that an arm does: its remedies with their values, and what these do beside.

    >>> sorted(deeds("skip_spike=10")), deeds("skip_step") < deeds("skip_spike=10")
    (['skip_spike=10', 'skip_step'], True)
    """
    return {*parts(arm), *(each for remedy in parse(arm) for each in getattr(remedy, "INCLUDES", ()))}


def invasiveness(remedy: str) -> int:
    """How deep the deepest part of an arm goes."""
    return max((int(part.invasive) for part in parse(remedy)), default=0)
