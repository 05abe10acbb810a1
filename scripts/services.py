"""Run a command with a private PostgreSQL and Redis, and stop them afterwards.

    python scripts/services.py -- pytest

Installs what is missing with apt-get. DATABASE_URL, REDIS_URL and SECRET_KEY are set
for the command; nothing that already runs on this machine is touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = {
    "postgresql": "initdb",
    "redis-server": "redis-server",
    "chromium": "chromium",
    "prometheus": "promtool",
}
WAIT_SECS = 30


def find(program: str) -> str | None:
    """Find a program on the PATH or where Debian keeps PostgreSQL's."""
    found = shutil.which(program)
    if found:
        return found
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return str(versions[-1]) if versions else None


def install_missing(*packages: str) -> None:
    """Install what is not there of the given packages, or of all."""
    wanted = packages or tuple(PACKAGES)
    missing = [package for package in wanted if find(PACKAGES[package]) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        sys.exit(f"Please install: {', '.join(missing)}")
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    # Installing the package must not start a server of its own.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-qq"],
        ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing],
    ):
        subprocess.run(
            [*sudo, *command], check=True, env=environment, stdout=sys.stderr
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(
    is_ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path
) -> None:
    deadline = time.monotonic() + WAIT_SECS
    while time.monotonic() < deadline and process.poll() is None:
        if is_ready():
            return
        time.sleep(0.05)
    stop(process)
    sys.exit(f"A server did not start:\n{log.read_text(errors='replace')[-2000:]}")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def as_postgres_user(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return command
    return ["runuser", "-u", "postgres", "--", *command]


class Server:
    """A database server of our own: the same port and data whenever it is started."""

    def __init__(
        self, command: list[str], log: Path, is_ready: Callable[[], bool]
    ) -> None:
        self.command, self.log, self.is_ready = command, log, is_ready
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        """Start it and wait until it answers."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        wait_for(self.is_ready, self.process, self.log)
        return self.process

    def stop(self) -> None:
        """Stop it and wait until it is gone."""
        if self.process is not None:
            stop(self.process)


def make_postgres(home: Path) -> tuple[Server, str]:
    """Make a PostgreSQL with its data under `home`; return it, and its URL."""
    data, port = home / "pg", free_port()
    home.chmod(0o755)
    data.mkdir()
    if os.geteuid() == 0:
        shutil.chown(data, "postgres", "postgres")
    initdb, postgres = find("initdb"), find("postgres")
    assert initdb is not None
    assert postgres is not None
    subprocess.run(
        as_postgres_user(
            [initdb, "-D", str(data), "-U", "conductor", "-A", "trust", "-E", "UTF8"]
        ),
        check=True,
        stdout=subprocess.DEVNULL,
        cwd="/",
    )
    options = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "max_connections": 200,
    }
    flags = [part for k, v in options.items() for part in ("-c", f"{k}={v}")]
    command = as_postgres_user([postgres, "-D", str(data), *flags])
    ready = find("pg_isready")
    assert ready is not None

    # It opens its port before it takes connections.
    def is_ready() -> bool:
        asked = [ready, "-q", "-h", "127.0.0.1", "-p", str(port)]
        return subprocess.run(asked, check=False).returncode == 0

    server = Server(command, home / "pg.log", is_ready)
    return server, f"postgres://conductor@127.0.0.1:{port}/postgres"


def make_redis(home: Path) -> tuple[Server, str]:
    """Make a Redis that keeps nothing over a restart; return it, and its URL."""
    port = free_port()
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "save": "",
        "appendonly": "no",
        "dir": home,
    }
    flags = [part for k, v in options.items() for part in (f"--{k}", str(v))]
    command = ["redis-server", *flags]
    server = Server(command, home / "redis.log", lambda: listens(port))
    return server, f"redis://127.0.0.1:{port}/0"


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    # SIGINT is PostgreSQL's fast shutdown; runuser hands signals of its group on.
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> int:
    if len(sys.argv) < 3 or sys.argv[1] != "--":
        sys.exit(__doc__)
    install_missing()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    running: list[Server] = []
    home = Path(tempfile.mkdtemp(prefix="conductor-services-"))
    try:
        postgres, database_url = make_postgres(home)
        redis, redis_url = make_redis(home)
        for server in (postgres, redis):
            running.append(server)
            server.start()
        environment = {
            **os.environ,
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "SECRET_KEY": os.environ.get("SECRET_KEY", "only-for-this-run"),
        }
        return subprocess.run(sys.argv[2:], env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 130
    finally:
        for server in reversed(running):
            server.stop()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
