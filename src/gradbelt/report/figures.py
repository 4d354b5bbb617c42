"""The page's figures, as plain dictionaries that plotly.js draws.

Colours are written `var(--name)`: the page fills them in from its style sheet, again when the colour scheme changes.
Text is in the reader's language. Points that have no place on an axis (nan, inf) stand at its top edge.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np

from gradbelt._told import say, tell
from gradbelt._types import Floats, RunRecord, StepRecord, Story
from gradbelt.report.sentences import best_first, printable, seen
from gradbelt.report.series import FINITE, INF, NAN, ZERO, Grid, Line, Steps, gradients, grid, scales, sizes, thin
from gradbelt.report.words import UNCHANGED

Figure: TypeAlias = dict[str, Any]

MOST_SYMPTOMS = 300
SHADES = [[i / 4, f"var(--h{i})"] for i in range(5)]
SERIES = tuple(f"var(--s{i})" for i in range(1, 9))
AXIS = {"gridcolor": "var(--grid)", "linecolor": "var(--line)", "zeroline": False, "automargin": True, "ticks": ""}
EDGE = {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True}


def run_figure(story: Story, record: RunRecord, lang: str) -> Figure | None:
    """Symptoms, losses and gradient norms over the steps, on one x axis; None for a run without a step or a loss."""
    losses = _losses(record)
    norms = _norms(record.steps)
    if not losses and not norms:
        return None
    last = max([record.num_steps - 1, *(int(x.max()) for _, x, _ in losses)], default=0)
    several = len(losses) > 1
    data: list[Figure] = []
    lines = []
    for number, (site, x, y) in enumerate(losses):
        line = thin(x, y)
        lines.append(line)
        name = f"{say(tell('loss'), lang)} {plain(site)}" if several else say(tell("loss"), lang)
        data += _curve(line, name, SERIES[number % len(SERIES)], ("y", "y4"))
    several = len(norms) > 1
    norm_lines = []
    for number, (optimizer, x, y) in enumerate(norms):
        line = thin(x, y)
        norm_lines.append(line)
        name = say(tell("gradient norm"), lang) + (f" {optimizer}" if several else "")
        data += _curve(line, name, SERIES[(number + 1 + (len(losses) > 1) * 2) % len(SERIES)], ("y2", "y5"))
        zero = line.x[line.y == 0]
        if zero.size:
            data.append(_marks(zero, 0.03, "y5", say(tell("gradient norm 0"), lang), "triangle-down", "var(--muted)"))
    data += _belt(record.steps, lang)
    data += _symptoms(story, lang)
    shapes, notes = _moments(story, last, lang)
    layout = {
        **_frame(height=560, last=last, lang=lang, axis="y2", top=58 if notes else 30),
        "yaxis": {
            **AXIS,
            "domain": [0.52, 0.93 if story.symptoms else 1],
            "title": {"text": say(tell("loss"), lang)},
            **_scale(lines),
        },
        "yaxis2": {
            **AXIS,
            "domain": [0, 0.46],
            "title": {"text": say(tell("gradient norm"), lang)},
            **_scale(norm_lines),
        },
        "yaxis3": {"domain": [0.93, 1], "range": [0, 1], "visible": False, "fixedrange": True},
        "yaxis4": EDGE,
        "yaxis5": {**EDGE, "overlaying": "y2"},
        "shapes": shapes,
        "annotations": notes,
    }
    label = say(tell("Loss and total gradient norm over {steps} steps", steps=record.num_steps), lang)
    return {"id": "plot-run", "data": data, "layout": layout, "label": label, "height": 560}


def layer_figure(story: Story, record: RunRecord, lang: str) -> Figure | None:
    """A heat map of every parameter's gradient norm (log10); nan, inf and zero have colours of their own."""
    cells = grid(gradients(record.steps))
    label = tell("Gradient norm of {count} parameters over the steps, as a heat map", count=len(cells.names))
    return _heat("plot-layers", cells, label, story, lang)


def activation_figure(story: Story, record: RunRecord, lang: str) -> Figure | None:
    """The same of the scale of every activation, in the order of the forward pass; None where none was sampled."""
    cells = grid(scales(record.steps)).closed_up()
    label = tell("Scale of {count} activations over the steps, as a heat map", count=len(cells.names))
    return _heat("plot-activations", cells, label, story, lang)


