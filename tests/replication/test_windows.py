"""The two ends of a stream as pure things: what is acknowledged, and up to where."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.inbox import Arrival, Inbox
from replication.messages import Ack, Hello, Offer, UnknownMessage, decode, encode, refusal_of
from replication.outbox import Outbox

HELLO = Hello("one", "id 1", 1, 10, 1, 1, 256, 1 << 20)


# --- the receiver's ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.randoms(use_true_random=False))
def test_the_ack_never_passes_a_number_that_is_not_done(count: int, draw: random.Random) -> None:
    inbox: Inbox[int] = Inbox(7)
    arrivals = [number for number in range(1, count + 1) for _ in range(draw.randint(1, 2))]
    draw.shuffle(arrivals)
    begun: list[int] = []
    done: set[int] = set()
    for number in arrivals:
        inbox.take(7, number, 1, number)
        begun += [number for number, _ in inbox.begin()]
        for one in [number for number in begun if number not in done and draw.random() < 0.5]:
            inbox.done(one)
            done.add(one)
        assert all(number in done for number in range(1, inbox.done_number + 1))
        assert inbox.done_number + 1 not in done
    assert begun == list(range(1, count + 1)), "each begins once, in the order of the numbers"


def test_what_was_asked_for_again_stays_open_until_it_came_and_is_done() -> None:
    inbox: Inbox[str] = Inbox(1)
    inbox.take(1, 1, 1, "entries")
    inbox.take(1, 2, 1, "more")
    assert [number for number, _ in inbox.begin()] == [1, 2]
    inbox.asked(1)
    inbox.done(2)
    assert inbox.done_number == 0
    assert inbox.take(1, 1, 1, "snapshot") is Arrival.NEW
    assert inbox.begin() == [(1, "snapshot")]
    inbox.done(1)
    assert inbox.done_number == 2


def test_a_receiver_that_has_forgotten_begins_where_the_sender_still_is() -> None:
    inbox: Inbox[str] = Inbox(1)
    inbox.take(1, 9, 8, "nine")
    assert not inbox.begin()
    inbox.take(1, 8, 8, "eight")
    assert [number for number, _ in inbox.begin()] == [8, 9]
    assert inbox.done_number == 7


def test_an_older_stream_is_not_looked_at() -> None:
    inbox: Inbox[str] = Inbox(5)
    assert inbox.take(4, 1, 1, "old") is Arrival.STALE
    assert not inbox.begin()


# --- the sender's --------------------------------------------------------------------------------------------------------


def test_the_cursor_follows_acknowledged_groups_only() -> None:
    outbox: Outbox[str] = Outbox(cursor=10)
    outbox.begin("a", 11, 10)  # the first run of group 11
    outbox.begin("b", 11, 11)
    outbox.begin("c", 12, 12)
    outbox.acked(1)
    assert outbox.cursor == 10
    outbox.acked(2)
    assert outbox.cursor == 11
    outbox.skipped(13)  # says nothing to this peer, and stands behind group 12
    assert outbox.cursor == 11
    outbox.acked(3)
    assert outbox.cursor == 13


def test_during_a_catch_up_the_cursor_is_the_catch_ups() -> None:
    outbox: Outbox[str] = Outbox(cursor=0)
    outbox.catch_up_begins(100)
    outbox.begin("live", 101, 101)
    outbox.begin("page", 50, 50, is_catch_up=True)
    outbox.acked(1)
    assert outbox.cursor == 0, "what lies before the live group is not told yet"
    outbox.acked(2)
    assert outbox.cursor == 50
    outbox.catch_up_ended()
    assert outbox.cursor == 101


def test_the_cursor_never_goes_back() -> None:
    outbox: Outbox[str] = Outbox(cursor=20)
    outbox.catch_up_begins(30)
    outbox.begin("page", 5, 5, is_catch_up=True)
    outbox.acked(1)
    assert outbox.cursor == 20
    outbox.acked(0)
    assert outbox.cursor == 20


def test_an_acknowledgement_of_what_was_never_said_is_refused() -> None:
    outbox: Outbox[str] = Outbox(cursor=0)
    outbox.begin("a", 1, 1)
    with pytest.raises(ValueError, match="2 is acknowledged"):
        outbox.acked(2)


# --- messages ------------------------------------------------------------------------------------------------------------


def test_messages_come_out_as_they_went_in() -> None:
    for message in (HELLO, Ack(1, 2, 3), Offer(1, 2, 3, 1, 9, b"delta")):
        assert decode(encode(message)) == message


def test_what_is_not_understood_is_refused_and_not_lost_in_silence() -> None:
    newer = {"type": "ack", "shard": 1, "stream": 2, "number": 3, "provided": "that"}
    for data in (b"", b"\x02abc", encode(HELLO)[:9], encode(HELLO)[:1] + msgspec.msgpack.encode(newer)):
        with pytest.raises(UnknownMessage):
            decode(data)


def test_a_hello_may_say_more_than_is_understood() -> None:
    newer = {**msgspec.to_builtins(HELLO), "colour": "blue"}
    assert decode(encode(HELLO)[:1] + msgspec.msgpack.encode(newer)) == HELLO


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cluster": "one"}, "not linked with itself"),
        ({"increment": 100}, "increments differ"),
        ({"initial_version": 1}, "could not be told apart"),
        ({"format_min": 2, "format_max": 3}, "upgrade one of them"),
    ],
)
def test_regions_that_cannot_be_linked_say_why(change: dict[str, object], reason: str) -> None:
    fine = Hello("two", "id 2", 2, 10, 1, 1, 256, 1 << 20)
    assert refusal_of(HELLO, fine) == ""
    assert reason in refusal_of(HELLO, msgspec.structs.replace(fine, **change))
