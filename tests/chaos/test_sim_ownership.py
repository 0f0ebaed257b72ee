"""The checker of shard ownership finds what was planted, and nothing in a record that is well."""

from __future__ import annotations

from chaos.checkers.ownership import (
    SECOND_NS,
    Acquired,
    Appended,
    Checkpointed,
    Ownership,
    moves_follow_the_ring,
    one_writer_per_shard,
)


def well() -> Ownership:
    record = Ownership()
    record.ring_seen("a#1", 0, ["a", "b"])
    record.ring_seen("b#1", 0, ["a", "b"])
    record.events = [
        Acquired(1, 0, 1, "a#1"),
        Acquired(1, 1, 1, "b#1"),
        Appended(2, 0, 1, "a#1", 1),
        Appended(3, 1, 1, "b#1", 1),
    ]
    return record


def test_a_record_that_is_well_shows_nothing() -> None:
    assert one_writer_per_shard(well()) == [] and moves_follow_the_ring(well()) == []


def test_a_fenced_append_is_found() -> None:
    record = well()
    record.events += [Acquired(4, 0, 2, "b#1"), Appended(5, 0, 1, "a#1", 2)]
    assert "a fenced owner's write was taken" in one_writer_per_shard(record)[0]


def test_rows_of_a_fenced_owner_and_rows_that_go_back_are_found() -> None:
    record = well()
    record.events += [Acquired(4, 0, 2, "b#1"), Checkpointed(5, 0, 1, "a#1"), Checkpointed(6, 0, 2, "b#1", "run")]
    fenced, older = one_writer_per_shard(record)[0], one_writer_per_shard(record)[-1]
    assert "a#1 wrote rows under range 1" in fenced and "wrote an older row over that of run" in older


def test_two_writers_of_one_range_are_found() -> None:
    record = well()
    record.events.append(Appended(4, 0, 1, "b#1", 2))
    assert "both wrote under range 1" in one_writer_per_shard(record)[0]


def test_an_acquire_that_raises_nothing_is_found() -> None:
    record = well()
    record.events.append(Acquired(4, 0, 1, "b#1"))
    assert "not a newer one" in one_writer_per_shard(record)[0]


def test_a_shard_taken_without_a_ring_that_says_so_is_found() -> None:
    record = well()
    record.events.append(Acquired(4, 0, 2, "b#1"))
    assert "no ring it had gave it that shard" in moves_follow_the_ring(record)[0]


def test_a_ring_of_late_is_enough_and_one_of_long_ago_is_not() -> None:
    record = well()
    record.ring_seen("a#1", 10 * SECOND_NS, ["b", "b"])
    record.events.append(Acquired(15 * SECOND_NS, 0, 2, "a#1"))
    assert moves_follow_the_ring(record) == []
    record.events.append(Acquired(25 * SECOND_NS, 0, 3, "a#1"))
    assert len(moves_follow_the_ring(record)) == 1
