"""What the documents name exists, and what exists is named."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TESTS = re.compile(r"`(tests/[\w./*-]+)(?:::(\w+))?`")
READERS = {"envstr", "envbool", "envint", "envcount", "envfloat", "envlist"}
READERS |= {"envchoice", "envsecret"}
# Not settings: what the code reads of others, or what only tests and scripts do.
SETTING = re.compile(r"`((?:CONDUCTOR|DATABASE)_[A-Z_]*[A-Z])(?:=[^`]*)?`")
OTHERS = {"CONDUCTOR_KEY", "CONDUCTOR_URL", "CONDUCTOR_OIDC_PROVIDERS_FILE"}
# Mentioned in the changelog because it is gone.
GONE = {"DATABASE_CONN_MAX_AGE"}
# The example says what one looks like; there is none by default.
EXAMPLES = {"DATABASE_URL", "REDIS_URL"}
# What a setting is by default where that is computed.
COMPUTED = {"CONDUCTOR_DATA_DIR": ".data", "ACCOUNT_EMAIL_VERIFICATION": "optional"}


def read_settings() -> Iterator[tuple[str, str]]:
    """Return each name that is read from the environment, and its default as text."""
    tree = ast.parse((ROOT / "conductor_site/settings.py").read_text())
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in READERS
        ):
            name, default = (ast.unparse(one) for one in node.args[:2])
            name = ast.literal_eval(name)
            known[name] = COMPUTED.get(name) or as_text(
                ast.parse(default).body[0], known
            )
            yield name, known[name]
    # Of the supervisor, which starts the workers.
    yield "CONDUCTOR_WORKER_THREADS", "16"


def as_text(default: ast.stmt, known: dict[str, str]) -> str:
    """Write a default as one would set it; it may be a multiple of one before."""
    assert isinstance(default, ast.Expr)
    code = compile(ast.Expression(default.value), "default", "eval")
    numbers = {name: int(text) for name, text in known.items() if text.isdecimal()}
    value: Any = eval(code, {"__builtins__": {}}, numbers)
    match value:
        case bool():
            return str(int(value))
        case float():
            return f"{value:g}"
        case list():
            return ",".join(value)
        case _:
            return str(value)


def in_the_example() -> list[tuple[str, str]]:
    text = (ROOT / ".env.example").read_text()
    found = re.findall(r"^#?([A-Z_]+)=(.*)$", text, re.MULTILINE)
    return [(name, "" if name in EXAMPLES else value) for name, value in found]


def in_the_document() -> list[tuple[str, str]]:
    text = (ROOT / "docs/settings.md").read_text()
    row = r"^\| `([A-Z_]+)`(?: \*)? \|\s*`?([^`|]*?)`?\s*\|"
    return re.findall(row, text, re.MULTILINE)


@pytest.mark.parametrize("named", [in_the_example, in_the_document])
def test_every_setting_is_documented_with_its_default(named: Any) -> None:
    found = named()

    assert len(found) == len(dict(found))
    assert dict(found) == dict(read_settings())


def test_secrets_are_marked() -> None:
    source = (ROOT / "conductor_site/settings.py").read_text()
    text = (ROOT / "docs/settings.md").read_text()

    secret = set(re.findall(r'envsecret\("([A-Z_]+)"', source))
    assert set(re.findall(r"^\| `([A-Z_]+)` \*", text, re.MULTILINE)) == secret


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_settings_that_are_named_exist(path: Path) -> None:
    named = set(SETTING.findall(path.read_text()))

    assert named <= {name for name, _ in read_settings()} | OTHERS | GONE


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_are_named_exist(path: Path) -> None:
    for place, function in TESTS.findall(path.read_text()):
        files = [ROOT / place.rstrip("/")] if "*" not in place else ROOT.glob(place)
        found = [file for file in files if file.exists()]
        assert found, place
        if function:
            names = {
                node.name
                for node in ast.walk(ast.parse(found[0].read_text()))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert function in names, f"{place}::{function}"


def test_the_threat_model_names_tests_of_each_fault_that_was_found() -> None:
    text = (ROOT / "docs/threat-model.md").read_text()
    rows = re.findall(r"^\| ([0-9]+) \|(.*)$", text, re.MULTILINE)

    assert [int(number) for number, _ in rows] == [1, 2, 3, 4, 5, 6]
    for _, row in rows:
        assert any(function for _, function in TESTS.findall(row))
