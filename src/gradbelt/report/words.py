"""What the fixed names are called in a sentence.

Names such as `nan_loss` or `lower_lr=0.1` stay as they are in every language, because users script against them; these
phrases stand beside them.
"""

from __future__ import annotations

import math

from gradbelt._told import Told, say, tell

SYMPTOM = {
    "nan_loss": tell("the loss became NaN"),
    "inf_loss": tell("the loss became infinite"),
    "nan_grad": tell("a gradient became NaN"),
    "inf_grad": tell("a gradient became infinite"),
    "nan_weight": tell("a weight became NaN"),
    "inf_weight": tell("a weight became infinite"),
    "loss_spike": tell("the loss jumped"),
    "divergence": tell("the loss ran away"),
    "stalled": tell("the loss stopped falling"),
    "grad_explosion": tell("the gradients exploded"),
    "grad_vanishing": tell("the gradients vanished"),
    "grad_wall": tell("a gradient lies at a wall: an end of its number format, or the bound of a clip"),
    "dead_units": tell("many units are dead"),
    "saturated": tell("activations are saturated"),
    "logit_growth": tell("the logits keep growing"),
    "clip_saturated": tell("clipping holds the run where it is"),
}

FOLLOWS = {
    "nan_loss": tell("every gradient of it is NaN, and so are the weights of a step that uses one"),
    "inf_loss": tell("its gradients are infinite or NaN, and so are the weights of a step that uses one"),
    "nan_grad": tell("an optimizer that uses it writes it into the weights and into what it remembers"),
    "inf_grad": tell("an optimizer that uses it writes it into the weights and into what it remembers"),
    "inf_grad scale": tell("steps are left out one after the other, and small gradients are lost"),
    "nan_weight": tell("whatever it touches is NaN from here on; the run can't come back by itself"),
    "inf_weight": tell("whatever it touches is not finite from here on; the run can't come back by itself"),
    "loss_spike": tell("most spikes are over within a few steps; if this one stays, the loss has diverged"),
    "divergence": tell("what was learnt is lost; a loss that left so far seldom comes back"),
    "divergence ramp": tell("unless something holds it, the loss goes on by as much again"),
    "divergence activations": tell("unless something holds them, the loss and the gradients grow next"),
    "divergence updates": tell("each step throws away what the ones before have learnt"),
    "stalled": tell("it stays finite, and learns nothing more"),
    "grad_explosion": tell("one such step can undo what was learnt; whether it did shows in the loss"),
    "grad_explosion ramp": tell("unless something holds it, the loss leaves next"),
    "grad_explosion growth": tell("what was learnt at the old size may be lost; whether it is shows in the loss"),
    "grad_vanishing": tell("the layers that it does not reach stay as they were drawn"),
    "grad_wall": tell("its direction means nothing, and the overflow behind it goes on unseen"),
    "grad_wall pile": tell("the update takes another direction; clipping by norm keeps it, and so does a wider bound"),
    "grad_wall underflow": tell("what is smaller becomes 0 and is not learnt from; a GradScaler lifts it, or bfloat16"),
    "dead_units": tell("they never learn again: no gradient comes back through them"),
    "saturated": tell("what lies before it hardly learns"),
    "logit_growth": tell("one choice takes all, and no gradient comes back to the others"),
    "clip_saturated": tell("the run stays where it is at this threshold"),
}
"""Kind, and its shape where that matters -> what comes of it."""

CAUSE = {
    "depth": tell("too deep for its gradients to pass"),
    "init": tell("weights initialised at the wrong scale"),
    "activation": tell("an activation function that doesn't fit"),
    "recurrence": tell("a recurrence that amplifies"),
    "sequence_length": tell("backpropagation through too many time steps"),
    "learning_rate": tell("learning rate too high"),
    "missing_norm": tell("a normalisation layer is missing"),
    "residual_scaling": tell("residual branches that add up"),
    "attention_logits": tell("attention logits too large"),
    "data_outlier": tell("an outlier in the data"),
    "unnormalised_data": tell("data that is not normalised"),
    "numeric_op": tell("an operation outside its safe range"),
    "low_precision": tell("too little numeric precision or range"),
    "optimizer_state": tell("an optimizer whose state overreacts"),
    "accumulation_bug": tell("gradients that accumulate by mistake"),
    "loss_scale_bug": tell("a loss at the wrong scale"),
    "hardware": tell("a fault of the hardware"),
}

OUTCOME = {
    "nonfinite": tell("not finite"),
    "finite_not_learning": tell("finite, not learning"),
    "learning": tell("learns"),
}
MASKS = tell("masked: clipped at every step, not learning")

STAGE = {
    "forward": tell("forward pass"),
    "backward": tell("backward pass"),
    "update": tell("weight update"),
    "data": tell("data"),
}

LEVEL = {"WATCH": tell("note"), "WARN": tell("warning"), "ALARM": tell("alarm")}

WORK = {"watch": tell("watched run"), "examine": tell("examination"), "trials": tell("trials")}

UNCHANGED = tell("unchanged")
IDLE = tell("nothing to do")


def called(name: str, words: dict[str, Told], lang: str) -> str:
    """The phrase for a name; the name itself where we have none."""
    return say(words[name], lang) if name in words else name


def figure(value: float | None) -> str:
    """A number as a reader wants it: three digits, `NaN` and `inf` by name, a dash where there is none.

    >>> figure(0.52), figure(7), figure(412345.0), figure(float("nan")), figure(None)
    ('0.52', '7', '4.12e+05', 'NaN', '–')
    """
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    return f"{value:.3g}"


def percent(share: float) -> str:
    """
    >>> percent(0.81), percent(0.004)
    ('81 %', '0.4 %')
    """
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def seconds(value: float) -> str:
    """
    >>> seconds(4.12), seconds(75)
    ('4.1 s', '75 s')
    """
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
