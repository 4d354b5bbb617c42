"""Edits put into the text: lines around statements and replaced pieces; every other byte stays."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from itertools import pairwise

import libcst as cst

from gradbelt.remedies.edits.source import NoEdit, Source

HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\S+ @@")


@dataclass(slots=True)
class Around:
    """What goes around one statement. A leading tab stands for one more level of indentation."""

    before: list[str] = field(default_factory=list)
    condition: str | None = None  # `before` comes above it, `inside` and the statement under it
    inside: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)

    @property
    def compound(self) -> bool:
        lines = (*self.before, *self.inside, *self.after)
        return self.condition is not None or any(line.startswith(("for ", "if ", "def ", "\t")) for line in lines)


class Weave:
    """Gathers what is to change in a source and writes it in one go."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._around: dict[int, tuple[cst.CSTNode, Around]] = {}
        self._edits: list[tuple[int, int, str]] = []
        self.needs: dict[str, list[cst.CSTNode]] = {}  # module that the file doesn't import -> what will say its name
        self._taken: set[str] = set()

    def around(self, statement: cst.CSTNode) -> Around:
        return self._around.setdefault(id(statement), (statement, Around()))[1]

    def replace(self, start: int, end: int, text: str) -> None:
        self._edits.append((start, end, text))

    def done(self) -> str:
        """The new text. Raises NoEdit where two edits meet."""
        for name, places in self.needs.items():
            self._import(name, places)
        for line in {
            id(line): line for line in (self._source.line(node) for node, _ in self._around.values())
        }.values():
            if isinstance(line, cst.BaseCompoundStatement):
                self._compound(line)
            else:
                self._simple(line)
        text, at = [], 0
        for start, end, new in sorted(self._edits, key=lambda edit: edit[:2]):
            if start < at:
                raise NoEdit("two edits meet")
            text += [self._source.text[at:start], new]
            at = end
        return "".join([*text, self._source.text[at:]])

    def fresh(self, wanted: str) -> str:
        """A name that neither the file nor an edit uses yet: `wanted`, or with a number behind it."""
        names = (wanted, *(f"{wanted}_{number}" for number in range(2, 100)))
        found = next((name for name in names if name not in self._source.names | self._taken), None)
        if found is None:
            raise NoEdit(f"{wanted} is taken")
        self._taken.add(found)
        return found

    def _import(self, name: str, places: list[cst.CSTNode]) -> None:
        """Below the last import of the file that stands above all who need it."""
        source = self._source
        top = [found for found in source.imported if source.block(found) is source.tree]
        top = [found for found in top if all(source.after(node, found) for node in places)]
        if not top:
            raise NoEdit(f"no place for import {name}")
        self.around(top[-1]).after.append(f"import {name}")

    def _compound(self, statement: cst.CSTNode) -> None:
        """Lines above and below a `for` or `with`; under a condition, every line of it moves in."""
        source, around = self._source, self._around[id(statement)][1]
        start, end = source.span(statement)
        indent = source.indent(statement)
        self._edits.append((start, start, self._head(around, indent)))
        if around.condition is not None:
            inner = source.text[start:end]
            if '"""' in inner or "'''" in inner or "\\" in inner:
                raise NoEdit("moving these lines in could change a string")
            at = start
            for row, following in pairwise(inner.split("\n")):
                at += len(row) + 1
                if following.strip():
                    self._edits.append((at, at, source.unit))
        if around.after:
            raise NoEdit("nothing is put below a compound statement")

    def _simple(self, line: cst.CSTNode) -> None:
        """Statements that share a line stay on it while what joins them is simple; else each gets lines of its own."""
        source = self._source
        assert isinstance(line, cst.SimpleStatementLine | cst.SimpleStatementSuite)
        body = list(line.body)
        here = [self._around.get(id(statement), (statement, Around()))[1] for statement in body]
        suite = isinstance(line, cst.SimpleStatementSuite)
        alone = len(body) == 1 and not suite
        own = [alone or around.compound for around in here]
        if suite and any(own):
            indent = source.indent(next(outer for outer in source.above(line) if hasattr(outer, "body"))) + source.unit
            start, _ = source.span(body[0])
            colon = start - len(source.text[:start]) + len(source.text[:start].rstrip(" \t"))
            self._edits.append((colon, start, source.newline + indent))
        else:
            indent = source.indent(line)
        begin, _ = source.span(line)
        if not suite and source.text[:begin].rpartition("\n")[2].strip(" \t\f\ufeff\r"):
            raise NoEdit("the line begins with something else")
        for index, (statement, around) in enumerate(zip(body, here, strict=True)):
            start, end = source.span(statement)
            rows = own[index] or (suite and any(own))
            if rows:
                self._edits.append((start, start, self._head(around, indent)))
            else:
                self._edits.append((start, start, "".join(f"{text}; " for text in (*around.before, *around.inside))))
            last = index == len(body) - 1
            after = "".join(source.newline + indent + self._indented(text) for text in around.after)
            if not rows:
                self._edits.append((end, end, "".join(f"; {text}" for text in around.after)))
            elif last:
                at = source.end_of_line(statement)
                self._edits.append((at, at, after))
            if not last and (rows or own[index + 1]):
                following, _ = source.span(body[index + 1])
                self._edits.append((end, following, (after if rows else "") + source.newline + indent))

    def _head(self, around: Around, indent: str) -> str:
        """What is written between a statement's indentation and the statement."""
        lines = list(around.before)
        lines += around.inside if around.condition is None else [f"if {around.condition}:"]
        text = "".join(self._indented(line) + self._source.newline + indent for line in lines)
        if around.condition is None:
            return text
        inner = [self._source.unit + self._indented(line) + self._source.newline + indent for line in around.inside]
        return text + "".join(inner) + self._source.unit

    def _indented(self, line: str) -> str:
        bare = line.lstrip("\t")
        return self._source.unit * (len(line) - len(bare)) + bare


def difference(old: str, new: str, name: str) -> str:
    """The unified diff as `patch -p1` takes it."""
    shown = f"{name}\t" if " " in name else name  # patch ends a name at white space otherwise
    rows = difflib.unified_diff(_rows(old), _rows(new), f"a/{shown}", f"b/{shown}")
    return "".join(row if row.endswith("\n") else f"{row}\n\\ No newline at end of file\n" for row in rows)


def applied(old: str, diff: str) -> str:
    """What `patch` makes of the text. Raises ValueError where the diff is of another text.

    >>> applied("a\\nb", difference("a\\nb", "a\\nc\\n", "train.py"))
    'a\\nc\\n'
    """
    source, rows, new, at = _rows(old), _rows(diff), list[str](), 0
    for row, following in pairwise([*rows[2:], ""]):
        text = row.removesuffix("\n") if following.startswith("\\") else row
        text = text[1:]
        if (head := HUNK.match(row)) is not None:
            start = int(head[1]) - (head[2] != "0")
            new += source[at:start]
            at = start
        elif row[:1] in (" ", "-"):
            if source[at : at + 1] != [text]:
                raise ValueError(f"the diff does not fit line {at + 1}")
            at += 1
        if row[:1] in (" ", "+"):
            new.append(text)
    return "".join([*new, *source[at:]])


def _rows(text: str) -> list[str]:
    """Lines as patch counts them: \\n alone ends one."""
    rows = text.split("\n")
    return [f"{row}\n" for row in rows[:-1]] + ([rows[-1]] if rows[-1] else [])
