"""No regular expression takes long, whatever text it is given.

Each one of the code base reads texts of 100,000 characters, made of what it looks for
itself: what backtracks quadratically takes seconds over one of them, what backtracks
exponentially takes for ever. Time is counted as this process' own, so that a busy
machine changes nothing.
"""

from __future__ import annotations

import ast
import itertools
import re
import re._compiler as compiler  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    path for top in ("apps", "conductor_site") for path in (ROOT / top).rglob("*.py")
)
TEMPLATES = sorted(
    path for top in ("templates", "apps") for path in (ROOT / top).rglob("*.html")
)
LENGTH = 100_000
# What is linear takes a few thousandths of it.
LIMIT_SECS = 1.0
# So many parts are combined in pairs.
PAIRS_OF = 10
CHARACTERS = "a0_ \n./:-\"'\\,@é"
FUNCTIONS = {
    *("compile", "match", "fullmatch", "search", "split", "sub", "subn"),
    *("findall", "finditer"),
}
# Django's filters that take a text apart. Each has been made faster for hostile ones
# in some release for security, most of them more than once.
SLOW_FILTERS = {
    *("striptags", "truncatechars_html", "truncatewords_html"),
    *("urlize", "urlizetrunc", "wordwrap"),
}


class TooSlow(Exception):
    """A pattern was still reading when its time was up."""


@dataclass(frozen=True)
class Found:
    """A regular expression, and how it is used."""

    pattern: str | bytes
    flags: int = 0
    method: str = "search"
    place: str = ""

    def __str__(self) -> str:
        return f"{self.place} {self.method} {self.pattern!r}"


# --- Finding them


def _called(node: ast.Call) -> tuple[str, str]:
    """Return what is called: the name before the dot, and the name."""
    match node.func:
        case ast.Attribute(ast.Name(owner), name):
            return owner, name
        case ast.Name(name):
            return "", name
    return "", ""


def _flags(node: ast.Call) -> int:
    flags = 0
    for one in ast.walk(node):
        if isinstance(one, ast.Attribute):
            flags |= re.RegexFlag.__members__.get(one.attr, 0)
    return flags


def _text(node: ast.AST) -> str | bytes | None:
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    return node.value if is_text else None  # type: ignore[attr-defined]