def size_figure(story: Story, record: RunRecord, lang: str) -> Figure | None:
    """Where the mass of all gradients lies (log10 of its share), by powers of two; None where no numbers were taken."""
    cells = grid(sizes(record.steps)).closed_up()
    label = tell("Sizes of the gradients' numbers over the steps, as a heat map")
    return _heat("plot-sizes", cells, label, story, lang)


def _heat(name: str, cells: Grid, label: str, story: Story, lang: str) -> Figure | None:
    if not cells.names or not cells.steps.size:
        return None
    rows = len(cells.names)
    height = min(max(150 + 22 * rows, 280), 900)
    every = max(1, math.ceil(rows * 12 / (height - 130)))
    shown = list(range(0, rows, every))
    x, names = cells.steps.tolist(), [plain(name) for name in cells.names]
    finite = cells.level[cells.code == FINITE]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    # the page turns each trace's `names`, one a row, into the `text` of every cell
    hover = "%{text}<br>" + say(tell("step {step}", step="%{x}"), lang)
    data: list[Figure] = [
        {
            "type": "heatmap", "x": x, "y": list(range(rows)), "z": _holes(cells.level),
            "names": names, "colorscale": SHADES, "zmin": low,
            "zmax": max(high, low + 1e-6),
            "hoverongaps": False, "hovertemplate": hover + "<br>log10 %{z:.2f}<extra></extra>",
            "colorbar": {
                "title": {"text": "log₁₀", "side": "right"}, "thickness": 10, "outlinewidth": 0, "len": 1,
                "lenmode": "fraction", "x": 1.01, "tickcolor": "var(--line)",
            },
        }
    ]  # fmt: skip
    for code, colour, what in ((NAN, "var(--nan)", "NaN"), (INF, "var(--inf)", "inf"), (ZERO, "var(--zero)", "0")):
        if np.any(cells.code == code):
            data.append(
                {
                    "type": "heatmap", "x": x, "y": list(range(rows)),
                    "z": _holes(np.where(cells.code == code, 1.0, np.nan)),
                    "colorscale": [[0, colour], [1, colour]], "zmin": 0, "zmax": 1, "showscale": False,
                    "hoverongaps": False,
                    "names": names, "hovertemplate": f"{hover}<br>{what}<extra></extra>",
                }
            )  # fmt: skip
    frame = _frame(height=height, last=int(cells.steps[-1]), lang=lang)
    ticks = {"tickvals": shown, "ticktext": [plain(shorten(cells.names[i], 34)) for i in shown]}
    layout = {
        **frame,
        "hovermode": "closest",
        "showlegend": False,
        "yaxis": {**AXIS, **ticks, "range": [rows - 0.5, -0.5], "showgrid": False, "tickfont": {"size": 11}},
        "shapes": _moments(story, int(cells.steps[-1]), lang)[0],
        "plot_bgcolor": "var(--hole)",
    }
    layout["xaxis"] = {**layout["xaxis"], "showgrid": False}
    narrow = {"yaxis.ticktext": [plain(shorten(cells.names[i].removesuffix(".weight"), 18)) for i in shown]}
    said = say(label, lang)
    return {"id": name, "data": data, "layout": layout, "narrow": narrow, "label": said, "height": height}


def trials_figure(story: Story, lang: str) -> Figure | None:
    """The loss of each trial over its steps; None where no trial has a curve."""
    trials = [trial for trial in best_first(story.trials) if trial.curve]
    if not trials:
        return None
    data: list[Figure] = []
    lines = []
    calm = []
    for number, trial in enumerate(trials):
        steps, values = zip(*trial.curve, strict=True)
        line = thin(np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64), 400)
        lines.append(line)
        if trial.outcome != "nonfinite":
            calm.append(line)
        colour = "var(--muted)" if not trial.remedy else SERIES[(number - 1) % len(SERIES)]
        name = plain(trial.remedy) or say(UNCHANGED, lang)
        data += _curve(line, name, colour, ("y", "y4"), dash="solid" if trial.remedy else "dot")
    last = max(int(step) for trial in trials for step, _ in trial.curve)
    layout = {
        **_frame(height=380, last=last, lang=lang),
        # scaled to what stayed finite: a run that breaks leaves at the top instead of pressing the others flat
        "yaxis": {**AXIS, "title": {"text": say(tell("loss"), lang)}, **_scale(calm or lines, room=3.0)},
        "yaxis4": EDGE,
    }
    label = say(tell("Loss over the steps under each of {count} remedies", count=len(trials)), lang)
    return {"id": "plot-trials", "data": data, "layout": layout, "label": label, "height": 380}


