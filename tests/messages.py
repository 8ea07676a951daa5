"""The texts of the package that a visitor of the page may read, from its source: {} stands for a
value."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "ipadapter_demo"
# The command line, training, measurements; what a server says as it starts; programs on HTTP.
ELSEWHERE = re.compile(
    r"(cli|training|evaluation|claims|tabletop)/|(settings|logins|temporary|own_files|folders"
    r"|model_flags)\.py|serving/(ray|remote|metrics)\.py|models/(listing|compiled|weight_hashes)"
    r"\.py|ui/guard/|ui/run/(api|api_fields|tools|endpoint)\.py|ui/tabs/compare/api\.py"
    r"|compare/(archive|bundle|publish)\.py"
)
ERRORS = {"RequestError", "ModelError", "CheckpointError", "failure", "error"}
SAYS = {"inform", "warn", "failure", "status_line", "leave", "said", "escaped"}
# Written for people who write code.
FOR_PROGRAMMERS = re.compile(r"must be a tuple of|\bPIL image\b")

Found = Iterator[tuple[str, str]]  # a text, and where it stands


def modules() -> list[Path]:
    found = sorted(PACKAGE.rglob("*.py"))
    return [path for path in found if not ELSEWHERE.match(path.relative_to(PACKAGE).as_posix())]


def template(node: ast.AST) -> str | None:
    """The text of a string, {} in place of what is not written there; None where all is not."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = template(node.left), template(node.right)
        return None if sides == (None, None) else "".join(side or "{}" for side in sides)
    return None


def messages() -> Found:
    """Errors that are raised, and what toasts say."""
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            text = template(node.args[0])
            if name in ERRORS | SAYS and text and re.search("[a-z]{2} ", text):
                yield text, f"{path.relative_to(PACKAGE.parent)}:{node.lineno}"


def warnings() -> Found:
    """What is said of requests that run."""
    path = PACKAGE / "pipeline" / "warnings.py"
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef):
            continue
        inner = [part for node in ast.walk(function) for part in _parts(node)]
        for node in ast.walk(function):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                inner.append(node.value)  # a docstring
        for node in ast.walk(function):
            text = template(node) if isinstance(node, ast.Constant | ast.JoinedStr) else None
            if text and node not in inner and re.search("[a-z] [a-z]", text):
                assert hasattr(node, "lineno")
                yield text, f"{path.relative_to(PACKAGE.parent)}:{node.lineno}"


def _parts(node: ast.AST) -> list[ast.AST]:
    return list(node.values) if isinstance(node, ast.JoinedStr) else []
