"""What the page "connect your application" offers to copy does connect."""

from __future__ import annotations

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks.stack import wait_until
from tests.e2e.world import Conductor, Process, install_sdk, make_database, needs

pytestmark = [pytest.mark.e2e, pytest.mark.services]

SDKS = {"python": "3.2.0", "typescript": "5.2.11", "go": "1.3.0", "java": "1.1.0-m6"}


@pytest.mark.parametrize("conductor", ["embedded"], indirect=True)
@pytest.mark.parametrize(
    "language", [pytest.param(language, marks=needs(language)) for language in SDKS]
)
def test_the_snippet_connects(conductor: Conductor, home: Path, language: str) -> None:
    name = f"copied-{language}"
    conductor.provision(name)
    page = conductor.console().page(
        f"/orgs/acme/apps/{name}/connect/", language=language
    )
    found = re.search(r'<pre id="snippet"[^>]*><code>(.*?)</code>', page, re.DOTALL)
    assert found is not None
    command = prepare(
        home, language, install_sdk(language, SDKS[language]), unescape(found[1])
    )

    database = urlsplit(make_database(name.replace("-", "_")))
    process = Process(
        command,
        home / "log",
        {
            "CONDUCTOR_KEY": conductor.key,
            "DBOS_SYSTEM_DATABASE_URL": database.geturl(),
            "DBOS_SYSTEM_JDBC_URL": "jdbc:postgresql://"
            f"{database.hostname}:{database.port}{database.path}",
            "PGUSER": database.username or "",
            "PGPASSWORD": "unused",
        },
    )
    try:

        def is_connected() -> bool:
            assert process.is_alive(), process.log()
            return bool(conductor.healthy(name))

        wait_until("it connects", is_connected, secs=60)
    finally:
        process.kill()


def prepare(home: Path, language: str, sdk: Path, code: str) -> list[str]:
    """Make a program of the code; return the command that runs it."""
    if language == "python":
        # An application goes on with its own work.
        (home / "app.py").write_text(f"{code}\nimport time\ntime.sleep(600)\n")
        return [str(sdk / "bin" / "python"), "app.py"]
    if language == "typescript":
        (home / "node_modules").symlink_to(sdk / "node_modules")
        (home / "app.mjs").write_text(code)
        return ["node", "app.mjs"]
    if language == "go":
        for name in ("go.mod", "go.sum"):
            shutil.copy(sdk / name, home)
        (home / "main.go").write_text(code)
        subprocess.run(["go", "build", "-o", "app", "."], cwd=home, check=True)
        return [str(home / "app")]
    classes = f"{sdk}/target/dependency/*"
    (home / "App.java").write_text(code)
    subprocess.run(["javac", "-cp", classes, "App.java"], cwd=home, check=True)
    return ["java", "-cp", f"{home}:{classes}", "App"]