# ------------------------------------------------------------------------------------------------------------- parts


def _losses(record: RunRecord) -> list[tuple[str, Steps, Floats]]:
    """Each loss stream as (call site, steps, values), what came after the last step included."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in record.steps:
        for site, value in row.losses.items():
            points.setdefault(site, []).append((row.step, value))
    for site, value in record.tail.items():
        points.setdefault(site, []).append((record.num_steps, value))
    return [(site, *_columns(pairs)) for site, pairs in points.items()]


def _norms(rows: Sequence[StepRecord]) -> list[tuple[int, Steps, Floats]]:
    points: dict[int, list[tuple[int, float]]] = {}
    for row in rows:
        points.setdefault(row.optimizer, []).append((row.step, row.total))
    return [(optimizer, *_columns(pairs)) for optimizer, pairs in points.items()]


def _columns(pairs: Sequence[tuple[int, float]]) -> tuple[Steps, Floats]:
    return np.array([step for step, _ in pairs], dtype=np.int64), np.array([value for _, value in pairs], dtype=float)


def _curve(line: Line, name: str, colour: str, axes: tuple[str, str], *, dash: str = "solid") -> Iterable[Figure]:
    """A line on `axes[0]`, with its non-finite points on the edge axis over it, `axes[1]`."""
    # plotly drops an axis that carries no trace, and with it what is laid over it, so a line without points gets a gap
    x, y = (line.x.tolist(), line.y.tolist()) if line.x.size else ([0], [None])
    yield {
        "type": "scatter", "mode": "lines+markers" if line.x.size <= 60 else "lines", "name": name, "legendgroup": name,
        "x": x, "y": y, "yaxis": axes[0],
        "line": {"color": colour, "width": 1.8, "dash": dash},
        "marker": {"size": 4, "color": colour}, "hovertemplate": "%{y:.4g}",
    }  # fmt: skip
    for steps, what, symbol, shade in ((line.nan, "NaN", "x", "nan"), (line.inf, "inf", "triangle-up", "inf")):
        if steps.size:
            # in no legend: the mark stands right over its line, and hovering names it
            marks = _marks(steps, 0.96, axes[1], f"{name}: {what}", symbol, f"var(--{shade})")
            yield {**marks, "legendgroup": name, "showlegend": False}


def _marks(steps: Steps, y: float, axis: str, name: str, symbol: str, colour: str) -> Figure:
    return {
        "type": "scatter", "mode": "markers", "name": name, "x": steps.tolist(), "y": [y] * steps.size, "yaxis": axis,
        "marker": {"symbol": symbol, "size": 9, "color": colour, "line": {"width": 1, "color": "var(--card)"}},
        "hovertemplate": f"{name}<extra></extra>",
    }  # fmt: skip


def _belt(rows: Sequence[StepRecord], lang: str) -> Iterable[Figure]:
    """What the belt and the script's own clipping did to the gradients."""
    own = [(row.step, row.unclipped) for row in rows if row.unclipped is not None]
    if own:
        line = thin(*_columns(own))
        yield from _curve(
            line, say(tell("before the script's own clipping"), lang), "var(--s6)", ("y2", "y5"), dash="dot"
        )
    clipped = [(row.step, row.total_after) for row in rows if row.clipped]
    if clipped:
        line = thin(*_columns(clipped), 600)
        yield {
            "type": "scatter", "mode": "markers", "name": say(tell("after clipping"), lang), "x": line.x.tolist(),
            "y": line.y.tolist(), "yaxis": "y2", "marker": {"symbol": "circle-open", "size": 5, "color": "var(--s3)"},
            "hovertemplate": "%{y:.4g}",
        }  # fmt: skip
    skipped = np.array([row.step for row in rows if row.skipped], dtype=np.int64)
    if skipped.size:
        steps = thin(skipped, np.zeros(skipped.size), 300).x
        yield _marks(steps, 0.03, "y5", say(tell("skipped step"), lang), "diamond-open", "var(--warn)")


def _symptoms(story: Story, lang: str) -> Iterable[Figure]:
    colours = {"ALARM": "var(--bad)", "WARN": "var(--warn)", "WATCH": "var(--muted)"}
    for level, word in (("ALARM", tell("alarm")), ("WARN", tell("warning")), ("WATCH", tell("note"))):
        found = [finding for finding in story.symptoms if finding.level.name == level][:MOST_SYMPTOMS]
        if found:
            yield {
                "type": "scatter", "mode": "markers", "name": say(word, lang), "x": [finding.step for finding in found],
                "y": [0.5] * len(found), "yaxis": "y3",
                "text": [plain(shorten(seen(finding, lang), 90)) for finding in found],
                "marker": {"symbol": "triangle-down", "size": 11, "color": colours[level]},
                "hovertemplate": "%{text}<extra></extra>",
            }  # fmt: skip


