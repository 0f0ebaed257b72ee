"""The loss ledger's rows of one shard: one line for each thing that a losing branch (or run) had, and what became of it.

Written before the journal says so, and again with where each thing was appended. A branch that is salvaged once more finds its
things appended already: a line that says where keeps its word. Rows stay for the retention of their namespace.

    row    of a branch of a run, LINES_MAX lines each: namespace, workflow id, run id, the branch's name. Branches that part
           from their winners at the same point have one name: versions tell their lines apart
    cut    of a namespace and a version: this region has taken it over by force, and had this much of the other one's shards
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from cluster.core.errors import CallerError
from cluster.core.ledger import REAPPLIED, LedgerLine, Outcome, Source
from cluster.core.state import RunState
from cluster.stores.base import StoreUnavailable

if TYPE_CHECKING:
    from cluster.history.shard import Shard

LEDGER_KIND = "replication-ledger"
CUTS_KIND = "replication-cuts"
LINES_MAX = 500
WHOLE_RUN = "0.0"  # the name of the branch then
TRIES_MAX = 3


class LossRow(msgspec.Struct, frozen=True):
    """number: which part of the branch's lines. at: when the branch was first salvaged, ns since the epoch."""

    namespace_id: str
    workflow_id: str
    run_id: str
    branch: str
    number: int
    at: int
    lines: list[LedgerLine]  # without the events themselves


class Cut(msgspec.Struct, frozen=True):
    """positions: of the peer's shards, the last one that this region had when it took over. at: ns since the epoch."""

    namespace_id: str
    peer: str
    old_version: int
    new_version: int
    positions: dict[int, int]
    at: int


class LossRows:
    """One shard's."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._pruned_at = 0

    @property
    def _kind(self) -> str:
        return f"{LEDGER_KIND}/{self._shard.id}"

    async def write(self, lines: list[LedgerLine]) -> list[LedgerLine]:
        """lines: all of one branch. Returns them as the ledger has them now; durable at return. Raises StoreError."""
        if not lines:
            return []
        first = lines[0]
        before, at = await self._lines_of(first)
        cut_versions = await self._cut_versions(first.namespace_id)
        kept = _kept_word(before, [msgspec.structs.replace(line, is_past_cut=line.version in cut_versions) for line in lines])
        listed = _together(before, kept)
        if listed != before:
            await self._put(listed, at or self._shard.clock.now_ns())
        return kept

    async def say_where(self, given: list[LedgerLine]) -> None:
        """The lines as they were appended. Raises StoreError."""
        for name in {(line.run_id, line.branch) for line in given}:
            of_branch = [line for line in given if (line.run_id, line.branch) == name]
            before, at = await self._lines_of(of_branch[0])
            if not before:
                continue  # another region's ledger has them
            places = {_place_of(line): line for line in of_branch}
            kept = [_said_where(line, places.get(_place_of(line))) for line in before]
            if kept != before:
                await self._put(kept, at)

    async def of_run(self, loser: RunState) -> list[LedgerLine]:
        """Of a whole run that lost its workflow id. Raises StoreError."""
        name = LedgerLine(loser.namespace_id, loser.workflow_id, loser.run_id, Source.EVENT, 0, 0, 0, Outcome.MERGED, "")
        return (await self._lines_of(msgspec.structs.replace(name, branch=WHOLE_RUN)))[0]

    async def _lines_of(self, line: LedgerLine) -> tuple[list[LedgerLine], int]:
        found: list[LedgerLine] = []
        at = 0
        while True:
            row = await self._shard.store.metadata_get(self._kind, _id_of(line, len(found) // LINES_MAX))
            if row is None:
                return found, at
            part = decode_row(row.data)
            found, at = found + part.lines, part.at
            if len(part.lines) < LINES_MAX:
                return found, at

    async def _put(self, lines: list[LedgerLine], at: int) -> None:
        store, first = self._shard.store, lines[0]
        for number in range(0, len(lines), LINES_MAX):
            part = number // LINES_MAX
            of_row = [msgspec.structs.replace(line, event=b"", started=b"") for line in lines[number : number + LINES_MAX]]
            row = LossRow(first.namespace_id, first.workflow_id, first.run_id, first.branch, part, at, of_row)
            id, data = _id_of(first, part), msgspec.msgpack.encode(row)
            for _ in range(TRIES_MAX):  # an earlier write that seemed to fail may have been done
                stored = await store.metadata_get(self._kind, id)
                if await store.metadata_put(self._kind, id, data, 0 if stored is None else stored.version) is not None:
                    break
            else:
                raise StoreUnavailable(f"the ledger's row {id} is written by somebody else")

    async def _cut_versions(self, namespace_id: str) -> set[int]:
        rows = await self._shard.store.metadata_list(CUTS_KIND)
        cuts = [decode_cut(row.data) for row in rows]
        return {cut.old_version for cut in cuts if cut.namespace_id == namespace_id}

    async def forget_old(self) -> None:
        """Drops the rows that are older than their namespace's retention, looking once in an hour. Raises StoreError."""
        store, now = self._shard.store, self._shard.clock.now_ns()
        if now - self._pruned_at < 3600 * 1_000_000_000:
            return
        self._pruned_at = now
        for row in await store.metadata_list(self._kind):
            found = decode_row(row.data)
            try:
                retention_ns = self._shard.context(found.namespace_id).retention_ns
            except CallerError:
                retention_ns = 0  # its namespace is gone
            if found.at + retention_ns < now:
                await store.metadata_delete(self._kind, row.id, row.version)


