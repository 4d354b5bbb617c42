"""A user's file, parsed: what stands where, which name stands for what, and where a name can be seen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

import libcst as cst
import libcst.matchers as m
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider

N = TypeVar("N", bound=cst.CSTNode)
Place = cst.Module | cst.FunctionDef | cst.ClassDef


class NoEdit(Exception):
    """No honest edit is known; says why."""


class Source:
    """The text, its tree, and questions about both. Offsets count characters of the text."""

    def __init__(self, text: str) -> None:
        wrapper = MetadataWrapper(cst.parse_module(text))
        self.text, self.tree = text, wrapper.module
        self.newline, self.unit = self.tree.default_newline, self.tree.default_indent
        self._position = wrapper.resolve(PositionProvider)
        self._parent = wrapper.resolve(ParentNodeProvider)
        self._starts = [0, *(match.end() for match in re.finditer(r"\r\n?|\n", text))]
        found = _Gather()
        self.tree.visit(found)
        self.calls, self.names = found.calls, found.names
        self._operations = found.operations
        self._bound = [(self.code(target), target) for target in found.bound]
        self._imports, self.imported = found.imports, found.statements

    # --------------------------------------------------------------------------------------------------------- position

    def span(self, node: cst.CSTNode) -> tuple[int, int]:
        """First and last offset; parentheses around an expression are not part of it."""
        where = self._position[node]
        return (
            self._starts[where.start.line - 1] + where.start.column,
            self._starts[where.end.line - 1] + where.end.column,
        )

    def code(self, node: cst.CSTNode) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def indent(self, node: cst.CSTNode) -> str:
        """The white space before the line that `node` begins on."""
        line = self.text[self._starts[self._position[node].start.line - 1] :]
        return line[: len(line) - len(line.lstrip(" \t\f"))]

    def end_of_line(self, node: cst.CSTNode) -> int:
        """Where the line that `node` ends on does, before its newline."""
        _, end = self.span(node)
        newline = re.compile(r"[\r\n]").search(self.text, end)
        return len(self.text) if newline is None else newline.start()

    def at(self, lines: tuple[int, ...]) -> Iterator[cst.Call]:
        """Calls that lie on one of `lines`, in their order."""
        for call in self.calls:
            where = self._position[call]
            if any(where.start.line <= line <= where.end.line for line in lines):
                yield call

    def divisors(self, line: int) -> list[cst.BaseExpression]:
        """What is divided by on a line, in `a / b`."""
        divisions = [node for node in self._operations if isinstance(node.operator, cst.Divide)]
        spans = [(self._position[node], node.right) for node in divisions]
        return [right for where, right in spans if where.start.line <= line <= where.end.line]

    def products(self, line: int) -> list[cst.BinaryOperation]:
        """Each `a @ b` on a line."""
        found = [(self._position[node], node) for node in self._operations]
        here = [node for where, node in found if where.start.line <= line <= where.end.line]
        return [node for node in here if isinstance(node.operator, cst.MatrixMultiply)]

    def expression(self, span: Sequence[int]) -> cst.Call | cst.BinaryOperation:
        """The call or operation that runs from a line and column to another, columns in bytes of UTF-8 as Python has
        them."""
        line, column, end_line, end = span
        if not 0 < line <= end_line <= len(self._starts):
            raise NoEdit("the file is not the one that ran")
        wanted = self._offset(line, column), self._offset(end_line, end)
        found: tuple[cst.Call | cst.BinaryOperation, ...] = (*self.calls, *self._operations)
        for node in found:
            if self.span(node) == wanted:
                return node
        raise NoEdit("the expression that ran can't be told")

    def _offset(self, line: int, column: int) -> int:
        start, *ends = self._starts[line - 1 : line + 1]
        row = self.text[start : ends[0] if ends else len(self.text)]
        return start + len(row.encode()[:column].decode(errors="ignore"))

    def operand(self, node: cst.Call | cst.BinaryOperation, place: int | None, *, direct: bool) -> cst.BaseExpression:
        """What is given at a place. `direct`: torch's own function is called, and a method's first operand is its
        owner."""
        if place is None:
            raise NoEdit("what comes in is changed on its way")
        if isinstance(node, cst.BinaryOperation):
            return (node.left, node.right)[place]
        given = [arg.value for arg in node.args if arg.keyword is None]
        if any(arg.star for arg in node.args):
            raise NoEdit("the arguments can't be seen")
        if direct and isinstance(node.func, cst.Attribute) and not self.full(node.func).startswith("torch."):
            given = [node.func.value, *given]
        if place >= len(given):
            raise NoEdit("the argument is given by name")
        return given[place]

    def parent(self, node: cst.CSTNode) -> cst.CSTNode:
        return self._parent[node]

    def after(self, node: cst.CSTNode, other: cst.CSTNode) -> bool:
        """Whether `node` stands below `other`."""
        return self.span(node)[0] >= self.span(other)[1]

    # --------------------------------------------------------------------------------------------------- what is around

    def above(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """What encloses the node, innermost first; the module last."""
        while not isinstance(node, cst.Module):
            node = self._parent[node]
            yield node

    def nearest(self, node: cst.CSTNode, kind: type[N]) -> N | None:
        return next((outer for outer in self.above(node) if isinstance(outer, kind)), None)

    def statement(self, node: cst.CSTNode) -> cst.BaseSmallStatement:
        """The simple statement that holds the node."""
        for outer in self.above(node):
            if isinstance(outer, cst.BaseSmallStatement):
                return outer
            if isinstance(outer, cst.BaseCompoundStatement | cst.Lambda | cst.BaseComp):
                break
        raise NoEdit("it is no statement of its own")

    def line(self, statement: cst.CSTNode) -> cst.CSTNode:
        """What the statement shares a line with; a compound statement has its own."""
        return statement if isinstance(statement, cst.BaseCompoundStatement) else self._parent[statement]

    def block(self, statement: cst.CSTNode) -> cst.CSTNode:
        """What holds the statement among others: a body, or the module."""
        line = self.line(statement)
        return line if isinstance(line, cst.SimpleStatementSuite) else self._parent[line]

    def before(self, statement: cst.CSTNode) -> list[cst.CSTNode]:
        """The statements of the same block above this one, nearest first."""
        return [other for other in reversed(_statements(self.block(statement))) if self.after(statement, other)]

    def below(self, statement: cst.CSTNode) -> list[cst.CSTNode]:
        """The statements of the same block below this one, nearest first."""
        return [other for other in _statements(self.block(statement)) if self.after(other, statement)]

    def within(self, statement: cst.With | cst.For) -> list[cst.CSTNode]:
        """The statements of its body."""
        return _statements(statement.body)

    def scopes(self, node: cst.CSTNode) -> list[cst.CSTNode]:
        """The functions around the node, innermost first, and the module."""
        return [outer for outer in self.above(node) if isinstance(outer, cst.FunctionDef | cst.Module)]

    # ------------------------------------------------------------------------------------------------------------ names

    def full(self, func: cst.CSTNode) -> str:
        """The dotted name an expression stands for, its first part replaced by what was imported under it."""
        first, dot, rest = self.code(func).partition(".")
        return self._imports.get(first, first) + dot + rest

    def spelled(self, full: str, near: cst.CSTNode) -> str | None:
        """How this file can say `torch.nn.utils.clip_grad_norm_` at `near`; None without an import that gives it."""
        known = {
            what: name
            for name, what in self._imports.items()
            if not any(text == name for text, _ in self._bound) and self._import_reaches(name, near)
        }
        parts = full.split(".")
        for size in (len(parts), 1, *range(len(parts) - 1, 1, -1)):
            head = ".".join(parts[:size])
            if head in known:
                return ".".join([known[head], *parts[size:]])
        return None

    def _import_reaches(self, name: str, near: cst.CSTNode) -> bool:
        scopes = self.scopes(near)
        for found in self.imported:
            if name in _imports_of(found):
                scope = self.scopes(found)[0]
                if scope in scopes and (scope is not scopes[0] or self.after(near, found)):
                    return True
        return False

    def bindings(self, text: str) -> list[cst.CSTNode]:
        """Where `text` (a name, or `self.model`) is given a value."""
        return [node for bound, node in self._bound if bound == text]

    def seen_from(self, text: str, origin: cst.CSTNode, place: cst.CSTNode) -> bool:
        """Whether `text`, evaluated at `place`, is surely what it was at `origin`, which ran earlier."""
        if text.startswith("self."):
            group = self.nearest(origin, cst.ClassDef)
            if group is None or self.nearest(place, cst.ClassDef) is not group:
                return False
            inside = [node for node in self.bindings(text) if self.nearest(node, cst.ClassDef) is group]
            return len(inside) <= 1
        root = text.partition(".")[0]
        if root == "self":
            return self.scopes(origin)[0] is self.scopes(place)[0]
        home, scopes = self.scopes(origin)[0], self.scopes(place)
        if home not in scopes:
            return False
        inner = scopes[: scopes.index(home)]
        for node in (*self.bindings(root), *(self.bindings(text) if text != root else ())):
            scope = self.scopes(node)[0]
            if scope in inner or (scope is home and self.after(node, origin)):
                return False
        return True

    def reads(self, node: cst.CSTNode) -> list[str]:
        """The names that stand in an expression, each once; not those of attributes and arguments."""
        found: list[str] = []
        for name in m.findall(node, m.Name()):
            above = self._parent[name]
            attribute = isinstance(above, cst.Attribute) and above.attr is name
            keyword = isinstance(above, cst.Arg) and above.keyword is name
            if isinstance(name, cst.Name) and not attribute and not keyword and name.value not in found:
                found.append(name.value)
        return found

    def fresh(self, *wanted: str) -> str:
        """The first of the names that the file doesn't use yet."""
        for name in wanted:
            if name not in self.names:
                return name
        raise NoEdit(f"{wanted} are all taken")


