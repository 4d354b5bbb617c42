"""Keeps the catalogues in `locales/` in step with the sources: `python -m gradbelt.report.catalogue`.

It extracts every sentence that is told, merges it into each language's gradbelt.po, compiles gradbelt.mo and names what
is left to translate; it ends with 1 if that is anything. Needs babel, which only developers have.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from gradbelt._told import LANGUAGES

SOURCE = Path(__file__).resolve().parents[1]
LOCALES = Path(__file__).resolve().parent / "locales"
KEYWORDS = {"tell": None, "_": None, "gettext": None}
METHODS = [("**.py", "python"), ("report/templates/**.j2", "jinja2.ext.babel_extract")]
PEOPLE = "The gradbelt developers"
STAMP = datetime(2026, 1, 1, tzinfo=UTC)  # fixed: the same sentences give the same bytes


def extract() -> Catalog:
    """The template: every sentence in the sources, with the files it stands in."""
    template = _blank(None)
    for name, _line, message, comments, _context in extract_from_dir(SOURCE, METHODS, keywords=KEYWORDS):
        text = message if isinstance(message, str) else message[0]
        if text:
            template.add(text, locations=[(f"src/gradbelt/{name}", 0)], auto_comments=comments)
    return template


def load(language: str) -> Catalog:
    """The catalogue of a language as it lies in `locales/`; an empty one where there is none yet."""
    path = place(language, "po")
    if not path.exists():
        return _blank(language)
    with path.open("rb") as file:
        return read_po(file, locale=language, domain="gradbelt")


def place(language: str, ending: str) -> Path:
    return LOCALES / language / "LC_MESSAGES" / f"gradbelt.{ending}"


def messages(catalogue: Catalog) -> Iterator[Message]:
    """Its sentences, without the header and without those no longer told."""
    return (message for message in catalogue if message.id)


def update(language: str, template: Catalog) -> list[str]:
    """Brings a language's .po and .mo up to date; returns what is left to translate. Guesses nothing."""
    catalogue = load(language)
    catalogue.update(template, no_fuzzy_matching=True)
    catalogue.obsolete.clear()
    catalogue.creation_date = catalogue.revision_date = STAMP
    _write(place(language, "po"), _po(catalogue))
    compiled = io.BytesIO()
    write_mo(compiled, catalogue)
    _write(place(language, "mo"), compiled.getvalue())
    return [str(message.id) for message in messages(catalogue) if not message.string]


def _blank(language: str | None) -> Catalog:
    return Catalog(
        locale=language, domain="gradbelt", project="gradbelt", version="0.1.0", creation_date=STAMP,
        revision_date=STAMP, copyright_holder=PEOPLE, header_comment="# The sentences of gradbelt.",
        msgid_bugs_address=PEOPLE, last_translator=PEOPLE, language_team=PEOPLE, charset="utf-8", fuzzy=False,
    )  # fmt: skip


def _po(catalogue: Catalog) -> bytes:
    file = io.BytesIO()
    write_po(file, catalogue, width=110, sort_output=True, include_lineno=False, ignore_obsolete=True)
    return file.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


def main() -> int:
    template = extract()
    _write(LOCALES / "gradbelt.pot", _po(template))
    missing = 0
    for language in LANGUAGES:
        if language == "en":  # the source
            continue
        left = update(language, template)
        missing += len(left)
        click.echo(f"{language}: {len(template)} sentences, {len(left)} to translate")
        for text in left:
            click.echo(f"  {text}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
