"""What a first step says about the training to come: Look -> Checkup, with every limit and where it comes from.

A risk is a consequence that was measured (sizes that grow layer by layer, logits out of range, an update larger than
the weights), never an unusual number alone; odd scales are only named as what explains one. Limits come from the
project's own experiments unless a source is named.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from gradbelt._told import Told, tell
from gradbelt._types import ClipAdvice, Risk
from gradbelt.clip.advice import typed
from gradbelt.examine.checkup import Checkup, Layer, Look
from gradbelt.examine.profiles import Trend, chance, trend, trivial_loss

GROWN = 30.0
"""Total growth over the layers, or over a recurrence, above which a network is in danger if the line through the
logarithms fits by `FIT`. In the project's own scan of 88 runs no healthy network crossed both."""
FIT = 0.7
LOCAL = 1.25  # a gain above this a layer is the initialisation's, below it the depth's
NOMINAL = 1.5  # weights over He's standard deviation: beyond, they were drawn too large
FLAT = 1.03  # a forward gain this close to 1 is held by saturation or a norm
DEEP = 10  # layers from which small gains multiply up
JUMP = 100.0  # gain of one layer alone
LOGIT = 50.0  # at the first step: nothing was learned yet, so nothing can be that certain
CHANCE = 3.0  # times the cross-entropy of knowing nothing
LARGE = 30.0  # RMS of inputs and targets that were not normalised
SPREAD = 100.0  # largest over median standard deviation of an input's columns
MOVE = 1.0  # first update over the norm of the weights
OVERSHOOT = 1.0  # times what an update was to lower its own batch's loss by: more of a rise is a danger
MANY = 16  # numbers that a loss adds up
SIZEABLE = 5.0  # RMS of inputs that explains an update which overshoots; nothing by itself
HALF = 65504.0  # the largest float16
BY_CHANCE = math.log(10.0) / 2  # one deviation of the log norm at which norms differ tenfold within two


def foresee(look: Look, norm: float | None) -> Checkup:
    """The checkup of a look, and of the first step's total gradient norm before any clip."""
    chain = tuple(layer for layer in look.layers if layer.run == 0)
    forward, backward = profiles(chain)
    structural = [risk for risk in (recurrence(look), growth(look, chain, forward, backward)) if risk is not None]
    # every explosion has wild logits and updates too: only where nothing multiplies up are they the finding
    # and what broken numbers do to the weights is no finding of its own
    rest = (attention, logits, nonfinite, overshoot, update)
    risks = structural or [risk for risk in (rule(look) for rule in rest) if risk is not None][:1]
    if (bad := broken_data(look)) is not None:
        risks = [bad]
    peak = max((layer.peak for layer in look.layers if layer.peak == layer.peak), default=0.0)
    return Checkup(
        risks=tuple(risks),
        clip=advise(look, chain, risks, norm),
        forward=forward,
        backward=backward,
        norm=norm,
        headroom=HALF / peak if 0 < peak < math.inf else None,
    )


def profiles(chain: Sequence[Layer]) -> tuple[Trend | None, Trend | None]:
    """How values grow from layer to layer, and gradients from the last layer to the first.

    Values by RMS, so that width doesn't count; gradients by their total norm, for the same reason.
    """
    if not chain:
        return None, None
    if chain[0].made != chain[0].made:  # nothing was put through: what He's theory of ReLU layers says of the weights
        sizes = [1.0]
        for layer in chain:
            sizes.append(sizes[-1] * (layer.he or math.nan))
        return trend(sizes), None
    back = [layer.grad for layer in reversed(chain) if layer.grad is not None]
    return trend([chain[0].given, *(layer.made for layer in chain)]), trend(back)


def is_grown(line: Trend | None, widths: Sequence[int] = ()) -> bool:
    """Whether sizes have grown beyond `GROWN` along a line, and twice beyond what the draw of weights can do."""
    return line is not None and line.log_total > max(math.log(GROWN), 2 * chance(widths)) and line.fit > FIT


