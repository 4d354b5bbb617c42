"""Every sentence is told in every language, from catalogues that are up to date."""

from __future__ import annotations

import gettext
import string

import pytest
from babel.messages.pofile import read_po

from gradbelt._told import LANGUAGES
from gradbelt.report import catalogue

OTHERS = [language for language in LANGUAGES if language != "en"]
AGAIN = "run `python -m gradbelt.report.catalogue`, translate what it lists, run it again"


@pytest.fixture(scope="module")
def told() -> set[str]:
    return {str(message.id) for message in catalogue.messages(catalogue.extract())}


def placeholders(text: str) -> set[tuple[str, str]]:
    return {(name, spec or "") for _, name, spec, _ in string.Formatter().parse(text) if name is not None}


def test_sentences_are_found_in_python_and_in_templates(told: set[str]) -> None:
    assert {"the loss became NaN", "Where it began", "Reset axes"} <= told


def test_the_template_holds_what_the_sources_tell(told: set[str]) -> None:
    with (catalogue.LOCALES / "gradbelt.pot").open("rb") as file:
        written = {str(message.id) for message in catalogue.messages(read_po(file))}
    assert written == told, AGAIN


@pytest.mark.parametrize("language", OTHERS)
def test_every_sentence_is_translated_and_none_is_left_over(language: str, told: set[str]) -> None:
    translated = {str(message.id): str(message.string) for message in catalogue.messages(catalogue.load(language))}
    assert sorted(told - {text for text, string_ in translated.items() if string_}) == [], AGAIN
    assert sorted(set(translated) - told) == [], AGAIN


@pytest.mark.parametrize("language", OTHERS)
def test_a_translation_fills_in_what_the_sentence_fills_in(language: str) -> None:
    for message in catalogue.messages(catalogue.load(language)):
        assert placeholders(str(message.string)) == placeholders(str(message.id)), message.id
        assert not message.fuzzy, message.id


@pytest.mark.parametrize("language", OTHERS)
def test_what_is_compiled_is_what_is_written(language: str) -> None:
    with catalogue.place(language, "mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    for message in catalogue.messages(catalogue.load(language)):
        assert compiled.gettext(str(message.id)) == message.string, AGAIN
    count = sum(1 for _ in catalogue.messages(catalogue.load(language)))
    assert len(compiled._catalog) == count + 1, AGAIN  # the header is one of them
