"""A hostile tenant: executors that send what a grammar of nonsense yields.

Run: `python -m tests.executors.hostile URL API_URL KEY FRAMES SECS`. It takes a process
of its own, so that it does not slow down who measures what it does to others. Prints
how many frames of each kind it sent, as JSON.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import random
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

TRACE = "Traceback (most recent call last)"
KIB, MIB = 2**10, 2**20
THREADS = 8
# A connection is given up after so many frames, if the server has not closed it.
FRAMES_PER_CONNECTION = 40
REQUESTS_AT_ONCE = 3


def size(dice: random.Random) -> int:
    """Return a length: mostly small, now and then up to 32 MiB."""
    fate = dice.random()
    largest = 64 * KIB if fate < 0.90 else MIB if fate < 0.99 else 32 * MIB
    return dice.randint(largest // 8, largest)


def backtracking(dice: random.Random, length: int) -> str:
    unit = dice.choice(["Error", "a.Error", "Exc", "Error\n", " ", "\n", ": ", "\\"])
    return f"boom: {TRACE}\n" + unit * (length // len(unit))


def values(dice: random.Random, length: int) -> str:
    unit = dice.choice(
        ["{}", "[]", "1", '""', "null", '{"a":1}', "-1e9", '["\\u0000"]']
    )
    return "[" + ",".join([unit] * (length // (len(unit) + 1))) + "]"


def nesting(dice: random.Random, length: int) -> str:
    opening = dice.choice(["[", '{"a":', '[{"a":'])
    return opening * (length // len(opening))


def noise(dice: random.Random, length: int) -> str:
    letters = '{}[]",:\\0123456789eE+-. \x00\ud7ffé\u202e💥'
    return "".join(dice.choices(letters, k=min(length // 4, 100 * KIB)))


def number(dice: random.Random, length: int) -> str:
    return dice.choice(["-", "", "1.", "1e"]) + "9" * length


def scalar(dice: random.Random, length: int) -> str:
    return dice.choice(["null", "true", "-0", "1e999", "NaN", '"\\ud800"', "{}", ""])


SHAPES: tuple[Callable[[random.Random, int], str], ...] = (
    backtracking,
    values,
    nesting,
    noise,
    number,
    scalar,
)
MEMBERS = ("output", "error_message", "success", "exist", "executor_metadata", "type")


@dataclass
class Hostile:
    """One application's worth of executors that mean no good."""

    url: str
    api_url: str
    key: str
    frames: int
    ends_at: float
    sent: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def is_over(self) -> bool:
        with self.lock:
            return self.sent.total() >= self.frames or time.monotonic() > self.ends_at

    def run(self) -> None:
        """Send until there were enough frames, or the time is up."""
        jobs = [lambda seed=seed: self.attack(seed) for seed in range(THREADS)]
        jobs += [self.have_it_asked] * REQUESTS_AT_ONCE
        threads = [threading.Thread(target=job, daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads[:THREADS]:
            thread.join()

    def attack(self, seed: int) -> None:
        dice = random.Random(seed)
        for turn in itertools.count():
            if self.is_over():
                return
            with (
                contextlib.suppress(OSError, WebSocketException, EOFError),
                connect(
                    self.url,
                    compression=None,
                    max_size=None,
                    proxy=None,
                    close_timeout=1,
                    open_timeout=20,
                ) as connection,
            ):
                self.talk(connection, dice, f"hostile-{seed}-{turn}")

    def talk(
        self, connection: ClientConnection, dice: random.Random, name: str
    ) -> None:
        """Introduce itself, or not; answer wrongly, and talk without being asked."""
        asked = json.loads(connection.recv(10))["request_id"]
        if dice.random() < 0.2:
            self.send(connection, dice, "before the introduction", asked)
            return
        introduction = {"executor_id": name, "application_version": "v1"}
        connection.send(json.dumps({"request_id": asked, **introduction}))
        for _ in range(FRAMES_PER_CONNECTION):
            if self.is_over():
                return
            patience = dice.choice([0.0, 0.02, 0.5])
            try:
                asked = json.loads(connection.recv(patience))["request_id"]
            except TimeoutError:
                self.send(connection, dice, "unasked", None)
            else:
                self.send(connection, dice, "answer", asked)

    def send(
        self,
        connection: ClientConnection,
        dice: random.Random,
        kind: str,
        request_id: str | None,
    ) -> None:
        shape = dice.choice(SHAPES)
        text = shape(dice, size(dice))
        with self.lock:
            self.sent[kind] += 1
        if request_id is not None and dice.random() < 0.9:
            is_json = shape in (values, nesting, number, scalar)
            member = text if is_json and text else json.dumps(text)
            name = "error_message" if shape is backtracking else dice.choice(MEMBERS)
            text = f'{{"request_id": "{request_id}", "{name}": {member}}}'
        data = text.encode("utf-8", "replace")
        connection.send(list(parts(data)) if dice.random() < 0.2 else data, text=True)

    def have_it_asked(self) -> None:
        """Read its own application through the API, as often as it is answered."""
        dice = random.Random()
        while not self.is_over():
            # Another question each time: equal ones would share one answer.
            request = urllib.request.Request(
                f"{self.api_url}/workflows?limit={dice.randint(1, 500)}",
                headers={"Authorization": f"Bearer {self.key}"},
            )
            with (
                contextlib.suppress(OSError, http.client.HTTPException),
                urllib.request.urlopen(request, timeout=30) as response,
            ):
                response.read()
            time.sleep(0.02)


def parts(data: bytes) -> Iterator[bytes]:
    """Cut a message into fragments."""
    step = max(len(data) // 5, 1)
    for start in range(0, len(data), step):
        yield data[start : start + step]


def main(url: str, api_url: str, key: str, frames: str, secs: str) -> None:
    hostile = Hostile(url, api_url, key, int(frames), time.monotonic() + float(secs))
    hostile.run()
    print(json.dumps(hostile.sent))


if __name__ == "__main__":
    main(*sys.argv[1:])
