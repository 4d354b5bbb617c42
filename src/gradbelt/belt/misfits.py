"""What the buckle check can find, in sentences; and what it found in a recorded run. Loads no torch."""

from __future__ import annotations

from typing import Any

from gradbelt._told import Told
from gradbelt._types import Misfit, RunRecord

EVENT = "buckle"  # the kind of event under which the black box keeps a misfit


def _(template: str) -> str:
    return template


SENTENCES = {
    "clip_after_step": _(
        "gradients are clipped after optimizer.step() has used them, which has no effect; clip between backward() and "
        "step()"
    ),
    "clip_before_unscale": _(
        "clip_grad_norm_ sees gradients that the loss scaler still multiplies by {scale}, so its threshold acts as "
        "{limit} / {scale}; call scaler.unscale_(optimizer) before it"
    ),
    "step_on_scaled": _(
        "optimizer.step() uses gradients that the loss scaler still multiplies by {scale}; call scaler.step(optimizer) "
        "instead"
    ),
    "never_zeroed": _(
        "the gradients of each step are still there at the next and add up; call optimizer.zero_grad() before "
        "backward()"
    ),
    "step_in_backward": _(
        "the optimizer steps inside the backward pass, on {count} of the gradients at a time: what was clipped is not "
        "the total norm; clip each parameter by itself (each, agc, value), or step after backward()"
    ),
    "raw_gradients": _(
        "{function} was given gradients, not parameters, and clips nothing; pass the parameters that have them"
    ),
    "double_clip": _(
        "the gradients reach the belt clipped already, to a total norm of {norm}: of two thresholds the tighter one "
        "acts; leave one of them out"
    ),
    "unheld_parameters": _(
        "parameters get gradients but no optimizer known here holds them ({count}, first {name}): they don't move and "
        "are in no norm; if that is meant, requires_grad_(False) saves the work"
    ),
    "ranks_disagree": _(
        "for the same parameters with the same values the total norm is {here} on rank {rank} and {there} on rank "
        "{other}: gradients aren't averaged over the ranks, and each clips by a norm of its own; "
        "DistributedDataParallel averages them"
    ),
    "clip_never_acts": _(
        "for information: clipping at {limit} acted at none of the first {steps} steps; the largest norm was {largest}"
    ),
    "clip_always_acts": _(
        "for information: clipping acted at {count} of the first {steps} steps, so the threshold, not the gradient, "
        "sets the length of the step; that can be meant, else raise the threshold"
    ),
    "graph_grows": _(
        "the graph behind the loss grows from step to step, from {before} operations at its backward pass {early} to "
        "{now} at {late}: something of earlier steps, a hidden state perhaps, still carries its graph; detach() it"
    ),
    "graphs_kept": _(
        "the graphs of the first {count} losses are all still in memory at backward pass {late}: something keeps the "
        "losses themselves, as total += loss does; keep loss.item() or loss.detach()"
    ),
    "nan_overwritten": _(
        "{function} stands between the loss and its backward pass, so a nan in it is written over before anybody sees "
        "it: a step that broke looks like any other; look at the loss before, or mask what may be missing"
    ),
    "nan_not_shown": _(
        "the script prints a loss of {shown}, while the losses of the last {count} steps were all nan or inf: what is "
        "printed leaves them out (a mean that passes nan over, a nan_to_num, a value from before)"
    ),
}
"""Kind -> what was seen, what it means, what to do."""


def misfit(kind: str, step: int, **params: Any) -> Misfit:
    """One of the sentences, filled in.

    >>> misfit("raw_gradients", 0, function="clip_grad_norm_").message[:44]
    'clip_grad_norm_ was given gradients, not par'
    """
    return Misfit(kind=kind, step=step, message=Told(SENTENCES[kind], params))


def params_of(found: Misfit) -> dict[str, Any]:
    """What its sentence was filled in with: enough to say it again, in another language too."""
    return dict(found.message.params) if isinstance(found.message, Told) else {}


def misfits_of(record: RunRecord) -> tuple[Misfit, ...]:
    """Those that the watched run left in its black box, in the order they were found; each kind once."""
    found: dict[str, Misfit] = {}
    for event in record.events:
        kind = str(event.data.get("misfit", ""))
        if event.kind != EVENT or kind in found:
            continue
        told = event.data.get("params")
        message: str = event.message
        if kind in SENTENCES and isinstance(told, dict):
            message = Told(SENTENCES[kind], told)
        found[kind] = Misfit(kind=kind, step=event.step, message=message)
    return tuple(found.values())
