"""Rules of the house that no linter knows."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    path
    for top in ("apps", "conductor_site")
    for path in (ROOT / top).rglob("*.py")
    if "migrations" not in path.parts
)
# The three boundaries at which code of ours meets what it cannot foresee.
BOUNDARIES = {
    # What others send: an executor's socket, messages between our processes.
    "apps/executors/consumers.py",
    "apps/executors/bus.py",
    # Whatever a look-up for many ends in is told to each of them.
    "apps/executors/admission.py",
    # Threads that must go on, or whose end must be told: the beat, lanes and Celery.
    "apps/executors/runtime.py",
    "apps/executors/lanes.py",
    "conductor_site/embedded.py",
    # The server, which must serve all others, and the HTTP API's last resort.
    "conductor_site/daphne_server.py",
    "conductor_site/middleware.py",
}
# Decides about permissions; everybody else asks an Actor.
PERMISSIONS_ARE_READ_IN = {
    "apps/registry/auth.py",
    # What may be granted, and who is the last admin.
    "apps/registry/services/api_keys.py",
    "apps/registry/services/members.py",
    "apps/registry/services/roles.py",
    # What is told about roles and keys.
    "apps/registry/api/roles.py",
    "apps/registry/api/tokens.py",
    # Which boxes to offer.
    "apps/registry/forms.py",
}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text()))


def _catches_all(handler: ast.ExceptHandler) -> bool:
    caught = handler.type
    kinds = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(
        kind is None
        or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))
        for kind in kinds
    )


def _raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_only_the_boundaries_catch_everything(path: Path) -> None:
    swallowing = [
        node.lineno
        for node in _nodes(path)
        if isinstance(node, ast.ExceptHandler)
        and _catches_all(node)
        and not _raises_again(node)
    ]

    assert not swallowing or _name(path) in BOUNDARIES


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_saves_name_their_columns(path: Path) -> None:
    """Else one writer puts back what another has just changed."""
    blind = [
        node.lineno
        for node in _nodes(path)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "save"
        and not {"update_fields", "force_insert"} & {k.arg for k in node.keywords}
    ]

    assert blind == []


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_permissions_are_decided_in_one_place(path: Path) -> None:
    reads = [
        node.lineno
        for node in _nodes(path)
        if isinstance(node, ast.Attribute)
        and node.attr == "permissions"
        and isinstance(node.ctx, ast.Load)
    ]

    assert not reads or _name(path) in PERMISSIONS_ARE_READ_IN


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_modules_say_what_they_own(path: Path) -> None:
    source = path.read_text()

    assert (
        not source.strip()
        or path.name == "apps.py"
        or ast.get_docstring(ast.parse(source))
    )


def test_the_lists_hold_what_is_there() -> None:
    names = {_name(path) for path in MODULES}

    assert names >= BOUNDARIES | PERMISSIONS_ARE_READ_IN