def decode_row(data: bytes) -> LossRow:
    return msgspec.msgpack.decode(data, type=LossRow)


def decode_cut(data: bytes) -> Cut:
    return msgspec.msgpack.decode(data, type=Cut)


def _id_of(line: LedgerLine, part: int) -> str:
    name = f"{line.namespace_id}\0{line.workflow_id}\0{line.run_id}\0{line.branch}"
    return f"{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}-{part}"


def _kept_word(before: list[LedgerLine], now: list[LedgerLine]) -> list[LedgerLine]:
    """What was appended the first time is a duplicate the second time, and its line stays as it was. What was buffered may have
    got its id meanwhile: it is known by its key."""
    said = {_place_of(line): line for line in before}
    by_key = {(line.event_type, line.key): line for line in before if line.key and line.outcome in REAPPLIED}
    kept = []
    for line in now:
        bare = msgspec.structs.replace(line, event=b"", started=b"")
        same = by_key.get((line.event_type, line.key)) or said.get(_place_of(line))
        was_done = same is not None and same.outcome in REAPPLIED and line.outcome not in REAPPLIED
        if same is not None and was_done and (same.winner_run_id or line.outcome in (Outcome.DUPLICATE, Outcome.MERGED)):
            bare = msgspec.structs.replace(
                same, source=line.source, number=line.number, version=line.version, is_past_cut=line.is_past_cut
            )
        elif same is not None and same.winner_run_id and line.outcome in REAPPLIED:
            bare = msgspec.structs.replace(bare, winner_run_id=same.winner_run_id, winner_event_id=same.winner_event_id)
        kept.append(bare)
    return kept


def _place_of(line: LedgerLine) -> tuple[Source, int, int]:
    """Where the loser had it. One region wrote each version, so no other thing of the run has this place."""
    return line.source, line.number, line.version


def _together(before: list[LedgerLine], kept: list[LedgerLine]) -> list[LedgerLine]:
    """The row's lines, in the order in which they came. What was buffered, and has its id now, has its line under that."""
    now = {_place_of(line): line for line in kept}
    with_id = {(line.event_type, line.key) for line in kept if line.key}
    older = [
        line
        for line in before
        if _place_of(line) in now or line.source is Source.EVENT or (line.event_type, line.key) not in with_id
    ]
    known = {_place_of(line) for line in older}
    return [now.get(_place_of(line), line) for line in older] + [line for line in kept if _place_of(line) not in known]


def _said_where(line: LedgerLine, given: LedgerLine | None) -> LedgerLine:
    if given is None:
        return line
    return msgspec.structs.replace(line, winner_run_id=given.winner_run_id, winner_event_id=given.winner_event_id)
