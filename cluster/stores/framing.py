"""The frame around every stored value: one format byte, a CRC-32, the bytes.

    +--------+---------------------+------ - -
    | format | crc32 little-endian | data
    | 1 byte | 4 bytes             |
    +--------+---------------------+------ - -

The checksum covers the data and the row's *context*, that is its key and its indexed columns, so a value that ends up under
another row's key, or beside another row's wake-up time, is noticed as well. CRC-32 finds what disks and memory do by accident
(every burst up to 32 bits); it is not meant against an attacker, who could write the whole file anyway. Every engine uses this
frame, so rows can be moved from one engine to another as they are.
"""

from __future__ import annotations

from zlib import crc32

from cluster.stores.base import HistoryBlob, RunKey, ShardId, Snapshot

FORMAT = 1
_FORMAT_BYTE = bytes([FORMAT])
FRAME_BYTES = 5


class DamagedFrame(Exception):
    """The bytes are not what was stored; whoever knows the row's name raises CorruptRecord."""


def seal(data: bytes, context: bytes) -> bytes:
    """Frames `data` for the row that `context` names."""
    return b"".join((_FORMAT_BYTE, crc32(data, crc32(context)).to_bytes(4, "little"), data))


def unseal(stored: object, context: bytes) -> bytes:
    """The data within a frame. `stored` is whatever the engine gave back; raises DamagedFrame if it is not intact."""
    if not isinstance(stored, bytes) or len(stored) < FRAME_BYTES:
        raise DamagedFrame("shorter than a frame, or not bytes at all")
    if stored[0] != FORMAT:
        raise DamagedFrame(f"frame format {stored[0]} is not {FORMAT}")
    data = stored[FRAME_BYTES:]
    if crc32(data, crc32(context)) != int.from_bytes(stored[1:FRAME_BYTES], "little"):
        raise DamagedFrame("checksum differs")
    return data


def snapshot_context(
    shard: ShardId, key: RunKey, is_open: object, wake_at: object, changed_position: object
) -> bytes:
    """Names a run's row and its columns. is_current is left out: moving the pointer rewrites no row.

    The columns are typed `object` since a damaged row may give back anything, which then must not match.
    """
    flag = int(is_open) if isinstance(is_open, int) else is_open
    text = f"run\0{shard}\0{key.namespace_id}\0{key.workflow_id}\0{key.run_id}\0{flag}\0{wake_at}\0{changed_position}"
    return text.encode("utf-8", "replace")


def context_of_snapshot(shard: ShardId, row: Snapshot) -> bytes:
    return snapshot_context(shard, row.key, row.is_open, row.wake_at, row.changed_position)


def history_context(shard: ShardId, key: RunKey, branch: object, first_event_id: object, last_event_id: object) -> bytes:
    text = (
        f"history\0{shard}\0{key.namespace_id}\0{key.workflow_id}\0{key.run_id}"
        f"\0{branch}\0{first_event_id}\0{last_event_id}"
    )
    return text.encode("utf-8", "replace")


def context_of_history(shard: ShardId, blob: HistoryBlob) -> bytes:
    return history_context(shard, blob.key, blob.branch, blob.first_event_id, blob.last_event_id)


def journal_context(shard: ShardId, position: int) -> bytes:
    return b"journal\0%d\0%d" % (shard, position)


def metadata_context(kind: str, id: str, version: object) -> bytes:
    return f"metadata\0{kind}\0{id}\0{version}".encode("utf-8", "replace")
