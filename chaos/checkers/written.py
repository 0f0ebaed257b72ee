"""Everything that any region ever made durable, as it was appended: who wrote what first, and that it never changed.

Told of each append while the run goes on (`appended`, `owned`, `cursor`), asked for what it found at the end (`violations`).

    I1   a version's owner is one region, versions rise, and what carries a version was first written by its owner
    I3   event n of version v of a run is the same bytes wherever it is; versions of a history do not fall
    I4   a region has no event that its writer has not written before
    I12  a cursor rises, and never passes what is durable
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from chaos.checkers.histories import TOKEN, RunHistory, Violation
from cluster.core.branches import NOT_REPLICATED, owner_of
from cluster.core.entry import Base, Buffered, DeletedNote, Entry, Flushed


class EventName(NamedTuple):
    run_id: str
    event_id: int
    version: int


@dataclass
class Written:
    """initial_versions: of the regions, by name."""

    initial_versions: Mapping[str, int]
    violations: list[Violation] = field(default_factory=list)
    events: dict[EventName, bytes] = field(default_factory=dict)  # -> encoded
    of_run: dict[str, set[tuple[int, int]]] = field(default_factory=dict)  # run id -> (event id, version)
    buffered: dict[str, set[str]] = field(default_factory=dict)  # a client's token -> runs whose events without an id have it
    inherited: dict[str, int] = field(default_factory=dict)  # run id -> its last event that a reset copied
    workflow_ids: dict[str, str] = field(default_factory=dict)
    _entries: set[bytes] = field(default_factory=set)
    _owners: dict[tuple[str, int], str] = field(default_factory=dict)
    _versions: dict[tuple[str, str], int] = field(default_factory=dict)
    _cursors: dict[tuple[str, str], int] = field(default_factory=dict)

    # --- told of ----------------------------------------------------------------------------------------------------------
    def appended(self, region: str, entries: Iterable[tuple[Entry, bytes]]) -> None:
        for entry, data in entries:
            if entry.items and all(isinstance(item, Base) for item in entry.items):
                continue  # another region's state as it is: its events are known by themselves
            digest = hashlib.blake2b(data, digest_size=16).digest()
            is_new = digest not in self._entries
            self._entries.add(digest)
            self._see_writer(region, entry, is_new)
            self._see_events(region, entry, is_new)

    def _see_writer(self, region: str, entry: Entry, is_new: bool) -> None:
        is_removal = all(isinstance(item, DeletedNote) for item in entry.items)  # each region removes for itself
        if not is_new or entry.version == NOT_REPLICATED or is_removal:
            return
        if owner_of(entry.version) != self.initial_versions[region]:
            self._blame("I1", entry, f"{region} wrote under version {entry.version}, which is not its own")

    def _see_events(self, region: str, entry: Entry, is_new: bool) -> None:
        self.workflow_ids[entry.run_id] = entry.workflow_id
        event_id = entry.first_event_id
        for item in entry.items:
            if isinstance(item, Base):
                event_id = item.last_event_id + 1
                self.inherited[entry.run_id] = item.last_event_id
            if isinstance(item, Buffered):
                for token in TOKEN.findall(item.event):
                    self.buffered.setdefault(token.decode(), set()).add(entry.run_id)
            encoded = item if isinstance(item, bytes) else item.event if isinstance(item, Flushed) else None
            if encoded is None:
                continue
            name = EventName(entry.run_id, event_id, entry.version)
            known = self.events.get(name)
            if known is None and not is_new:
                self._blame("I4", entry, f"{region} has event {event_id} of version {entry.version}, which nobody wrote")
            if known is not None and known != encoded:
                self._blame("I3", entry, f"event {event_id} of version {entry.version} was written in two ways")
            self.events[name] = encoded
            self.of_run.setdefault(entry.run_id, set()).add((event_id, entry.version))
            event_id += 1

    def owned(self, region: str, namespace_id: str, version: int, active: str) -> None:
        """A region's record of a namespace says so."""
        if version == NOT_REPLICATED:
            return
        known = self._owners.setdefault((namespace_id, version), active)
        if known != active:
            self.violations.append(Violation("I1", namespace_id, "", f"version {version} belongs to {known} and to {active}"))
        before = self._versions.get((region, namespace_id), 0)
        if version < before:
            self.violations.append(Violation("I1", namespace_id, "", f"{region} went from version {before} back to {version}"))
        self._versions[region, namespace_id] = version

    def cursor(self, region: str, name: str, position: int, durable: int) -> None:
        """How far a peer has what a shard told it."""
        before = self._cursors.get((region, name), 0)
        if position < before:
            self.violations.append(Violation("I12", name, "", f"the cursor in {region} went from {before} back to {position}"))
        if position > durable:
            self.violations.append(Violation("I12", name, "", f"the cursor in {region} is at {position}, durable is {durable}"))
        self._cursors[region, name] = position

    def _blame(self, check: str, entry: Entry, text: str) -> None:
        self.violations.append(Violation(check, entry.workflow_id, entry.run_id, text))

    # --- at the end ---------------------------------------------------------------------------------------------------------
    def histories_are_written(self, region: str, histories: Sequence[RunHistory]) -> list[Violation]:
        """I3 and I4 of what can be read in a region: nothing that nobody wrote, and no version that falls."""
        found: list[Violation] = []
        for history in histories:
            last_version = 0
            for event in history.events:
                name = EventName(history.run_id, event.event_id, event.version)
                if event.version < last_version:
                    text = f"{region}: event {event.event_id} has version {event.version} behind {last_version}"
                    found.append(Violation("I3", history.workflow_id, history.run_id, text))
                last_version = event.version
                if event.event_id > self.inherited.get(history.run_id, 0) and name not in self.events:
                    text = f"{region} shows event {event.event_id} of version {event.version}, which nobody wrote"
                    found.append(Violation("I4", history.workflow_id, history.run_id, text))
        return found

    def lost(self, histories: Sequence[RunHistory]) -> dict[EventName, bytes]:
        """What was durable somewhere and is in none of these histories."""
        kept = {(one.run_id, event.event_id, event.version) for one in histories for event in one.events}
        runs = {history.run_id for history in histories}
        return {name: data for name, data in self.events.items() if name.run_id in runs and tuple(name) not in kept}