def _patterns_in(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield the nodes that are patterns, and how each is used if that is seen here."""
    if isinstance(node, ast.Call):
        owner, name = _called(node)
        if owner == "re" and name in FUNCTIONS:
            yield node.args[0], "" if name == "compile" else name
        elif name in {"re_path", "RegexValidator"} and node.args:
            yield node.args[0], "search"
        for keyword in node.keywords:
            if keyword.arg in {"pattern", "regex"}:
                yield keyword.value, "search"
    elif (
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "regex"
    ):
        yield node.value, "fullmatch"  # The part of a path, by a converter.


def _find(path: Path) -> Iterator[Found]:
    place = path.relative_to(ROOT).as_posix()
    tree = ast.parse(path.read_text())
    names: dict[ast.AST, str] = {}
    methods: dict[str, set[str]] = defaultdict(set)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.value] = node.targets[0].id
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            methods[node.value.id].add(node.attr)
    for node in ast.walk(tree):
        for argument, method in _patterns_in(node):
            pattern = _text(argument)
            assert pattern is not None, (
                f"{place}:{node.lineno}: a pattern that is no literal is not tested"  # type: ignore[attr-defined]
            )
            flags = _flags(node) if isinstance(node, ast.Call) else 0
            used = {method} if method else methods[names.get(node, "")] & FUNCTIONS
            assert used, f"{place}: {pattern!r} is used nowhere in its module"
            for one in used:
                yield Found(pattern, flags, one, place)


FOUND = sorted({one for path in MODULES for one in _find(path)}, key=str)


# --- Texts made for them


def _nodes(tree: Any) -> Iterator[Any]:
    """Yield a parsed pattern, and all that it is made of."""
    yield tree
    for _, value in tree:
        for part in value if isinstance(value, tuple) else (value,):
            for one in part if isinstance(part, list) else (part,):
                if isinstance(one, parser.SubPattern):
                    yield from _nodes(one)


def _sample(tree: Any) -> str:
    """Return a text that a parsed pattern matches, more or less."""
    return "".join(_sample_of(tree, index) for index in range(len(tree)))


def _sample_of(tree: Any, index: int) -> str:
    kind, value = tree[index]
    match str(kind):
        case "LITERAL":
            return chr(value)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            return _sample(value[2]) * max(value[0], 1)
        case "SUBPATTERN":
            return _sample(value[3])
        case "BRANCH":
            return _sample(value[1][0])
        case "IN" | "ANY" | "NOT_LITERAL":
            return next(iter(_characters(tree[index : index + 1])), "")
    return ""


def _characters(tree: Any) -> list[str]:
    """Return some characters that a part of a pattern takes."""
    one = compiler.compile(tree)
    is_bytes = isinstance(tree.state.str, bytes)
    return [
        character
        for character in CHARACTERS
        if one.fullmatch(character.encode("latin1") if is_bytes else character)
    ]


def _literals(tree: Any) -> Iterator[str]:
    for is_literal, run in itertools.groupby(
        tree, key=lambda node: str(node[0]) == "LITERAL"
    ):
        if is_literal:
            yield "".join(chr(value) for _, value in run)


def _texts(found: Found) -> Iterator[str]:
    """Yield texts that begin as the pattern wants it, go on with one of its parts over
    and over, and end as it does not want it."""
    tree = parser.parse(found.pattern, found.flags)
    parts: dict[str, None] = {}
    beginnings = {"": None}
    for node in _nodes(tree):
        parts |= dict.fromkeys(_literals(node))
        parts[_sample(node)] = None
        beginnings |= {_sample(node[:end]): None for end in range(1, len(node) + 1)}
        for index, (kind, _) in enumerate(node):
            if str(kind) in {"IN", "ANY", "NOT_LITERAL"}:
                parts |= dict.fromkeys(_characters(node[index : index + 1]))
    parts.pop("", None)
    # The long ones are what is particular to it.
    chosen = sorted(parts, key=len, reverse=True)[:PAIRS_OF]
    pairs = ["".join(pair) for pair in itertools.permutations(chosen, 2)]
    for end in ("\0", "\n!"):
        for part, beginning in itertools.product(parts, beginnings):
            yield beginning + part * (LENGTH // len(part)) + end
        for pair in pairs:
            yield pair * (LENGTH // len(pair)) + end


def _read(found: Found) -> None:
    """Have the pattern read each of its texts. Raises: TooSlow."""
    compiled = re.compile(found.pattern, found.flags)
    method: Callable[..., object] = getattr(compiled, found.method)
    for text in _texts(found):
        is_bytes = isinstance(found.pattern, bytes)
        given = text.encode("latin1") if is_bytes else text
        replacement = [given[:0]] if found.method.startswith("sub") else []
        signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_SECS)
        result = method(*replacement, given)
        if found.method == "finditer":
            list(result)  # type: ignore[call-overload]
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, stop)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


# --- The tests


@pytest.mark.parametrize(
    "bad",
    [
        # An error text of 100 KB froze a server for 10 s with it.
        Found(r"[\w.]*(Error|Exception|Exc)\w*:", method="match"),
        Found(r"(a+)+$"),
        Found(r"(?:a|a)*b"),
        Found(r"\s+$", method="sub"),
        Found(r"^(\w+\s?)*$", method="match"),
        Found(r"<[^>]*x"),
        Found(rb'"(?:[^"]|\\.)*"\s*:', method="match"),
        Found(r".*,.*,.*;", method="match"),
        # It redacted the paths in our log: a line break kept it going.
        Found(r"^(.*/(?:websocket/[^/]+|invitations))/.+$", method="subn"),
    ],
    ids=str,
)
def test_slow_patterns_are_recognized(bad: Found) -> None:
    with pytest.raises(TooSlow):
        _read(bad)


@pytest.mark.parametrize("found", FOUND, ids=str)
def test_no_pattern_backtracks(found: Found) -> None:
    _read(found)


def test_patterns_are_found_wherever_they_are() -> None:
    places = {found.place for found in FOUND}

    assert places >= {
        "apps/api.py",  # A field's, and a converter's.
        "apps/executors/protocol/codec.py",  # A module's own.
        "apps/executors/routing.py",  # A route's.
        "apps/registry/models.py",  # A validator's.
        "apps/registry/services/rows.py",  # One used where it stands.
    }
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in {"re", "regex"}, "import the module"
            if isinstance(node, ast.Import):
                assert all(
                    one.name != "regex" and (one.name != "re" or not one.asname)
                    for one in node.names
                )


@pytest.mark.parametrize(
    "template", TEMPLATES, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_templates_use_no_filter_that_is_slow(template: Path) -> None:
    used = set(re.findall(r"\|\s*([a-z_]+)", template.read_text()))

    assert not used & SLOW_FILTERS
