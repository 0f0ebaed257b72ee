"""What two regions know of one global namespace, put together: pure, and the same in any order, any number of times.

| of a record                                            | which one counts                                                     |
|--------------------------------------------------------|----------------------------------------------------------------------|
| ownership: active, failover version, handover, history | the higher failover version (replication/failover.py)                |
| state: registered, deprecated, deleted                 | the later one: there is no way back                                  |
| description, owner, retention, list of clusters        | each for itself: the last writer, by stamp (version, then cluster)   |
| each key of data, each search attribute                | the same; a search attribute that was removed keeps its stamp        |
| id, creation, name                                     | ours: an id has one creation, and a deleted namespace is renamed here|

A region stamps what it changes with one more than the highest stamp it has seen, so a change made in knowledge of another one
always beats it, and only changes that were made at the same time are decided by the cluster's name.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cluster.namespaces.record import NamespaceRecord, Stamp
from replication import failover

_NEVER = Stamp()
_FIELDS = ("description", "owner_email", "retention_ns", "clusters")
# name of the field, and the prefix of its keys among the stamps
_MAPS = {"data": "data:", "custom_search_attributes": "attribute:"}
_ABSENT = b""


def settings_of(record: NamespaceRecord) -> dict[str, Any]:
    """What is stamped, each by its key."""
    settings: dict[str, Any] = {name: getattr(record, name) for name in _FIELDS}
    for field, prefix in _MAPS.items():
        settings |= {prefix + key: value for key, value in getattr(record, field).items()}
    return settings


def stamped(before: NamespaceRecord, after: NamespaceRecord, here: str) -> NamespaceRecord:
    """`after` with stamps on what differs from `before`. A namespace that was local until now begins without any."""
    if not (before.is_global and after.is_global):
        return after
    old, new = settings_of(before), settings_of(after)
    changed = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
    if not changed:
        return after
    version = before.config_version + 1
    stamps = before.stamps | dict.fromkeys(sorted(changed), Stamp(version, here))
    return msgspec.structs.replace(after, config_version=version, stamps=stamps)


def merged(ours: NamespaceRecord, theirs: NamespaceRecord) -> NamespaceRecord:
    """Both are global and of one id. Raises OwnershipAlarm."""
    assert ours.id == theirs.id and ours.is_global and theirs.is_global
    ownership = failover.merge(ours.ownership, theirs.ownership)
    our_settings, their_settings = settings_of(ours), settings_of(theirs)
    settings: dict[str, Any] = {}
    stamps: dict[str, Stamp] = {}
    for key in sorted(our_settings.keys() | their_settings.keys() | ours.stamps.keys() | theirs.stamps.keys()):
        is_ours = _rank(ours, our_settings, key) >= _rank(theirs, their_settings, key)
        record, values = (ours, our_settings) if is_ours else (theirs, their_settings)
        if key in values:
            settings[key] = values[key]
        if key in record.stamps:
            stamps[key] = record.stamps[key]
    fields = {name: settings[name] for name in _FIELDS} | {name: _with_prefix(settings, prefix) for name, prefix in _MAPS.items()}
    return msgspec.structs.replace(
        ours,
        **fields,
        state=max(ours.state, theirs.state),
        config_version=max(ours.config_version, theirs.config_version),
        stamps=stamps,
        record_version=max(ours.record_version, theirs.record_version),
    ).owned(ownership)


def is_same(one: NamespaceRecord, other: NamespaceRecord) -> bool:
    """What travels is equal; the names of deleted ones may differ, and the order of keys."""
    return _essence(one) == _essence(other)


def _essence(record: NamespaceRecord) -> NamespaceRecord:
    return msgspec.structs.replace(record, name="", renamed_to="", created_at=0)


def _rank(record: NamespaceRecord, settings: dict[str, Any], key: str) -> tuple[int, str, bytes]:
    """The value decides only between two that were given one stamp, which a registry does not do."""
    stamp = record.stamps.get(key, _NEVER)
    return stamp.version, stamp.cluster, msgspec.msgpack.encode(settings[key]) if key in settings else _ABSENT


def _with_prefix(settings: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}
