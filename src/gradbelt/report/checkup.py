"""A checkup in a terminal and as JSON, schema 1."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from rich.text import Text

from gradbelt._told import say, tell
from gradbelt.examine.checkup import Checkup, Look
from gradbelt.examine.foresee import times
from gradbelt.examine.profiles import Trend
from gradbelt.report.console import because, indented, on_paper, text_of, two_columns
from gradbelt.report.sentences import clip_sentence, printable
from gradbelt.report.words import CAUSE, called, figure


def render_checkup(
    script: str, look: Look, found: Checkup, *, lang: str = "en", color: bool = False, width: int = 96
) -> str:
    """What was found, the profiles behind it and the advice on clipping; ends in a newline."""
    console = on_paper(color, width)
    count = len(found.risks)
    if not count:
        head, colour = tell("{script}: nothing speaks for an explosion", script=printable(script)), "green"
    elif count == 1:
        head, colour = tell("{script}: one finding", script=printable(script)), "red"
    else:
        head, colour = tell("{script}: {count} findings", script=printable(script), count=count), "red"
    console.print(Text.assemble(("gradbelt", "bold"), ": ", (say(head, lang), f"bold {colour}")), soft_wrap=True)
    rows = two_columns()
    for risk in found.risks:
        what = say(risk.what, lang)
        text = f"{risk.module}: {what}" if risk.module else what
        rows.add_row(say(tell("found"), lang), Text(printable(text)))
        rows.add_row("", Text(f"{called(risk.cause, CAUSE, lang)}; {say(risk.follows, lang)}", style="dim"))
    for name, line in ((tell("forward"), found.forward), (tell("backward"), found.backward)):
        if line is not None:
            rows.add_row(say(name, lang), Text(say(_profile(line), lang)))
    if found.norm is not None:
        first = tell("gradient norm {norm}", norm=figure(found.norm))
        if look.loss is not None:
            first = tell("loss {loss}, gradient norm {norm}", loss=figure(look.loss), norm=figure(found.norm))
        if look.moves:
            first = tell("{first}; largest update {move} of its weights", first=first, move=_move(look))
        rows.add_row(say(tell("step 0"), lang), Text(say(first, lang)))
    rows.add_row(say(tell("clip"), lang), Text(say(clip_sentence(found.clip), lang) + because(found.clip.why, lang)))
    console.print(indented(rows))
    return text_of(console)


def write_checkup(script: str, look: Look, found: Checkup) -> str:
    """The same as data. Numbers that are not finite are null."""
    value = {
        "schema": 1,
        "script": script,
        "risks": [asdict(risk) for risk in found.risks],
        "module": found.module,
        "clip": {"needed": found.clip.needed, "threshold": found.clip.threshold, "why": found.clip.why},
        "forward": _trend(found.forward),
        "backward": _trend(found.backward),
        "norm": found.norm,
        "float16_headroom": found.headroom,
        **asdict(look),
    }
    return json.dumps(_finite(value), indent=1, ensure_ascii=False)


def _profile(line: Trend) -> str:
    return tell(
        "{rate} a layer, {layers} layers: {total}",
        rate=f"{line.rate:.2f}", layers=line.num_steps, total=times(line.log_total),
    )  # fmt: skip


def _move(look: Look) -> str:
    moves = list((look.moves or {}).values())
    return figure(max(moves) if all(map(math.isfinite, moves)) else math.nan)


def _trend(line: Trend | None) -> dict[str, Any] | None:
    return None if line is None else {**asdict(line), "total": line.total}


def _finite(value: Any) -> Any:
    """
    >>> _finite({"a": (1.0, float("nan"))})
    {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
