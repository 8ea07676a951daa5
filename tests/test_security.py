"""SECURITY.md: what it promises is held by the tests that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROMISES = re.findall(
    r"^\| (?!Promise)(?!---)(.+) \| (.+) \|$", (ROOT / "SECURITY.md").read_text("utf-8"), re.M
)
SOURCES = [*(ROOT / "ipadapter_demo").rglob("*.py"), ROOT / "app.py"]


def test_every_promise_names_a_test_that_is_there() -> None:
    assert len(PROMISES) > 15
    for promise, named in PROMISES:
        tests = re.findall(r"`(test_\w+)::(test_\w+)`", named)
        assert tests, promise
        assert named == ", ".join(f"`{file}::{test}`" for file, test in tests)
        for file, test in tests:
            source = (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")
            assert re.search(rf"^ *def {test}\(", source, re.M), f"{file} has no {test}"


def calls(name: str) -> list[ast.Call]:
    """Calls of a function in the package, by the end of its dotted name."""
    found = (n for s in SOURCES for n in ast.walk(ast.parse(s.read_text(encoding="utf-8"))))
    return [n for n in found if isinstance(n, ast.Call) and ast.unparse(n.func).endswith(name)]


def test_torch_reads_weights_only() -> None:
    loads = calls("torch.load")
    assert loads
    for call in loads:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("weights_only") == "True", ast.unparse(call)


def test_no_code_of_a_repository_is_run() -> None:
    for call in calls("from_pretrained") + calls("from_config"):
        assert not [k for k in call.keywords if k.arg == "trust_remote_code"], ast.unparse(call)
    for name in ("eval", "exec", "pickle.load", "pickle.loads", "joblib.load"):
        assert not [c for c in calls(name) if ast.unparse(c.func) == name]
