"""A store that a test holds in its hand: calls wait, fail, or get a planted answer."""

from __future__ import annotations

import asyncio
from typing import Any

from cluster.stores.base import CorruptRecord, RunKey, Store
from cluster.stores.memory import MemoryStore


class BrokenStore(Exception):
    """What a store raises in a test that is no StoreError: a breach of its contract."""


class HeldStore:
    """A store whose named methods wait until a test lets them go, or fail when it says so. `calls`: (method, arguments)."""

    def __init__(self, inner: Store | None = None) -> None:
        self.inner: Any = inner or MemoryStore()
        self.kind = self.inner.kind
        self.failures: dict[str, list[BaseException]] = {}
        self.failures_after: dict[str, list[BaseException]] = {}
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answers: dict[str, list[Any]] = {}  # given instead of the store's, once each
        self.corrupt: set[RunKey] = set()  # loading these runs' rows or histories fails
        self._gates: dict[str, asyncio.Semaphore] = {}

    def hold(self, method: str) -> None:
        """Calls from now on arrive, and wait."""
        self._gates[method] = asyncio.Semaphore(0)

    def let_one_go(self, method: str) -> None:
        self._gates[method].release()

    def release(self, method: str) -> None:
        """All that wait, and all to come."""
        gate = self._gates.pop(method)
        for _ in range(1_000):
            gate.release()

    def count(self, method: str) -> int:
        return sum(name == method for name, _ in self.calls)

    def fail(self, method: str, error: BaseException, *, after: bool = False) -> None:
        """The next call of the method raises; `after`: when it has done its work."""
        (self.failures_after if after else self.failures).setdefault(method, []).append(error)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.inner, name)
        if name in ("open", "close", "bytes_written"):
            return attribute

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args))
            gate = self._gates.get(name)
            if gate is not None:
                await gate.acquire()
            if self.failures.get(name):
                raise self.failures[name].pop(0)
            if name in ("load", "history") and args[1] in self.corrupt:
                raise CorruptRecord("planted by the test", key=args[1])
            answer = self.answers[name].pop(0) if self.answers.get(name) else await attribute(*args, **kwargs)
            if self.failures_after.get(name):
                raise self.failures_after[name].pop(0)
            return answer

        return call
