"""The story as one self-contained page: no request leaves it, and scripts other than its own don't run in it."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from gradbelt._told import catalogue, say
from gradbelt._types import Finding, RunRecord, Story
from gradbelt.report import sentences, words
from gradbelt.report.figures import Figure, activation_figure, layer_figure, run_figure, size_figure, trials_figure

MOST_SYMPTOMS, MOST_EVENTS = 40, 100


def render_html(story: Story, record: RunRecord, *, lang: str = "en") -> str:
    """The text of report.html for a run and its story, in `lang`; about 5 MB, nearly all of it plotly.js."""
    figures = {
        "run": run_figure(story, record, lang),
        "layers": layer_figure(story, record, lang),
        "sizes": size_figure(story, record, lang),
        "activations": activation_figure(story, record, lang),
        "trials": trials_figure(story, lang),
    }
    script = _template_file("report.js")
    template = _environment(lang).get_template("report.html.j2")
    return template.render(
        lang=lang, story=story, record=record, figures=figures, status=sentences.status(story),
        page=_Page(story, lang), facts=list(_facts(record.meta)), events=record.events[:MOST_EVENTS],
        data=_data([figure for figure in figures.values() if figure], lang),
        css=_template_file("report.css"), script=script, plotly=_plotly(),
        policy=f"default-src 'none'; script-src {_digest(_plotly())} {_digest(script)}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'",
    )  # fmt: skip


class _Page:
    """The story's sentences, bound to a language, for the template to ask for."""

    def __init__(self, story: Story, lang: str) -> None:
        self.story = story
        self.lang = lang

    def say(self, text: str) -> str:
        return say(text, self.lang)

    def headline(self) -> str:
        return say(sentences.headline(self.story), self.lang)

    def happened(self) -> list[str]:
        return [self.seen(finding) for finding in sentences.leading(self.story)[:2]]

    def seen(self, finding: Finding) -> str:
        return sentences.seen(finding, self.lang)

    def follows(self, finding: Finding) -> str:
        return sentences.follows(finding, self.lang)

    def symptoms(self) -> list[Finding]:
        return sorted(self.story.symptoms, key=lambda finding: finding.step)[:MOST_SYMPTOMS]

    def began(self) -> str:
        origin = self.story.origin
        return (
            say(sentences.unknown_origin(self.story), self.lang)
            if origin is None
            else sentences.began(origin, self.lang)
        )

    def why(self) -> str:
        return sentences.why(self.story, self.lang) or say(sentences.unknown_cause(self.story), self.lang)

    def nothing_to_change(self) -> str:
        return say(sentences.nothing_to_change(self.story), self.lang)

    def prescriptions(self) -> list[Any]:
        return sorted(self.story.prescriptions, key=lambda item: item.rank)

    def proof(self, item: Any) -> str:
        return say(sentences.proof(item), self.lang)

    def command(self, item: Any) -> str:
        return sentences.command(self.story, item)

    def clip(self) -> str:
        return say(sentences.clip_sentence(self.story.clip), self.lang)

    def buckle(self) -> list[str]:
        return [sentences.buckled(found, self.lang) for found in self.story.buckle]

    def trials(self) -> list[Any]:
        return sentences.best_first(self.story.trials)

    def cause(self, name: str) -> str:
        return words.called(name, words.CAUSE, self.lang)

    def became(self, trial: Any) -> str:
        return sentences.became(trial, self.lang)

    def undetermined(self) -> str:
        return say(sentences.undetermined(self.story) or "", self.lang)

    def work(self, name: str) -> str:
        return words.called(name, words.WORK, self.lang)

    def level(self, name: str) -> str:
        return words.called(name, words.LEVEL, self.lang)


@functools.cache
def _environment(lang: str) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gradbelt.report", "templates"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip

    def translate(template: str, /, **params: object) -> str:
        return catalogue(lang).gettext(template).format(**params)

    environment.globals["_"] = translate
    environment.filters.update(figure=words.figure, percent=words.percent, seconds=words.seconds, diff=_diff)
    return environment


@functools.cache
def _plotly() -> str:
    # inside a script element, these two would end it or hide its end
    bundle: str = get_plotlyjs()
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--").replace("\r\n", "\n")


@functools.cache
def _template_file(name: str) -> str:
    return (files("gradbelt.report") / "templates" / name).read_text(encoding="utf-8")


@functools.cache
def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _data(figures: list[Figure], lang: str) -> str:
    """What the page's script reads: JSON that can't end the element it stands in."""
    translate = catalogue(lang).gettext
    modebar = {word: translate(word) for word in MODEBAR}
    copied = translate("Copied")
    text = json.dumps({"figures": figures, "lang": lang, "modebar": modebar, "copied": copied}, ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _(message: str) -> str:
    return message


MODEBAR = (
    _("Download plot as a PNG"),
    _("Zoom"),
    _("Pan"),
    _("Zoom in"),
    _("Zoom out"),
    _("Reset axes"),
    _("Double-click to zoom back out"),
    _("Copied"),
)


def _diff(patch: str) -> Iterator[tuple[str, str]]:
    """Each line of a unified diff with its kind: head, hunk, add, del or same."""
    for line in patch.splitlines():
        kinds = (("---", "head"), ("+++", "head"), ("@@", "hunk"), ("+", "add"), ("-", "del"))
        yield next((kind for start, kind in kinds if line.startswith(start)), "same"), line


def _facts(meta: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """What the black box noted of the run, for reading: no blanks, times as a clock shows them (UTC)."""
    for name, value in _flat(meta):
        if name in ("started", "finished") and value.replace(".", "", 1).isdigit():
            yield name, f"{datetime.fromtimestamp(float(value), UTC):%Y-%m-%d %H:%M:%S} UTC"
        elif value not in ("", "None") and name not in ("script", "argv", "gradbelt"):
            yield name, value


def _flat(meta: Mapping[str, object], under: str = "") -> Iterator[tuple[str, str]]:
    """`meta` as dotted names and text."""
    for name, value in meta.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{under}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{under}{name}", " ".join(map(str, value))
        else:
            yield f"{under}{name}", str(value)
