"""Clients in Go, generated from our documents as dbosctl's is from the official one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conductor_site import openapi
from tests.contract.test_openapi import CONTRACT, Json

pytestmark = pytest.mark.skipif(shutil.which("go") is None, reason="needs go")

TOOLS = Path(__file__).parents[2] / ".cache" / "go-tools"
MODULE = "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2"
RUNTIME = "github.com/oapi-codegen/runtime@v1.6.0"


def _go(*arguments: str, cwd: Path | None = None) -> None:
    settings = {"GOBIN": str(TOOLS), "GOFLAGS": "-buildvcs=false -mod=mod"}
    done = subprocess.run(
        ["go", *arguments],
        cwd=cwd,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=900,
    )
    if done.returncode and arguments[0] in ("install", "get"):
        # Not every machine reaches the module proxy.
        pytest.skip(f"go {arguments[0]}: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def generator() -> Path:
    """The generator, from the Go module proxy into the project's cache, once."""
    binary = TOOLS / "oapi-codegen"
    if not binary.exists():
        _go("install", MODULE)
    return binary


def _generate(generator: Path, document: Json, home: Path) -> str:
    home.mkdir()
    (home / "openapi.json").write_text(json.dumps(document))
    arguments = ("-generate", "models,client", "-package", "api")
    subprocess.run(
        [generator, *arguments, "-o", "client.gen.go", "openapi.json"],
        cwd=home,
        check=True,
        capture_output=True,
        timeout=300,
    )
    return (home / "client.gen.go").read_text()


def _members(source: str) -> set[tuple[str, str]]:
    """Every member of every generated struct, with its type and tag."""
    found = set()
    for name, body in re.findall(
        r"^type (\w+) struct \{\n(.*?)^\}", source, re.M | re.S
    ):
        for line in body.splitlines():
            member = re.sub(r"\s+", " ", line).strip()
            if member and not member.startswith("//"):
                found.add((name, member))
    return found


@pytest.mark.parametrize("version", ["3.0", "3.1"])
def test_client_has_every_member_of_the_official_one(
    generator: Path, tmp_path: Path, version: str
) -> None:
    ours = openapi.document_3_0() if version == "3.0" else openapi.document()
    info = {"openapi": "3.1.0", "info": {"title": "official", "version": "2"}}

    official = _generate(generator, {**CONTRACT, **info}, tmp_path / "official")
    made = _generate(generator, ours, tmp_path / "ours")

    assert _members(official) - _members(made) == set()


def test_client_compiles(generator: Path, tmp_path: Path) -> None:
    home = tmp_path / "client"
    _generate(generator, openapi.document_3_0(), home)
    _go("mod", "init", "client", cwd=home)
    _go("get", RUNTIME, cwd=home)

    _go("build", "./...", cwd=home)
