"""What a shard keeps because there are other regions: branches that lost, and tombstones. Both are few, and rows of metadata.

A fork's winner is written to the store under a branch number of its own, so no stored event is ever overwritten. Which
number is the run's history follows from the state: that of the listed head which the state contains. So the list may be
written before the journal says that the branch has changed, and a crash in between changes nothing.

A tombstone outlives its run until every peer has it: without it, a region that was away would bring the run back.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec
import structlog

from cluster.core.branches import Head, contains, head_of, rank
from cluster.core.errors import CallerError
from cluster.core.ledger import LedgerLine
from cluster.core.merge import RunClaim, claim_of
from cluster.core.state import RunState
from cluster.history.run import Run
from cluster.stores.base import RunKey, Store, StoreError, StoreUnavailable

if TYPE_CHECKING:
    from cluster.history.shard import Shard

log = structlog.get_logger("history")

BRANCHES_KIND = "replication-branches"
TOMBSTONES_KIND = "replication-tombstones"
TOMBSTONE_AGE_NS_MIN = 86_400 * 1_000_000_000  # a message that was sent before the deletion has arrived by then, or never will
UNKNOWN_REASON = "deleted"  # of a deletion that was found in a row, after a restart


def digest_of(key: RunKey) -> str:
    """A run's name as the id of a metadata row, which must be short."""
    return hashlib.blake2b(f"{key.namespace_id}\0{key.workflow_id}\0{key.run_id}".encode(), digest_size=16).hexdigest()


class KeptBranch(msgspec.Struct, frozen=True, array_like=True):
    """A branch as the store has it: its events from events_from on are under the number. state b"": it has not lost."""

    number: int
    head: Head
    events_from: int
    state: bytes = b""
    ledger: list[LedgerLine] = []


class BranchList(msgspec.Struct, frozen=True):
    key: RunKey
    branches: list[KeptBranch]


class Tombstone(msgspec.Struct, frozen=True):
    """position: of our journal; what changed later is caught up later."""

    key: RunKey
    reason: str
    position: int
    at: int
    claim: RunClaim | None = None


