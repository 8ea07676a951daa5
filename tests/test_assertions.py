"""Every assertion of the tests is able to fail, as far as its form tells."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = sorted(Path(__file__).parent.glob("*.py"))
_NEVER_FALSE = (ast.List, ast.Tuple, ast.Dict, ast.Set, ast.JoinedStr, ast.Lambda, ast.GeneratorExp)


def is_always_true(condition: ast.expr) -> bool:
    """Whether a branch of a condition is true whatever is tested: a display, a constant.

    `assert found == [1] if ready else [2]` is `assert (found == [1]) if ready else [2]`.
    """
    match condition:
        case ast.IfExp():
            return is_always_true(condition.body) or is_always_true(condition.orelse)
        case ast.BoolOp(op=ast.Or()):
            return any(map(is_always_true, condition.values))
        case ast.BoolOp(op=ast.And()):
            return all(map(is_always_true, condition.values))
        case ast.Constant():
            return bool(condition.value)
        case ast.Call(func=ast.Name(id="all"), args=[ast.Constant() | ast.List(elts=[])]):
            return True
    return isinstance(condition, _NEVER_FALSE)


def always_true(source: str) -> Iterator[int]:
    """The lines of assertions that cannot fail."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert) and is_always_true(node.test):
            yield node.lineno


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_no_assertion_is_always_true(path: Path) -> None:
    assert list(always_true(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("assertion", "fails"),
    [
        ("assert found == [2] if ready else [3]", False),
        ("assert found == ([2] if ready else [3])", True),
        ("assert size == other == (1, 1) if small else (2, 2)", False),
        ("assert (found, 'found')", False),
        ("assert found or 'nothing was found'", False),
        ("assert found and wanted", True),
        ("assert not found", True),
    ],
)
def test_such_assertions_are_seen(assertion: str, fails: bool) -> None:
    assert (list(always_true(assertion)) == []) == fails
