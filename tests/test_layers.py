"""The tree is the picture: imports point one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "gradbelt"
LAYERS = (
    {"_types", "errors", "_told"},
    {"clip", "kernels", "recover"},
    {"belt", "symptoms"},
    {"blackbox"},
    {"supervise"},
    {"examine"},
    {"causes", "remedies"},
    {"trials"},
    {"prescribe"},
    {"report"},
    {"integrations", "lab", "testing"},
    {"cli"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
# the child's announcer and `say` fetch words from the renderers' catalogues by name, which is no import
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.stem in RANK)


def layer_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """The parts of gradbelt that a module imports at run time, wherever in the file it does."""
    found: set[str] = set()
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "gradbelt":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("gradbelt.")}
    return {name for name in found if name in RANK}


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(SOURCE)) for path in FILES])
def test_a_stage_imports_only_what_lies_to_its_left(path):
    own = layer_of(path)
    if own not in RANK:
        pytest.fail(f"{path} is in no layer of the picture")
    later = {name for name in imported(ast.parse(path.read_text())) if RANK[name] > RANK[own]}
    assert not later, f"{own} imports {later}, which lies to its right"


def test_the_check_bites():
    tree = ast.parse("def f():\n    from gradbelt.cli.run import run")
    assert imported(tree) == {"cli"}
    assert RANK["cli"] > RANK["belt"]