def _moments(story: Story, last: int, lang: str) -> tuple[list[Figure], list[Figure]]:
    """Upright lines at the first warning and the first bad step, and their labels, which never overlap."""
    shapes, notes = [], []
    moments = (
        (
            story.first_warning_step,
            tell("first warning: step {step}", step=story.first_warning_step),
            "var(--warn)",
            15,
        ),
        (story.first_bad_step, tell("first bad step: {step}", step=story.first_bad_step), "var(--bad)", 0),
    )
    for step, label, colour, shift in moments:
        if step is None:
            continue
        line = {"color": colour, "width": 1.3, "dash": "dash"}
        shapes.append({"type": "line", "x0": step, "x1": step, "y0": 0, "y1": 1, "yref": "paper", "line": line})
        notes.append(
            {
                "x": step, "y": 1, "yref": "paper", "yanchor": "bottom", "yshift": shift, "showarrow": False,
                "xanchor": "left" if step < 0.5 * (last + 1) else "right", "text": say(label, lang),
                "font": {"size": 12, "color": colour},
            }
        )  # fmt: skip
    return shapes, notes


def _frame(*, height: int, last: int, lang: str, axis: str = "y", top: int = 30) -> Figure:
    """What all figures share: transparent, in the page's fonts, with one x axis of steps."""
    pad = max(0.5, 0.02 * last)
    every = {"dtick": 1} if last < 8 else {}  # else plotly would label step 0.4
    return {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": top, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "var(--font)", "size": 12, "color": "var(--ink)"},
        "hovermode": "x unified",
        "hoversubplots": "axis",
        "hoverlabel": {
            "bgcolor": "var(--card)",
            "bordercolor": "var(--line)",
            "font": {"family": "var(--font)", "color": "var(--ink)"},
        },
        "showlegend": True,
        "legend": {"orientation": "h", "y": -60 / (height - 100), "yanchor": "top", "x": 0},
        "xaxis": {
            **AXIS,
            "title": {"text": say(tell("step"), lang), "standoff": 6},
            "range": [-pad, last + pad],
            "anchor": axis,
            **every,
        },
        "modebar": {"bgcolor": "var(--card)", "color": "var(--muted)", "activecolor": "var(--accent)"},
    }


def _scale(lines: Sequence[Line], room: float = 1.0) -> Figure:
    """A log axis where no value is negative and the positive ones span more than a factor of 30.

    `room` is how far above the largest value a log axis goes on, as a factor.
    """
    # short of the largest float, so that margins around it don't overflow
    values = np.clip(np.concatenate([line.y for line in lines]) if lines else np.zeros(0), -1e300, 1e300)
    if not values.size:
        return {"range": [0, 1], "showticklabels": False}
    positive = values[values > 0]
    if np.all(values >= 0) and positive.size:
        low, high = math.log10(positive.min()), math.log10(positive.max()) + math.log10(room)
        if high - low > math.log10(30):
            pad = 0.06 * (high - low)
            every = max(1, round((high - low) / 5))
            return {"type": "log", "exponentformat": "power", "range": [low - pad, high + 2 * pad], "dtick": every}
    low, high = float(values.min()), float(values.max())
    pad = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return {"type": "linear", "exponentformat": "power", "showexponent": "all", "range": [low - pad, high + 2 * pad]}


def _holes(values: Floats) -> list[list[float | None]]:
    return [[None if math.isnan(value) else round(value, 3) for value in row] for row in values.tolist()]


def shorten(text: str, most: int) -> str:
    """`text` with its middle left out where it is longer than `most`: both ends of a parameter's name tell something.

    >>> shorten("decoder.layers.11.attention.weight", 16)
    'decoder…n.weight'
    """
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[head + 1 - most :]}"


def plain(text: str) -> str:
    """`text` as plotly shows it letter by letter: no tags, no entities, no `%{...}` to fill in.

    >>> plain("<b>%{x}")
    '&lt;b&gt;% {x}'
    """
    return html.escape(printable(text), quote=False).replace("%{", "% {")
