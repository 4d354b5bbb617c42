"""A way past each of many layers in a row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from gradbelt.remedies.each_model import first, paths, pretrained, rehearsed
from gradbelt.remedies.remedy import Invasive

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gradbelt.supervise.patient import Patient
    from gradbelt.supervise.rehearse import Block, Call, Course

WHAT = "way around a block"


@dataclass(frozen=True, slots=True)
class SkipConnection:
    """x + f(x) / sqrt(L) instead of f(x), around each of L blocks in a row that keep their input's shape.

    A block is a module that the model repeats; where it repeats none, a hidden linear or convolution layer. However
    many there are, the signal grows by no more than sqrt(e) where f keeps its variance: together with norm_layer or an
    initialisation, the cure for depth. Leaves alone what has a skip connection already, blocks side by side, layers
    that run more than once, the output layer, and a model that was loaded from a checkpoint.
    """

    name: ClassVar[str] = "skip_connection"
    invasive: ClassVar[Invasive] = Invasive.ARCHITECTURE
    SOURCE: ClassVar[str] = "He et al. 2016, arXiv 1512.03385; the factor: Arpit et al. 2019, arXiv 1906.02341"
    EDIT: ClassVar[str] = "x = x + block(x) / math.sqrt(len(blocks)) instead of x = block(x)"

    def fit(self, patient: Patient) -> None:
        loaded = pretrained(patient)

        def act(course: Course, _again: Any) -> int:
            if any(module in loaded for module in course.root.modules()):
                return 0
            found = [module for module in in_a_row(course) if first(module, self.name)]
            for module in found:
                module.register_forward_hook(Past(1.0 / math.sqrt(len(found))))
            if found:
                deeds.facts[WHAT, ""] = {"layers": paths(course.root, found)}
            return len(found)

        nothing = "no blocks in a row that keep their input's shape, in a model that starts untrained"
        deeds = rehearsed(patient, self.name, act, what=WHAT, nothing=nothing)


@dataclass(frozen=True, slots=True)
class Past:
    """A forward hook; a class of its own, so that a model that wears it can be pickled."""

    scale: float

    def __call__(self, _block: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if not args or getattr(args[0], "shape", None) != output.shape:
            return None  # another shape than at the first forward: as the script has it
        return args[0] + output * self.scale  # type: ignore[no-any-return]


def in_a_row(course: Course) -> list[nn.Module]:
    """The modules to go around, outermost first; none where there is only one."""
    branches = course.branches()
    passed = {id(branch.trunk.origin()) for branch in branches}
    bypassed = {id(call) for branch in branches for call in branch.inside}
    residual = [block for block in course.blocks if block.source and id(block.source.origin()) in passed]
    taken = {id(block.module) for block in residual} - {id(course.root)}
    blocks: list[Block] = []
    for kin in _repeated(course):
        free = [block for block in kin if not _within((*block.outer, block.module), taken)]
        free = [block for block in free if id(block.result) not in bypassed]
        row = [block for block in free if _has_kin(course, block, free)]
        blocks += row
        taken |= {id(block.module) for block in row}
    layers = [
        call
        for call in course.layers()
        if call.given == call.made
        and id(call) not in bypassed
        and not _within(call.within, taken)
        and all(each.is_activation or each.holds or each.is_norm for each in call.followers())
    ]
    modules = [block.module for block in blocks]
    modules += [call.module for call in layers if call.module and _follows_or_leads(course, call, layers)]
    return modules if len(modules) > 1 else []


def _repeated(course: Course) -> list[list[Block]]:
    """Blocks that run once, hold layers and keep their input's shape, those of one kind together; outermost first."""
    runs: dict[int, int] = {}
    for block in course.blocks:
        runs[id(block.module)] = runs.get(id(block.module), 0) + 1
    kinds: dict[Any, list[Block]] = {}
    for block in sorted(course.blocks, key=lambda block: len(block.outer)):
        shapes = tuple(parameter.shape for parameter in block.module.parameters())
        if (
            block.module is not course.root
            and runs[id(block.module)] == 1
            and block.given is not None
            and block.given == block.made
            and any(len(shape) >= 2 for shape in shapes)
            and block.source is not None
            and block.result is not None
            and not course.is_head(block.result)
        ):
            kinds.setdefault((type(block.module), block.given, shapes), []).append(block)
    return [kin for kin in kinds.values() if len(kin) > 1]


def _within(outer: tuple[nn.Module, ...], taken: set[int]) -> bool:
    return any(id(module) in taken for module in outer)


def _has_kin(course: Course, block: Block, kin: list[Block]) -> bool:
    """Whether one of the others feeds it or is fed by it."""
    return any(_feeds(course, block, other) or _feeds(course, other, block) for other in kin if other is not block)


def _feeds(course: Course, one: Block, other: Block) -> bool:
    if one.result is None or other.source is None:
        return False
    return one.result is other.source or course.leads_to(one.result, other.source)


def _follows_or_leads(course: Course, call: Call, others: list[Call]) -> bool:
    return any(course.leads_to(call, each) or course.leads_to(each, call) for each in others if each is not call)