def simple(node: cst.CSTNode) -> bool:
    """Whether an expression can be said twice: names, attributes and constant subscripts, nothing that is called."""
    match node:
        case cst.Name():
            return True
        case cst.Attribute(value=value):
            return simple(value)
        case cst.Subscript(value=value, slice=[cst.SubscriptElement(slice=cst.Index(value=index))]):
            return simple(value) and isinstance(index, cst.Name | cst.Integer | cst.SimpleString)
        case _:
            return False


def pure(node: cst.CSTNode) -> bool:
    """Whether an expression can be evaluated once more, and elsewhere in its block: nothing in it is called."""
    return not m.findall(node, m.Call() | m.NamedExpr() | m.Await() | m.Yield() | m.Lambda())


def tight(node: cst.BaseExpression) -> bool:
    """Whether an attribute or a product binds to the whole of the expression without parentheses."""
    return isinstance(node, cst.Name | cst.Attribute | cst.Call | cst.Subscript) or bool(node.lpar)


def argument(call: cst.Call, position: int, name: str) -> cst.Arg | None:
    """The argument given at a position or by name; None too where a star could hide it."""
    for index, arg in enumerate(call.args):
        if arg.star:
            break
        if (arg.keyword is None and index == position) or (arg.keyword is not None and arg.keyword.value == name):
            return arg
    return next((arg for arg in call.args if arg.keyword is not None and arg.keyword.value == name), None)


