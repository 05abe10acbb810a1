"""The example applications as `make demo` installs, starts and looks into them."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import services

ROOT = Path(__file__).resolve().parent.parent
NAME = "shop"


class CannotRun(Exception):
    """The example cannot run here; the message says what is missing."""


class Example:
    """One example application; its processes share one database, the ground truth."""

    language: str
    sources: tuple[str, ...]

    def __init__(self, home: Path) -> None:
        self.home = home
        self.source = ROOT / "examples" / self.language.lower()
        self.installed = ROOT / ".cache" / f"demo-{self.language.lower()}"
        self.notes_file = home / "steps.log"

    def install(self) -> None:
        """Make its own environment, once for each state of its sources."""
        digest = hashlib.sha256()
        for name in self.sources:
            digest.update((self.source / name).read_bytes())
        stamp = self.installed / ".installed"
        if stamp.exists() and stamp.read_text() == digest.hexdigest():
            return
        print(f"Installing the {self.language} example (once) …", flush=True)
        shutil.rmtree(self.installed, ignore_errors=True)
        self.installed.mkdir(parents=True)
        try:
            self._install()
        except subprocess.CalledProcessError as exc:
            raise CannotRun(f"Installing failed: {' '.join(exc.cmd)}") from None
        stamp.write_text(digest.hexdigest())

    def _install(self) -> None:
        raise NotImplementedError

    def start_database(self) -> subprocess.Popen[bytes] | None:
        """Start the database server that it needs, if any."""
        return None

    def command(self) -> list[str]:
        raise NotImplementedError

    def database_url(self) -> str:
        """What its processes are given as DBOS_DATABASE."""
        raise NotImplementedError

    def query(self, sql: str) -> list[Any]:
        """Ask the database; the SDK's tables are named without a schema."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """A line `workflow-id step` for each step that ran to its end."""
        with contextlib.suppress(FileNotFoundError):
            return self.notes_file.read_text().splitlines()
        return []


class Python(Example):
    """On SQLite, so that nothing else has to be there."""

    language = "Python"
    sources = ("requirements.txt",)

    def _install(self) -> None:
        python = str(self.installed / "bin" / "python")
        requirements = str(self.source / "requirements.txt")
        subprocess.run([sys.executable, "-m", "venv", self.installed], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "-r", requirements], check=True
        )

    def command(self) -> list[str]:
        return [str(self.installed / "bin" / "python"), str(self.source / "app.py")]

    def database_url(self) -> str:
        return str(self.home / "shop.sqlite")

    def query(self, sql: str) -> list[Any]:
        # Not read-only: a killed process leaves a journal to roll back.
        with contextlib.closing(sqlite3.connect(self.database_url(), timeout=20)) as db:
            return db.execute(sql).fetchall()


class TypeScript(Example):
    """On a PostgreSQL of its own: the SDK knows no other database."""

    language = "TypeScript"
    sources = ("package.json", "tsconfig.json", "app.ts")
    url = ""

    def _install(self) -> None:
        if shutil.which("node") is None or shutil.which("npm") is None:
            raise CannotRun("The TypeScript example needs Node.js 20 or newer and npm.")
        for name in self.sources:
            shutil.copy(self.source / name, self.installed)
        for command in (
            ["npm", "install", "--silent", "--no-audit", "--no-fund"],
            ["npm", "run", "--silent", "build"],
        ):
            subprocess.run(command, cwd=self.installed, check=True)

    def start_database(self) -> subprocess.Popen[bytes] | None:
        services.install_missing("postgresql")
        home = self.home / "postgresql"
        home.mkdir()
        self.home.chmod(0o755)
        server, self.url = services.make_postgres(home)
        process = server.start()
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {NAME}")
        return process

    def command(self) -> list[str]:
        return ["node", str(self.installed / "dist" / "app.js")]

    def database_url(self) -> str:
        url = self.url.replace("postgres://", "postgresql://")
        return f"{url.rpartition('/')[0]}/{NAME}"

    def query(self, sql: str) -> list[Any]:
        options = "-c search_path=dbos"
        with psycopg.connect(self.database_url(), options=options) as connection:
            return connection.execute(sql).fetchall()


EXAMPLES: dict[str, type[Example]] = {"python": Python, "typescript": TypeScript}