def growth(look: Look, chain: Sequence[Layer], forward: Trend | None, backward: Trend | None) -> Risk | None:
    """C1, C2, C3 and C6: gains that multiply up over the layers."""
    widths = [layer.width for layer in chain[:-1]]  # the output's own draw multiplies nothing up
    static = bool(chain) and chain[0].made != chain[0].made
    if static and (look.num_norms or look.recurrent or look.attention):
        return None  # weights alone say little about layers that a norm scales
    line = next((each for each in (backward, forward) if is_grown(each, widths)), None)
    if line is None:
        return alone(chain)
    ratios = [layer.he for layer in chain if layer.he is not None]
    large = next((layer for layer in chain if layer.he is not None and layer.he > NOMINAL), None)
    typical = sorted(ratios)[len(ratios) // 2] if ratios else 0.0
    layers = line.num_steps
    along = tell("gradients grow") if line is backward else tell("values grow")
    what = tell(
        "{along} by {rate} a layer, {layers} layers: {total}",
        along=along, rate=f"{line.rate:.2f}", layers=layers, total=times(line.log_total),
    )  # fmt: skip
    if look.num_skips and not look.num_norms:
        cause = "residual_scaling"
        follows = tell("scale the residual branches by 1/sqrt(2 x blocks), or normalise inside them")
    elif look.num_norms and line.rate < LOCAL:
        cause, follows = "depth", tell("put a skip connection around every block")
    elif line is backward and forward is not None and 1 / FLAT < forward.rate < FLAT:
        cause, follows = "activation", tell("values stay flat while gradients grow: change the activation, or its gain")
    elif typical > NOMINAL and line.rate > LOCAL:
        cause = "init"
        follows = tell("weights are {ratio} times He's; draw them anew (he_init, lsuv)", ratio=f"{typical:.3g}")
    else:
        cause, follows = "depth", tell("add skip connections or normalisation, or use fewer layers")
    module = large if cause == "init" and large is not None else chain[0]
    return Risk(cause=cause, module=module.name, value=line.total, limit=GROWN, what=what, follows=follows)


def alone(chain: Sequence[Layer]) -> Risk | None:
    """C2 in one place: a single layer that makes its input a hundred times larger."""
    for layer in chain:
        if layer.given > 0 and layer.made / layer.given > JUMP and (layer.he or 0.0) > NOMINAL:
            gain = layer.made / layer.given
            return Risk(
                cause="init", module=layer.name, value=gain, limit=JUMP,
                what=tell("this layer makes its input {gain} times larger", gain=f"{gain:.3g}"),
                follows=tell("weights are {ratio} times He's; draw them anew (he_init, lsuv)", ratio=f"{layer.he:.3g}"),
            )  # fmt: skip
    return None


def recurrence(look: Look) -> Risk | None:
    """C4: the gradient grows with the time it travels back."""
    module, sizes = look.lags_of, look.lags
    if not sizes:
        often = max(look.layers, key=lambda layer: layer.run, default=None)
        if often is None or often.run < 4:
            return None
        module = often.name
        sizes = tuple(layer.grad for layer in reversed(look.layers) if layer.name == module and layer.grad is not None)
    line = trend(sizes)
    if line is None or not is_grown(line):
        return None
    reach = math.ceil(math.log(10.0) / math.log(line.rate))
    return Risk(
        cause="recurrence", module=module, value=line.total, limit=GROWN,
        what=tell(
            "gradients grow by {rate} a time step, {steps} steps: {total}",
            rate=f"{line.rate:.2f}", steps=line.num_steps, total=times(line.log_total),
        ),
        follows=tell(
            "clip, and draw the recurrent weights orthogonal or use gates; cut backpropagation after {reach} steps",
            reach=reach,
        ),
    )  # fmt: skip


def attention(look: Look) -> Risk | None:
    """C7, attention: a softmax that is certain before anything was learned."""
    if look.attended is None or look.attended <= LOGIT:
        return None
    return Risk(
        cause="attention_logits", module=None, value=look.attended, limit=LOGIT,
        what=tell("attention logits reach {value}", value=f"{look.attended:.3g}"),
        follows=tell("normalise queries and keys (qk_norm), or draw their weights smaller"),
    )  # fmt: skip


def logits(look: Look) -> Risk | None:
    """C2 and C7, output: a first loss far above that of a model that knows nothing."""
    if look.cross_entropy is None or look.classes is None or look.classes < 2:
        return None
    trivial = trivial_loss(look.classes)
    if not (look.cross_entropy > CHANCE * trivial and (look.logits or 0.0) > LOGIT):
        return None
    head = look.layers[-1].name if look.layers else None
    raw = scale_of(look)
    return Risk(
        cause="init" if raw is None else "unnormalised_data", module=head, value=look.cross_entropy,
        limit=CHANCE * trivial,
        what=tell(
            "the first loss is {loss}, that of knowing nothing {trivial}; logits reach {logits}",
            loss=f"{look.cross_entropy:.3g}", trivial=f"{trivial:.3g}", logits=f"{look.logits:.3g}",
        ),
        follows=raw or tell("draw the output layer's weights smaller, or start them at zero"),
    )  # fmt: skip


def update(look: Look) -> Risk | None:
    """C5 and C8: a first update larger than the weights it changes, in most of the matrices.

    In one alone it is harmless: a layer that was drawn small, or an optimizer whose first step is its largest.
    """
    moves = look.moves or {}
    worst = max(moves, key=lambda name: _up(moves[name]), default=None)
    if worst is None or statistics.median_low(map(_up, moves.values())) <= MOVE:
        return None
    if look.again and all(after < before for _, share, before, after in look.again if share == 1.0):
        return None  # it was measured: such updates do this training good
    cause, follows = too_long(look)
    return Risk(
        cause=cause, module=worst, value=moves[worst], limit=MOVE,
        what=tell("the first update is {move} times the weights themselves", move=f"{moves[worst]:.3g}"),
        follows=follows or tell("lower the learning rate ({lr}), or warm it up", lr=f"{look.lr or math.nan:.3g}"),
    )  # fmt: skip


def overshoot(look: Look) -> Risk | None:
    """C5: an update that makes the loss of its own batch larger, and by more than it was to make it smaller.

    What it was to do is read off the largest share of it that lowers the loss. An update that overshoots a little is
    nothing to fear: trainings at the edge of stability do so half of the time.

    Not seen: a rate that is too high by its momentum only, which shows after tens of steps. Theory has nothing for the
    first ones: heavy ball is stable up to a curvature of 2(1 + beta)/lr, beyond plain descent's 2/lr, so that it asks
    less of an update, not more. Where the first update would be once momentum has carried it to 1/(1 - beta) times its
    length tells nothing, either: such nets stand 7 to 28 times as far above as they were to fall, but nets with batch
    norm learn well at 4, and a linear model at 13. And later updates overshoot in healthy training, too. Figures:
    benchmarks/results/2026-11-22-cpu-check.md.
    """
    for number in dict.fromkeys(row[0] for row in look.again):
        tried = {share: (before, after) for update, share, before, after in look.again if update == number}
        before, after = tried[1.0]
        if after <= before:
            continue
        share = max((share for share, (_, loss) in tried.items() if loss < before), default=None)
        foretold = (before - tried[share][1]) / share if share is not None else math.nan
        trust = (before - after) / foretold
        if not (trust < -OVERSHOOT or (share is not None and not math.isfinite(after))):
            continue
        cause, follows = too_long(look)
        if share is None:
            less = tell("lower the learning rate, or warm it up")
        elif look.lr:
            less = tell("at a learning rate of {rate} it falls", rate=f"{look.lr * share:.2g}")
        else:
            less = tell("with {share} of that update it falls", share=f"{share:g}")
        return Risk(
            cause=cause, module=None, value=trust, limit=-OVERSHOOT,
            what=tell(
                "update {number} takes the loss of its own batch from {before} to {after}; it was to lower it by "
                "{foretold}",
                number=number, before=f"{before:.4g}", after=f"{after:.4g}", foretold=f"{foretold:.3g}",
            ),
            follows=tell("{reason}; {less}", reason=follows, less=less) if follows else less,
        )  # fmt: skip
    return None


def too_long(look: Look) -> tuple[str, Told | None]:
    """What makes an update too long: a loss that adds up, data of a large scale, else the learning rate, about which
    there is no more to say."""
    if look.summed >= MANY:
        return "loss_scale_bug", tell(
            "the loss adds up {count} numbers: divide it by how many they are", count=look.summed
        )
    raw = scale_of(look, SIZEABLE)
    return ("learning_rate" if raw is None else "unnormalised_data"), raw


def scale_of(look: Look, large: float = LARGE) -> Told | None:
    """C8: what is fed in at a scale that explains large numbers; None where it is normalised."""
    if look.input_rms is not None and look.input_rms > large:
        return tell("inputs have an RMS of {rms}; standardise them", rms=f"{look.input_rms:.3g}")
    if look.input_spread is not None and look.input_spread > SPREAD:
        return tell(
            "one input column spreads {spread} times as far as the others; standardise them",
            spread=f"{look.input_spread:.3g}",
        )
    if look.target_rms is not None and look.target_rms > LARGE:
        return tell("targets have an RMS of {rms}; standardise them", rms=f"{look.target_rms:.3g}")
    return None


def broken_data(look: Look) -> Risk | None:
    """C8: nan or inf in the first batch."""
    if look.input_finite and look.target_finite:
        return None
    what = tell("the first target holds nan or inf") if look.input_finite else tell("the first input holds nan or inf")
    return Risk(
        cause="data_outlier", module=None, value=math.nan, limit=math.inf,
        what=what, follows=tell("find the rows and leave them out, or fill them"),
    )  # fmt: skip


def nonfinite(look: Look) -> Risk | None:
    """C9: numbers that break at once, without having grown."""
    if look.broken is None and (look.loss is None or math.isfinite(look.loss)):
        return None
    what = tell("makes nan or inf out of finite numbers") if look.broken else tell("the first loss is not finite")
    return Risk(
        cause="numeric_op", module=look.broken, value=math.nan, limit=math.inf,
        what=what, follows=tell("gradbelt run finds the operation and its line"),
    )  # fmt: skip


def advise(look: Look, chain: Sequence[Layer], risks: Sequence[Risk], norm: float | None) -> ClipAdvice:
    """Whether this architecture needs clipping, from its kind and its first gradient norm.

    Recurrence over more than three steps is where clipping is the first cure (cliffs are local; Pascanu et al. 2013,
    who clip between half and ten times the average norm). Transformers are trained at 1.0. In a deep network without
    norms, norms differ tenfold from step to step by chance (Hanin and Nica 2018). Gains that multiply up are not cured
    by a clip: it keeps a run finite that does not learn.
    """

    def advice(needed: bool, threshold: float | None, why: Told) -> ClipAdvice:
        return ClipAdvice(needed=needed, threshold=threshold, clip_rate=None, why=why)

    first = typed(norm) if norm is not None and 0 < norm < math.inf else None
    if any(risk.cause not in ("recurrence", "learning_rate", "unnormalised_data") for risk in risks):
        return advice(False, None, tell("a clip would keep it finite, not make it learn; mend what was found first"))
    steps = look.sequence or 0
    if look.recurrent or steps > 3:
        threshold = 1.0 if any(risk.cause == "recurrence" for risk in risks) else first
        return advice(
            True, threshold, tell("recurrent, over {steps} steps", steps=steps) if steps else tell("recurrent")
        )
    if look.attention:
        return advice(True, 1.0, tell("a transformer: single steps reach far above the others; 1.0 is usual"))
    if not look.num_norms and len(chain) >= DEEP and chance([layer.width for layer in chain[:-1]]) > BY_CHANCE:
        return advice(
            True, first, tell("{depth} layers without a norm: steps differ tenfold by chance", depth=len(chain))
        )
    if risks:
        return advice(False, None, tell("mend what was found first; a clip only eases it"))
    if look.num_norms:
        return advice(False, None, tell("normalised, not recurrent, and nothing grows"))
    return advice(False, None, tell("not recurrent, and nothing grows"))


def times(log: float) -> str:
    """A factor given by its natural logarithm, however large.

    >>> times(100 * math.log(1.1)), times(math.log(52)), times(1000 * math.log(10))
    ('1.4e4', '52', '1.0e1000')
    """
    exponent = math.floor(log / math.log(10.0) + 1e-12)
    if exponent < 3:
        return f"{math.exp(log):.2g}"
    mantissa = math.exp(log - exponent * math.log(10.0))
    if mantissa >= 9.95:
        mantissa, exponent = 1.0, exponent + 1
    return f"{mantissa:.1f}e{exponent}"


def _up(value: float) -> float:
    return math.inf if value != value else value
