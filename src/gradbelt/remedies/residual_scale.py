"""Residual branches that start small."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.each_model import first, paths, pretrained, rehearsed
from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from torch import nn

    from gradbelt.supervise.patient import Patient
    from gradbelt.supervise.rehearse import Branch, Course

WHAT = "branch scaled"


@dataclass(frozen=True, slots=True)
class ResidualScale:
    """The last layer of each of N residual branches starts 1 / sqrt(N) as large as the script has it.

    Where branches keep their input's size, each sum multiplies the variance by two; so scaled, all of them together by
    e. The sums are seen in the model's first forward: a value, and what layers made of it. A norm that ends a
    branch has its gain scaled. Leaves alone what came from a checkpoint, tied weights, and a branch whose last layer
    is none of torch's own.
    """

    name: ClassVar[str] = "residual_scale"
    invasive: ClassVar[Invasive] = Invasive.INITIALISATION
    SOURCE: ClassVar[str] = "GPT-2 (Radford et al. 2019, section 2.3); Zhang et al. 2019 (Fixup), arXiv 1901.09321"
    EDIT: ClassVar[str] = "multiply the initial weight of each residual branch's last layer by 1 / math.sqrt(N)"

    def fit(self, patient: Patient) -> None:
        loaded = pretrained(patient)

        def act(course: Course, _again: Any) -> int:
            from torch import no_grad

            from gradbelt.supervise.rehearse import tied

            branches, shared = course.branches(), tied(course.root)
            ends = dict.fromkeys(filter(None, map(last_layer, branches)))
            own = [end for end in ends if end not in loaded and not any(id(p) in shared for p in end.parameters())]
            own = [end for end in own if first(end, self.name)] if len(branches) > 1 else []
            factor = 1.0 / math.sqrt(max(1, len(branches)))
            with no_grad():
                for end in own:
                    for parameter in end.parameters():
                        parameter.mul_(factor)
            if own:
                deeds.facts[WHAT, ""] = {"layers": paths(course.root, own), "factor": factor}
            return len(own)

        nothing = "no residual branches that start untrained"
        deeds = rehearsed(patient, self.name, act, what=WHAT, nothing=nothing)


def last_layer(branch: Branch) -> nn.Module | None:
    """The layer or norm whose size is the branch's: nothing but activations and factors comes after it."""
    from torch import nn

    inside = set(map(id, branch.inside))
    call = branch.end
    while id(call) in inside:
        module = call.module
        if isinstance(module, nn.MultiheadAttention):
            return module.out_proj
        if module is not None and (call.is_layer or call.is_norm) and next(module.parameters(), None) is not None:
            return module if isinstance(module._parameters.get("weight"), nn.Parameter) else None
        before = [operand for operand in call.operands if operand is not None]
        if call.holds or len(before) != 1:
            return None
        call = before[0]
    return None
