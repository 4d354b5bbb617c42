"""Sentences that can be said again in another language.

A stage that has something to say to a person makes a `Told`: an English string that remembers how it was put together.
Everything treats it as a plain `str`; a renderer that knows the reader's language calls `say`. The catalogues lie in
`report/locales/<lang>/LC_MESSAGES/gradbelt.po` (GNU gettext).
"""

from __future__ import annotations

import functools
import gettext
import os
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

LANGUAGES = ("en", "ja")


class Told(str):
    """An English sentence, its template and what was filled in."""

    __slots__ = ("params", "template")

    template: str
    params: Mapping[str, Any]

    def __new__(cls, template: str, params: Mapping[str, Any]) -> Told:
        self = super().__new__(cls, template.format(**params))
        self.template = template
        self.params = params
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (Told, (self.template, dict(self.params)))


def tell(template: str, /, **params: Any) -> Told:
    """A sentence, in English until `say` is asked for another language.

    >>> tell("step {step}: loss is {loss}", step=14, loss="nan")
    'step 14: loss is nan'
    """
    return Told(template, params)


def say(text: str, lang: str) -> str:
    """`text` in `lang`; unchanged where it is not a `Told` or the catalogue lacks it."""
    if not isinstance(text, Told):
        return text
    params = {name: say(value, lang) if isinstance(value, str) else value for name, value in text.params.items()}
    return catalogue(lang).gettext(text.template).format(**params)


@functools.cache
def catalogue(lang: str) -> gettext.NullTranslations:
    """The gettext catalogue of a language; English is the source, so its catalogue is empty."""
    where = str(files("gradbelt.report") / "locales")
    return gettext.translation("gradbelt", where, languages=[lang], fallback=True)


def language(asked: str | None = None) -> str:
    """The language to speak: the one asked for, else the environment's (LC_ALL, LC_MESSAGES, LANG), else English.

    >>> language("ja")
    'ja'
    """
    if asked:
        return asked
    for variable in ("LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(variable)
        if value:
            return "ja" if value.lower().startswith("ja") else "en"
    return "en"
