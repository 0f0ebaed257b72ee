"""Messages that are joined come out as they went in, in their order, in fewer messages of the link below."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from chaos.sim.loop import simulate
from replication.joined_link import JOINED_BYTES_MAX, JoinedLink
from replication.link import LinkDown
from tests.replication.lossy_link import End, Faults, link_pair


def play(story: Callable[[JoinedLink, JoinedLink, End], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        one, two = link_pair(Faults())
        await story(JoinedLink(one), JoinedLink(two), one)

    simulate(run())


def test_many_small_messages_are_few_below_and_come_out_whole_and_in_order() -> None:
    async def story(ours: JoinedLink, theirs: JoinedLink, below: End) -> None:
        messages = [bytes([number]) * number for number in range(200)]  # an empty one among them
        for message in messages:
            await ours.send(message)
        assert [await theirs.receive() for _ in messages] == messages
        assert len(below.sent) == 1

    play(story)


def test_large_messages_wait_for_room_and_none_is_lost() -> None:
    async def story(ours: JoinedLink, theirs: JoinedLink, below: End) -> None:
        messages = [bytes([number]) * (JOINED_BYTES_MAX * 2 // 3) for number in range(10)]
        for message in messages:
            await ours.send(message)
        assert [await theirs.receive() for _ in messages] == messages
        assert max(map(len, below.sent)) <= 2 * JOINED_BYTES_MAX

    play(story)


def test_a_link_that_ends_ends_it_for_both_and_a_piece_of_a_message_is_none() -> None:
    async def story(ours: JoinedLink, theirs: JoinedLink, below: End) -> None:
        await ours.send(b"never told")
        ours.close()
        with pytest.raises(LinkDown):
            await theirs.receive()
        with pytest.raises(LinkDown):
            await ours.send(b"more")

    play(story)

    async def torn(ours: JoinedLink, theirs: JoinedLink, below: End) -> None:
        await below.send(b"\0\0\0\x09short")
        with pytest.raises(LinkDown):
            await theirs.receive()

    play(torn)


def test_what_fails_below_is_told_by_the_next_send() -> None:
    async def story(ours: JoinedLink, theirs: JoinedLink, below: End) -> None:
        below.close()
        await ours.send(b"lost")
        await asyncio.sleep(1)
        with pytest.raises(LinkDown):
            await ours.send(b"more")

    play(story)
