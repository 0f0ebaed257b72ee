"""Every engine against the oracle: the same seeded operations, step by step, the same answers.

A run goes on until every (method, outcome) pair below has been seen, not for a count of steps; a pair that cannot be reached
any more fails the test, and so does an outcome that the table does not know.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from cluster.stores.base import HistoryBlob, Lease, RunKey, ShardId, Snapshot, Store, StoreError
from cluster.stores.memory import MemoryStore
from tests.stores.conftest import Engine

STEPS_MIN, STEPS_MAX = 600, 6_000
REOPEN_CHANCE = 0.01

OUTCOMES: dict[str, set[str]] = {
    "acquire": {"first", "again"},
    "append": {"ok", "LeaseLost"},
    "read_journal": {"empty", "some", "limited"},
    "journal_bounds": {"new", "untruncated", "truncated", "all truncated"},
    "checkpoint": {"ok", "truncated", "deleted", "LeaseLost", "ValueError"},
    "load": {"none", "current", "not current"},
    "current_run": {"none", "found"},
    "history": {"none", "one", "many"},
    "due": {"empty", "page", "limited"},
    "next_wake_at": {"none", "found"},
    "changed": {"empty", "page", "limited", "more than limit"},
    "runs": {"empty", "page", "limited"},
    "metadata_get": {"none", "found"},
    "metadata_list": {"empty", "some"},
    "metadata_put": {"created", "updated", "conflict"},
    "metadata_delete": {"deleted", "refused"},
    "bytes_written": {"some"},
}

SHARDS_COUNT = 3  # in use at a time
SHARD_STEPS = 200  # so often a new shard takes the place of an old one: some outcomes belong to a shard's youth
KEYS = [
    RunKey(namespace, workflow, run)
    for namespace in ("ns-a", "ns-b")
    for workflow in ("order", "Order", "\ufffd", "\U0001f600")
    for run in ("run-1", "run-2", "run-3")
]


def _classify(method: str, args: tuple[Any, ...], result: Any) -> str:
    """The name of an outcome in OUTCOMES."""
    if isinstance(result, Exception):
        return type(result).__name__
    by_method: dict[str, Callable[[], str]] = {
        "acquire": lambda: "first" if result.range_id == 1 else "again",
        "append": lambda: "ok",
        "read_journal": lambda: "empty" if not result else "limited" if len(result) == args[2] else "some",
        "journal_bounds": lambda: _classify_bounds(*result),
        "checkpoint": lambda: "truncated" if args[4] else "deleted" if args[3] else "ok",
        "load": lambda: "none" if result is None else "current" if result.is_current else "not current",
        "current_run": lambda: "none" if result is None else "found",
        "history": lambda: ("none", "one", "many")[min(len(result), 2)],
        "next_wake_at": lambda: "none" if result is None else "found",
        "metadata_get": lambda: "none" if result is None else "found",
        "metadata_list": lambda: "some" if result else "empty",
        "metadata_put": lambda: "conflict" if result is None else "created" if result == 1 else "updated",
        "metadata_delete": lambda: "deleted" if result else "refused",
        "bytes_written": lambda: "some",
    }
    if method in by_method:
        return by_method[method]()
    limit = args[2]  # due, changed, runs
    if len(result) > limit:
        return "more than limit"
    return "empty" if not result else "limited" if len(result) == limit else "page"


def _classify_bounds(truncated_to: int, last_position: int) -> str:
    if last_position == 0:
        return "new"
    return "untruncated" if truncated_to == 0 else "all truncated" if truncated_to == last_position else "truncated"


class _Script:
    """Draws operations, mostly legal ones. Knows only what an owner would: its leases, its positions, its blobs' ends."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.shards = [ShardId(shard) for shard in range(SHARDS_COUNT)]
        self.steps_count = 0
        self.leases: dict[ShardId, list[Lease]] = defaultdict(list)
        self.last: dict[ShardId, int] = defaultdict(int)
        self.blobs: dict[tuple[ShardId, RunKey, int], list[tuple[int, int]]] = {}

    def draw(self) -> tuple[str, tuple[Any, ...]]:
        self.steps_count += 1
        if self.steps_count % SHARD_STEPS == 0:
            self.shards = [*self.shards[1:], ShardId(self.shards[-1] + 1)]
        method = self.random.choice([*OUTCOMES, "append", "append", "append", "checkpoint", "checkpoint"])
        return method, getattr(self, f"_{method}", lambda: ())()

    def learn(self, method: str, args: tuple[Any, ...], result: Any) -> None:
        if isinstance(result, Exception):
            return
        if method == "acquire":
            self.leases[args[0]].append(result)
        elif method == "append":
            self.last[args[0].shard] = args[1]
        elif method == "checkpoint":
            for blob in args[2]:
                ends = self.blobs.setdefault((args[0].shard, blob.key, blob.branch), [])
                if ends and ends[-1][0] == blob.first_event_id:
                    ends.pop()
                ends.append((blob.first_event_id, blob.last_event_id))
            for of in [of for of in self.blobs if of[0] == args[0].shard and of[1] in args[3]]:
                del self.blobs[of]

    def _shard(self) -> ShardId:
        return self.random.choice(self.shards)

    def _lease(self) -> Lease:
        shard = self._shard()
        held = self.leases[shard]
        if not held:
            return Lease(shard, self.random.randint(0, 1), "nobody")
        return held[-1] if self.random.random() < 0.9 else self.random.choice(held)

    def _bytes(self) -> bytes:
        return self.random.randbytes(self.random.choice([0, 1, 30, 600, 5_000]))

    def _acquire(self) -> tuple[Any, ...]:
        return self._shard(), self.random.choice(["a", "b"])

    def _append(self) -> tuple[Any, ...]:
        lease = self._lease()
        wrong = self.random.choice([-1, 1, 5]) if self.random.random() < 0.05 else 0
        return lease, max(0, self.last[lease.shard] + 1 + wrong), self._bytes()

    def _read_journal(self) -> tuple[Any, ...]:
        shard = self._shard()
        return shard, self.random.randint(0, self.last[shard] + 1), self.random.choice([1, 3, 1_000])

    def _journal_bounds(self) -> tuple[Any, ...]:
        return (self._shard(),)

    def _checkpoint(self) -> tuple[Any, ...]:
        lease = self._lease()
        last = self.last[lease.shard]
        keys = self.random.sample(KEYS, self.random.randint(0, 4))
        deleted = self.random.sample(KEYS, 2) if self.random.random() < 0.2 else []
        truncate_to = self.random.choice([0, 0, last, last // 2, last + (self.random.random() < 0.2)])
        blobs = [self._blob(lease.shard, key) for key in keys]
        return lease, [self._row(key, last) for key in keys], blobs, deleted, truncate_to

    def _row(self, key: RunKey, last: int) -> Snapshot:
        draw = self.random
        wake_at = draw.choice([None, 0, 0, draw.randint(0, 20), draw.randint(0, 1 << 62)])
        return Snapshot(key, self._bytes(), draw.random() < 0.6, draw.random() < 0.6, wake_at, draw.randint(0, last))

    def _blob(self, shard: ShardId, key: RunKey) -> HistoryBlob:
        """The next piece of a branch; sometimes its last piece once more, longer."""
        branch = int(self.random.random() < 0.2)
        ends = self.blobs.get((shard, key, branch), [])
        first = ends[-1][1] + 1 if ends else 1
        grown = self.random.randint(0, 5)
        if ends and self.random.random() < 0.2:
            return HistoryBlob(key, branch, ends[-1][0], ends[-1][1] + grown, self._bytes())
        return HistoryBlob(key, branch, first, first + grown, self._bytes())

    def _load(self) -> tuple[Any, ...]:
        return self._shard(), self.random.choice(KEYS)

    def _current_run(self) -> tuple[Any, ...]:
        key = self.random.choice(KEYS)
        return self._shard(), key.namespace_id, key.workflow_id

    def _history(self) -> tuple[Any, ...]:
        of = (self._shard(), self.random.choice(KEYS), self.random.randint(0, 1))
        if self.blobs and self.random.random() < 0.7:
            of = self.random.choice(list(self.blobs))
        first = self.random.randint(1, 20)
        return (*of, first, first + self.random.randint(-1, 20))

    def _due(self) -> tuple[Any, ...]:
        after = (self.random.randint(0, 5), self.random.choice(KEYS)) if self.random.random() < 0.5 else None
        return self._shard(), self.random.choice([-1, 0, 10, 1 << 62]), self.random.choice([1, 2, 100]), after

    def _next_wake_at(self) -> tuple[Any, ...]:
        return self._shard(), self.random.choice([-1, 0, 10, 1 << 62])

    def _changed(self) -> tuple[Any, ...]:
        shard = self._shard()
        return shard, self.random.randint(-1, self.last[shard]), self.random.choice([1, 2, 100])

    def _runs(self) -> tuple[Any, ...]:
        after = self.random.choice([None, *KEYS])
        return self._shard(), after, self.random.choice([1, 3, 100])

    def _metadata_get(self) -> tuple[Any, ...]:
        return self.random.choice("kl"), self.random.choice("abc")

    def _metadata_list(self) -> tuple[Any, ...]:
        return (self.random.choice("klm"),)

    def _metadata_put(self) -> tuple[Any, ...]:
        return self.random.choice("kl"), self.random.choice("abc"), self._bytes(), self.random.randint(0, 3)

    def _metadata_delete(self) -> tuple[Any, ...]:
        return self.random.choice("kl"), self.random.choice("abc"), self.random.randint(0, 3)


async def _perform(store: Store, method: str, args: tuple[Any, ...]) -> Any:
    try:
        answer = getattr(store, method)(*args)
        return answer if method == "bytes_written" else await answer
    except (StoreError, ValueError) as refused:
        return refused


def _comparable(result: Any) -> Any:
    return type(result) if isinstance(result, Exception) else result


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_engine_answers_as_the_oracle_does(engine: Engine, seed: int) -> None:
    oracle, script = MemoryStore(), _Script(seed)
    missing = {(method, outcome) for method, outcomes in OUTCOMES.items() for outcome in outcomes}
    written_before_reopening = step = 0
    while missing or step < STEPS_MIN:
        step += 1
        assert step <= STEPS_MAX, f"seed {seed}: never seen: {sorted(missing)}"
        if engine.connect is not None and script.random.random() < REOPEN_CHANCE:
            if engine.store.kind != "memory":
                written_before_reopening += engine.store.bytes_written()
            await engine.reopen()
        method, args = script.draw()
        expected, found = await _perform(oracle, method, args), await _perform(engine.store, method, args)
        if method == "bytes_written":
            found += written_before_reopening
        assert _comparable(found) == _comparable(expected), f"seed {seed}, step {step}: {method}{args}"
        outcome = _classify(method, args, expected)
        assert outcome in OUTCOMES[method], f"seed {seed}, step {step}: {method} ended with {expected!r}"
        missing.discard((method, outcome))
        script.learn(method, args, expected)
    for shard in range(script.shards[-1] + 1):
        whole: dict[str, tuple[Any, ...]] = {"runs": (shard, None, 1_000), "read_journal": (shard, 0), "journal_bounds": (shard,)}
        for method, args in whole.items():
            assert await _perform(engine.store, method, args) == await _perform(oracle, method, args)