class Replicas:
    """One shard's. `load` before anything else."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._store: Store = shard.store
        self._branches: dict[RunKey, tuple[int, list[KeptBranch]]] = {}
        self._tombstones: dict[RunKey, tuple[int, Tombstone]] = {}
        self._writing: set[RunKey] = set()
        self.expired: set[RunKey] = set()  # deleted by their retention: no other region needs to hear of it

    async def load(self) -> None:
        """Raises StoreError."""
        for row in await self._store.metadata_list(self._kind(BRANCHES_KIND)):
            listed = msgspec.msgpack.decode(row.data, type=BranchList)
            self._branches[listed.key] = row.version, listed.branches
        for row in await self._store.metadata_list(self._kind(TOMBSTONES_KIND)):
            found = msgspec.msgpack.decode(row.data, type=Tombstone)
            self._tombstones[found.key] = row.version, found

    def _kind(self, kind: str) -> str:
        return f"{kind}/{self._shard.id}"

    def claim_later(self, run: Run) -> None:
        """An open run that is not current has gone on: it may have the better claim now, as the other regions will see."""
        self._shard.spawn(self._claim(run), f"claim-{self._shard.id}")

    async def _claim(self, run: Run) -> None:
        shard, key = self._shard, run.key
        try:
            current = await shard.current(key.namespace_id, key.workflow_id)  # so that it is in memory
        except CallerError as error:
            log.info("who is current is not known yet", run=key, error=error.message)
            return
        if current is run or run.is_evicted or run.state.is_deleted or (current is not None and current.is_evicted):
            return
        if (became := shard.current_runs.claims(run)) is not None:
            shard.mark_dirty(became)
            shard.checkpointer.request()

    # --- branches -------------------------------------------------------------------------------------------------------

    def branch_of(self, key: RunKey, state: RunState) -> int:
        """The number under which the history of this state is stored."""
        listed = self._branches.get(key)
        if listed is None:
            return 0
        head = head_of(state)
        return max((one.number for one in listed[1] if contains(head, one.head)), default=0)

    def losers(self, key: RunKey, state: RunState) -> list[KeptBranch]:
        """The branches of the run that lost to this state. One that is above it was about to replace it, and a crash came."""
        listed = self._branches.get(key)
        if listed is None:
            return []
        head = head_of(state)
        return [one for one in listed[1] if one.state and rank(one.head) < rank(head) and not contains(head, one.head)]

    def forked(self, namespace_id: str) -> list[RunKey]:
        """The runs that have more than one branch."""
        return [key for key in self._branches if key.namespace_id == namespace_id]

    def next_number(self, key: RunKey) -> int:
        listed = self._branches.get(key)
        return 1 if listed is None else 1 + max(one.number for one in listed[1])

    async def keep(self, key: RunKey, *branches: KeptBranch) -> None:
        """Durable at return; one that is listed under the same number is replaced. Raises StoreError."""
        version, listed = self._branches.get(key, (0, []))
        numbers = {one.number for one in branches}
        listed = [one for one in listed if one.number not in numbers] + list(branches)
        data = msgspec.msgpack.encode(BranchList(key, listed))
        written = await self._store.metadata_put(self._kind(BRANCHES_KIND), digest_of(key), data, version)
        if written is None:  # an earlier write that seemed to fail
            row = await self._store.metadata_get(self._kind(BRANCHES_KIND), digest_of(key))
            if row is not None:
                self._branches[key] = row.version, msgspec.msgpack.decode(row.data, type=BranchList).branches
            raise StoreUnavailable(f"the list of branches of {key} is not what it was")
        self._branches[key] = written, listed

    async def removed(self, key: RunKey) -> None:
        """The run has left the store, with all its branches. Raises StoreError."""
        self.expired.discard(key)
        listed = self._branches.pop(key, None)
        if listed is not None:
            await self._store.metadata_delete(self._kind(BRANCHES_KIND), digest_of(key), listed[0])

    # --- tombstones -----------------------------------------------------------------------------------------------------

    def is_dead(self, key: RunKey) -> bool:
        return key in self._tombstones

    def buried(self, namespace_id: str, workflow_id: str) -> RunClaim | None:
        """The best claim of a deleted run of this workflow id."""
        claims = [
            one.claim
            for key, (_, one) in self._tombstones.items()
            if (key.namespace_id, key.workflow_id) == (namespace_id, workflow_id) and one.claim is not None
        ]
        return max(claims, default=None)

    def claim_of_dead(self, key: RunKey) -> RunClaim | None:
        found = self._tombstones.get(key)
        return None if found is None else found[1].claim

    def may_remove(self, run: Run) -> bool:
        """Whether a deleted run may leave the store: its tombstone is durable, or none is needed. Else one is begun."""
        key = run.key
        if key in self.expired or key in self._tombstones or not self._shard.regions.is_replicated(key.namespace_id):
            return True
        if key not in self._writing:
            self._writing.add(key)
            self._shard.spawn(self._bury_later(key, run.position, claim_of(run.state)), f"tombstone-{self._shard.id}")
        return False

    async def bury(self, key: RunKey, reason: str, position: int, claim: RunClaim | None) -> None:
        """Durable at return. Raises StoreError."""
        if key in self._tombstones:
            return
        tombstone = Tombstone(key, reason, position, self._shard.clock.now_ns(), claim)
        version = await self._store.metadata_put(
            self._kind(TOMBSTONES_KIND), digest_of(key), msgspec.msgpack.encode(tombstone), 0
        )
        if version is None:  # an earlier write that seemed to fail
            row = await self._store.metadata_get(self._kind(TOMBSTONES_KIND), digest_of(key))
            if row is None:
                raise StoreUnavailable(f"the tombstone of {key} comes and goes")
            version, tombstone = row.version, msgspec.msgpack.decode(row.data, type=Tombstone)
        self._tombstones[key] = version, tombstone

    async def _bury_later(self, key: RunKey, position: int, claim: RunClaim) -> None:
        try:
            await self.bury(key, UNKNOWN_REASON, position, claim)
        except StoreError as error:  # the run stays dirty, and the next checkpoint asks again
            log.warning("a tombstone could not be written yet", run=key, error=repr(error))
        finally:
            self._writing.discard(key)

    def tombstones(self, after: int) -> list[Tombstone]:
        """Those of positions behind this one."""
        return sorted((one for _, one in self._tombstones.values() if one.position > after), key=lambda one: one.position)

    async def forget_passed(self, position: int) -> None:
        """Drops the tombstones that every peer has had for long enough. Raises StoreError."""
        old = self._shard.clock.now_ns() - TOMBSTONE_AGE_NS_MIN
        passed = [
            (key, version) for key, (version, one) in self._tombstones.items() if one.position <= position and one.at <= old
        ]
        for key, version in passed:
            await self._store.metadata_delete(self._kind(TOMBSTONES_KIND), digest_of(key), version)
            del self._tombstones[key]