def method(call: cst.Call, name: str) -> cst.BaseExpression | None:
    """What the method is called on, where `call` calls one of that name."""
    func = call.func
    return func.value if isinstance(func, cst.Attribute) and func.attr.value == name else None


def _statements(block: cst.CSTNode) -> list[cst.CSTNode]:
    body = getattr(block, "body", ())
    return [
        statement
        for line in body
        for statement in (line.body if isinstance(line, cst.SimpleStatementLine) else (line,))
    ]


def _imports_of(node: cst.Import | cst.ImportFrom) -> dict[str, str]:
    """Name -> what it stands for."""
    if isinstance(node.names, cst.ImportStar):
        return {}
    found = {}
    origin = ""
    if isinstance(node, cst.ImportFrom):
        origin = "." * len(node.relative) + (_dotted(node.module) if node.module else "") + "."
    for alias in node.names:
        name = _dotted(alias.name)
        if alias.asname is not None and isinstance(alias.asname.name, cst.Name):
            found[alias.asname.name.value] = origin + name
        elif origin:
            found[name] = origin + name
        else:
            found[name.partition(".")[0]] = name.partition(".")[0]
    return found


def _dotted(node: cst.CSTNode) -> str:
    if isinstance(node, cst.Attribute):
        return f"{_dotted(node.value)}.{node.attr.value}"
    return node.value if isinstance(node, cst.Name) else ""


def _flat(target: cst.CSTNode) -> Iterator[cst.CSTNode]:
    if isinstance(target, cst.Tuple | cst.List):
        for element in target.elements:
            yield from _flat(element.value)
    else:
        yield target


class _Gather(cst.CSTVisitor):
    """Calls, names, and every place where a name is given a value."""

    def __init__(self) -> None:
        self.calls: list[cst.Call] = []
        self.names: set[str] = set()
        self.operations: list[cst.BinaryOperation] = []
        self.bound: list[cst.CSTNode] = []
        self.imports: dict[str, str] = {}
        self.statements: list[cst.Import | cst.ImportFrom] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        match node:
            case cst.Call():
                self.calls.append(node)
            case cst.Name():
                self.names.add(node.value)
            case cst.BinaryOperation():
                self.operations.append(node)
            case cst.Import() | cst.ImportFrom():
                self.statements.append(node)
                self.imports.update(_imports_of(node))
                self.names.update(_imports_of(node))
                return False
            case cst.AssignTarget() | cst.AugAssign() | cst.NamedExpr() | cst.For():
                self.bound.extend(_flat(node.target))
            case cst.AnnAssign() if node.value is not None:
                self.bound.append(node.target)
            case cst.Param() | cst.FunctionDef() | cst.ClassDef():
                self.bound.append(node.name)
            case cst.AsName():
                self.bound.extend(_flat(node.name))
        return True
