"""Targets of mean zero and deviation one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.remedy import Invasive
from gradbelt.supervise import doors
from gradbelt.supervise.calls import Call, intercept, is_float, note

if TYPE_CHECKING:
    from torch import Tensor

    from gradbelt.remedies.standard import Standard
    from gradbelt.supervise.patient import Patient

RESIDUAL = "_gradbelt_residual"
POWERS = {"mse_loss": 2, "pow": 2, "square": 2, "l1_loss": 1, "abs": 1, "absolute": 1}
"""Losses -> the power of the targets' unit that they are in; others are in no power of it."""


@dataclass(frozen=True, slots=True)
class NormaliseTarget:
    """The model learns (y - mean) / deviation; its outputs are put back on the scale of y before the loss is told.

    The gradient is that of the standardised loss, the number that the script sees, prints and is judged by that of the
    unstandardised one. Seen are mse, l1, smooth l1 and huber losses, and squares and absolute values of `prediction -
    target`. Other uses of the model's outputs get standardised numbers. Targets of usual size are left as they are.
    """

    name: ClassVar[str] = "normalise_target"
    invasive: ClassVar[Invasive] = Invasive.DATA
    SOURCE: ClassVar[str] = "LeCun et al. 1998, Efficient BackProp, 4.5; van Hasselt et al. 2016, arXiv 1602.07714"
    EDIT: ClassVar[str] = "y = (y - mean) / std for training, prediction * std + mean afterwards"

    def fit(self, patient: Patient) -> None:
        import torch
        from torch.nn import functional

        from gradbelt.remedies.standard import Standard

        deeds = patient.deeds(
            self.name, otherwise="no regression loss with targets of unusual size was seen", soon=True
        )
        by_line: dict[str, set[tuple[Standard, str, bool]]] = {}
        known: dict[tuple[int, ...], Standard | None] = {}

        def standard(pair: tuple[Tensor, Tensor], *, aim: Tensor | None) -> Standard | None:
            """What is known of targets of this shape; learnt from `aim`, where a loss is trained on."""
            shape = pair[1].shape[1:]
            if aim is not None and shape not in known:
                first = Standard(aim, aim.dim() - 1 if aim.dim() > 1 else None)
                known[shape] = None if first.usual else first
            elif aim is not None and (held := known[shape]) is not None:
                held.see(aim)
            return known.get(shape)

        def told(call: Call, held: Standard, prediction: Tensor, aim: Tensor, loss: Any) -> Tensor:
            """The value of one loss with the gradient of the other."""
            learnt = torch.is_grad_enabled() and prediction.requires_grad
            note(deeds, "targets standardised", call, prediction)
            by_line.setdefault(call.where or "", set()).add((held, call.name, learnt))
            mean, spread = held.moments(aim)
            with torch.no_grad():
                shown: Tensor = loss(prediction * spread + mean, aim)
            if not learnt:
                return shown
            wanted: Tensor = loss(prediction, (aim - mean) / spread)
            return wanted + (shown - wanted).detach()

        def pair(call: Call) -> tuple[Tensor, Tensor, bool] | None:
            """(prediction, target, whether it is trained on); in evaluation the prediction is taken to come first."""
            if len(call.args) < 2:
                return None
            one, other = call.args[:2]
            if call.name == "__rsub__":
                one, other = other, one
            if not (is_float(one) and is_float(other)) or not one.numel():
                return None
            found = doors.at_loss(call)
            if found is None:
                return None if one.requires_grad or other.requires_grad else (one, other, False)
            return (one, other, True) if found[1] is other else (other, one, True)

        def loss(call: Call) -> Any:
            met = pair(call)
            held = None if met is None else standard(met[:2], aim=met[1] if met[2] else None)
            if met is None or held is None:
                return call.run()
            return told(call, held, met[0], met[1], lambda a, b: call.run(a, b))

        def difference(call: Call) -> Any:
            result = call.run()
            met = pair(call)
            if met is not None and result.dim() and (met[2] or known):
                setattr(result, RESIDUAL, (*met, call.ways(met[0])))
            return result

        def power(call: Call) -> Any:
            met = getattr(call.args[0], RESIDUAL, None)
            if met is None or (call.name == "pow" and call.get(1, "exponent") != 2):
                return call.run()
            prediction, aim, learnt, ways = met
            held = standard((prediction, aim), aim=aim if learnt else None)
            if held is None:
                return call.run()
            each = functional.l1_loss if call.name in ("abs", "absolute") else functional.mse_loss
            shown = told(call, held, prediction, aim, lambda a, b: each(a, b, reduction="none"))
            deeds.facts["targets standardised", call.where or ""]["ways"] = ways
            return shown

        def tell() -> None:
            for where, seen in by_line.items():
                facts = deeds.facts["targets standardised", where]
                facts["trained"] = any(learnt for _, _, learnt in seen)
                if len({(held, name) for held, name, _ in seen}) == 1:
                    held, name, _ = next(iter(seen))
                    facts.update(held.constants(), power=POWERS.get(name))

        patient.at_end.append(tell)
        intercept(
            patient,
            {
                **dict.fromkeys(doors.REGRESSIONS, loss),
                **dict.fromkeys(doors.DIFFERENCES, difference),
                **dict.fromkeys(("pow", "square", "abs", "absolute"), power),
            },
        )
