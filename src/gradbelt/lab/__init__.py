"""Small honest experiments: training scripts as users write them, one file and one fault each, and what is measured on
them.

A script knows nothing of gradbelt; its first line says what is wrong with it. `calibrate` measures how often the
detectors are right, over trainings whose end is known.
"""

from __future__ import annotations

import ast
from importlib.resources import files

SCRIPTS = files("gradbelt.lab") / "scripts"


def experiments() -> dict[str, str]:
    """The scripts by name, with what their first line says.

    >>> experiments()["depth"]
    'Depth: sixty layers, each drawn twelve hundredths wider than He says.'
    """
    names = sorted(file.name.removesuffix(".py") for file in SCRIPTS.iterdir() if file.name.endswith(".py"))
    said = {name: ast.get_docstring(ast.parse(source(name))) or "" for name in names}
    return {name: doc.partition("\n")[0] for name, doc in said.items()}


def source(name: str) -> str:
    """The text of one."""
    return (SCRIPTS / f"{name}.py").read_text(encoding="utf-8")
