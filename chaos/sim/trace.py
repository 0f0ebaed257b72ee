"""What happened in a simulated run, in order: a running hash always, the text when someone wants to read it.

Two runs of one seed must print the same hash, on any machine, hash seed and Python version. So only plain values are
taken: a set, an object or a float computed elsewhere would bring in an order or a rounding that differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

_PLAIN = (str, bytes, bool, int, type(None))


class Trace:
    """`add(kind, field=value, ...)`; `digest()` names the run; `lines` is kept if asked for."""

    def __init__(self, keep_text: bool = False, lines_max: int = 1_000_000) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._keep_text = keep_text
        self._lines_max = lines_max
        self.clock_ns: Callable[[], int] = lambda: 0
        self.lines: list[str] = []
        self.lines_count = 0

    def add(self, kind: str, **fields: object) -> None:
        for name, value in fields.items():
            if not isinstance(value, _PLAIN):
                raise TypeError(f"trace {kind}: {name} is a {type(value).__name__}; plain values alone have one text everywhere")
        body = " ".join(f"{name}={value!r}" for name, value in sorted(fields.items()))
        line = f"{self.clock_ns():>15} {kind} {body}".rstrip()
        self._hash.update(line.encode("utf-8", "backslashreplace") + b"\n")
        self.lines_count += 1
        if self._keep_text and len(self.lines) < self._lines_max:
            self.lines.append(line)

    def digest(self) -> str:
        return self._hash.hexdigest()

    def text(self) -> str:
        return "\n".join(self.lines)
