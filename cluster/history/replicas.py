"""What a shard keeps because there are other regions: branches that lost, and tombstones. Both are few, and rows of metadata.

A fork's winner is written to the store under a branch number of its own, so no stored event is ever overwritten. Which
number is the run's history follows from the state: that of the listed head which the state contains. So the list may be
written before the journal says that the branch has changed, and a crash in between changes nothing.

A tombstone outlives its run until every peer has it: without it, a region that was away would bring the run back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import structlog

from cluster.core.branches import Head, contains, head_of, rank
from cluster.core.errors import CallerError
from cluster.core.merge import RunClaim, claim_of
from cluster.core.state import RunState
from cluster.history.current_runs import Buried, Name, lesser_claim, name_of
from cluster.history.inboxes import Inboxes
from cluster.history.loss_rows import LossRows
from cluster.history.noted_runs import NotedRuns, digest_of
from cluster.history.regions import may_write, run_name
from cluster.history.run import Run
from cluster.history.salvaging import Poison, end_the_loser
from cluster.stores.base import RunKey, Store, StoreError, StoreUnavailable

if TYPE_CHECKING:
    from cluster.core.ledger import LedgerLine
    from cluster.history.shard import Shard

log = structlog.get_logger("history")

BRANCHES_KIND = "replication-branches"
TOMBSTONES_KIND = "replication-tombstones"
HIDDEN_KIND = "replication-hidden"
TOMBSTONE_AGE_NS_MIN = 86_400 * 1_000_000_000  # a message that was sent before the deletion has arrived by then, or never will
UNKNOWN_REASON = "deleted"  # of a deletion that was found in a row, after a restart


class KeptBranch(msgspec.Struct, frozen=True, array_like=True):
    """A branch as the store has it: its events from events_from on are under the number. state b"": it has not lost."""

    number: int
    head: Head
    events_from: int
    state: bytes = b""


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
        self._dead_of: dict[Name, set[RunKey]] = {}  # by workflow id
        self._writing: set[RunKey] = set()
        self.losses = LossRows(shard)
        self.inboxes = Inboxes(shard, self.losses)
        self.hidden = NotedRuns(shard.store, f"{HIDDEN_KIND}/{shard.id}")  # open runs that lost their workflow id
        self.expired: set[RunKey] = set()  # deleted by their retention, or by another region: none needs to hear of it from here

    async def load(self) -> None:
        """Raises StoreError."""
        for row in await self._store.metadata_list(self._kind(BRANCHES_KIND)):
            listed = msgspec.msgpack.decode(row.data, type=BranchList)
            self._branches[listed.key] = row.version, listed.branches
        for row in await self._store.metadata_list(self._kind(TOMBSTONES_KIND)):
            found = msgspec.msgpack.decode(row.data, type=Tombstone)
            self._remember(row.version, found)
        await self.inboxes.holders.load()
        await self.hidden.load()
        current_runs = self._shard.current_runs
        current_runs.on_vacant, current_runs.on_begin, current_runs.on_beaten = self._vacant, self._begun, self._beaten
        current_runs.find = self._shard.runs.get

    def _vacant(self, deleted: Run) -> None:
        """The store's pointer shall follow: nobody has this run's place."""
        self._shard.mark_dirty(deleted)
        if self._shard.is_open:
            self._shard.checkpointer.request()

    def _remember(self, version: int, tombstone: Tombstone) -> None:
        self._tombstones[tombstone.key] = version, tombstone
        self._dead_of.setdefault(name_of(tombstone.key), set()).add(tombstone.key)

    def _kind(self, kind: str) -> str:
        return f"{kind}/{self._shard.id}"

    def _begun(self, run: Run) -> None:
        self._shard.regions.hidden.discard(run_name(run.state))
        name = name_of(run.key)
        if self._shard.is_open and self.inboxes.holders.of(name):
            self._shard.spawn(self._deliver([name]), f"inbox-{self._shard.id}")

    async def _deliver(self, names: list[Name]) -> None:
        for name in names:
            try:
                await self.inboxes.deliver(name)
            except (CallerError, StoreError) as error:  # looked at again with the tombstones
                log.info("an inbox is not given away yet", workflow_id=name[1], error=str(error))

    def _beaten(self, run: Run) -> None:
        """It does nothing from now on."""
        self._shard.regions.hidden.add(run_name(run.state))
        if self._shard.is_open and self._shard.is_durable(run):  # else its commit settles it
            self._shard.settle(run, run.state)

    # --- runs that lost their workflow id -------------------------------------------------------------------------------

    def claim_later(self, run: Run) -> None:
        """An open run that is not current has gone on: it may have the better claim now, as the other regions will see. If not,
        it is ended by the active region, and until then it does nothing."""
        self._shard.regions.hidden.add(run_name(run.state))
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
            if shard.is_durable(became):
                shard.settle(became, became.state)
        if became is not run:
            await self._end_hidden(run)

    async def _end_hidden(self, run: Run) -> None:
        try:
            await self.end_or_note(run)
        except Poison as error:
            log.error("a run that lost its workflow id cannot be ended", run=run.key, reason=error.reason)
        except (CallerError, StoreError) as error:  # looked at again with the tombstones
            log.info("a run that lost its workflow id is not ended yet", run=run.key, error=str(error))

    async def end_or_note(self, run: Run) -> list[LedgerLine]:
        """An open run that is not current: ended here if this region is active, else noted for when it will be. Returns the
        ledger's lines. Raises Poison, CallerError, StoreError."""
        if not run.state.is_open or run.is_current or run.is_evicted or run.state.is_deleted:
            return []
        if may_write(self._shard.regions, run.state):
            ledger = await end_the_loser(self._shard, run)
            if run.state.closed_at:
                await self.hidden.forget(run.key)
                self._shard.regions.hidden.discard(run_name(run.state))
            return ledger
        await self.hidden.note(run.key)
        return []

    async def end_all_hidden(self, names: list[Name]) -> None:
        """Raises CallerError, StoreError."""
        for key in [key for name in names for key in self.hidden.of(name)]:
            run = await self._shard.run(key)
            if run is None or not run.state.is_open or run.is_current:
                await self.hidden.forget(key)
            elif may_write(self._shard.regions, run.state):
                await self._end_hidden(run)

    async def look_for_successor(self, current: Run) -> None:
        """Of a run that is current although another has taken its place: that one, if it is here. Raises CallerError."""
        state = current.state
        successor = state.new_run_id or state.reset_run_id
        if not successor or not current.is_current or not self._shard.regions.is_replicated(state.namespace_id):
            return
        run = await self._shard.run(RunKey(state.namespace_id, state.workflow_id, successor))
        if run is not None and current.is_current and (became := self._shard.current_runs.claims(run)) is not None:
            self._shard.mark_dirty(became)

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

    def listed(self, key: RunKey) -> list[KeptBranch]:
        """All branches of the run that were kept, the one that won among them as it was then."""
        return self._branches.get(key, (0, []))[1]

    def forked(self, namespace_id: str) -> list[RunKey]:
        """The runs that have more than one branch."""
        return [key for key in self._branches if key.namespace_id == namespace_id]

    def forked_namespaces(self) -> list[str]:
        return sorted({key.namespace_id for key in self._branches})

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

    def buried(self, namespace_id: str, workflow_id: str) -> list[Buried]:
        """The deleted runs of this workflow id, and their claims."""
        tombstones = [self._tombstones[key][1] for key in self._dead_of.get((namespace_id, workflow_id), ())]
        return [Buried(one.key, one.claim) for one in tombstones if one.claim is not None]

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
            await self._merge_claim(key, claim)
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
        self._remember(version, tombstone)
        self._shard.current_runs.make_place(name_of(key))  # a run that lost its place meanwhile is not the current one

    async def _merge_claim(self, key: RunKey, claim: RunClaim | None) -> None:
        version, found = self._tombstones[key]
        merged = lesser_claim(found.claim, claim)
        if merged == found.claim:
            return
        tombstone = msgspec.structs.replace(found, claim=merged)
        written = await self._store.metadata_put(
            self._kind(TOMBSTONES_KIND), digest_of(key), msgspec.msgpack.encode(tombstone), version
        )
        if written is None:  # an earlier write that seemed to fail
            raise StoreUnavailable(f"the tombstone of {key} is not what it was")
        self._remember(written, tombstone)
        self.contend_again(name_of(key))

    def contend_again(self, name: Name) -> None:
        """A run is deleted whose claim may be less than it seemed."""
        if (became := self._shard.current_runs.contend_again(name)) is not None:
            self._shard.mark_dirty(became)
            self._shard.checkpointer.request()

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

    async def look_again(self) -> None:
        """At what could not be done when it came up. Raises CallerError, StoreError."""
        await self.end_all_hidden(self.hidden.names())
        for name in self.inboxes.holders.names():
            await self.inboxes.deliver(name)
        await self.losses.forget_old()

    async def forget_passed(self, position: int) -> None:
        """Drops the tombstones that every peer has had for long enough. Raises StoreError."""
        try:
            await self.look_again()
        except CallerError as error:
            log.info("what waits for a region's turn waits on", shard=self._shard.id, error=str(error))
        old = self._shard.clock.now_ns() - TOMBSTONE_AGE_NS_MIN
        passed = [
            (key, version) for key, (version, one) in self._tombstones.items() if one.position <= position and one.at <= old
        ]
        for key, version in passed:
            await self._store.metadata_delete(self._kind(TOMBSTONES_KIND), digest_of(key), version)
            del self._tombstones[key]
            self._dead_of[name_of(key)].discard(key)
            if not self._dead_of[name_of(key)]:
                del self._dead_of[name_of(key)]
