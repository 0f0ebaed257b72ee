"""A run delta: the unit in which regions tell each other of runs. What a shard gives away, and what one takes in (replicate.py).

kind       | base           | carries
-----------+----------------+--------------------------------------------------------------------------------------
extension  | a head         | the entries that lead from the base to the head, as the journal has them
snapshot   | None           | the state, and its events from `events_from` on
tombstone  | None           | why the run was deleted; nothing else of it
nothing    | None           | the run is not there any more (its retention ended): there is nothing to be told
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cluster.core.branches import NOTHING, Head, Line
from cluster.core.entry import Base, DeletedNote, Entry
from cluster.core.merge import RunClaim
from cluster.stores.base import RunKey

RETENTION = "retention"  # a region deletes by itself what has passed its retention: no other needs to hear of it


class LosingBranch(msgspec.Struct, frozen=True, array_like=True):
    """A branch that lost: its state, and its events from the fork on. The active region salvages what was told to it."""

    head: Head
    state: bytes
    events_from: int
    events: bytes  # framed


class RunDelta(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """See the module's text. checksum: of the state at the head."""

    namespace_id: str
    workflow_id: str
    run_id: str
    head: Head = NOTHING
    base: Head | None = None
    entries: list[bytes] = []
    state: bytes = b""
    events_from: int = 1
    events: bytes = b""  # framed
    checksum: str = ""
    losers: list[LosingBranch] = []
    tombstone: str = ""
    claim: RunClaim | None = None  # of a run that is deleted: what has a lesser one is not current in its place
    successor: RunDelta | None = None  # the run that continues this one, begun by the same append

    @property
    def key(self) -> RunKey:
        return RunKey(self.namespace_id, self.workflow_id, self.run_id)

    @property
    def is_nothing(self) -> bool:
        return not (self.tombstone or self.entries or self.state)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(RunDelta)


def encode_delta(delta: RunDelta) -> bytes:
    return _encoder.encode(delta)


def decode_delta(data: bytes) -> RunDelta:
    """Raises msgspec.MsgspecError, for what a newer version added as well: it must not be lost in silence."""
    return _decoder.decode(data)


def head_before(head: Head, entries: Sequence[Entry]) -> Head:
    """The head that these entries were added to; its hash is not known."""
    last_event_id = entries[0].first_event_id - 1
    transitions = _cut(head.transitions, head.last_transition.number - len(entries))
    return Head(transitions, _cut(head.versions, last_event_id), last_event_id, b"")


def needs_snapshot(entries: Sequence[Entry]) -> bool:
    """A base is no entry that another region could apply: the events before it are not in any journal."""
    return any(isinstance(item, Base) for entry in entries for item in entry.items)


def deletion_of(entries: Sequence[Entry]) -> str:
    """Why the entries delete the run, "" if they don't."""
    return next((item.reason for entry in entries for item in entry.items if isinstance(item, DeletedNote)), "")


def _cut(line: Line, number: int) -> Line:
    """The line up to this number."""
    kept: list[tuple[int, int]] = []
    for last, version in line:
        if last >= number:
            if number > (kept[-1][0] if kept else 0):
                kept.append((number, version))
            break
        kept.append((last, version))
    return tuple(kept)
