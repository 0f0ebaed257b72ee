"""Two regions on one link, from the first word to the last: Hello from both, then offers and answers in both directions.

Either side may have dialled. `keep_linked` is the dialling side's loop: a link that ends is made again, ever more rarely while
that fails; one that cannot be (refused) is an operator's matter, and tried again only now and then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import structlog

from cluster.seams import Ids
from replication.joined_link import JoinedLink
from replication.limits import StreamLimits
from replication.link import Link, LinkDown
from replication.messages import Ack, Credit, Have, Hello, Message, Offer, Refusal, UnknownMessage, decode, encode, refusal_of
from replication.receiver import Answers, Receiver, TooMuch
from replication.sender import Sender

log = structlog.get_logger("replication")


class Refused(Exception):
    """These two cannot be linked as they are."""


class Parties(Protocol):
    """Who talks with a peer; both outlive links."""

    def parties(self, peer: Hello) -> tuple[Sender, Receiver]:
        """Raises Refused for a peer that nobody has named here."""
        ...


async def talk(link: Link, ours: Hello, parties: Parties, limits: StreamLimits, is_dialled: bool = False) -> None:
    """Until the link ends: raises LinkDown, Refused, or UnknownMessage and TooMuch of a peer that breaks the protocol.

    is_dialled: by this side. Two regions of several nodes have many links, and each side tells over those that it dialled.
    """
    try:
        theirs = await _greet(link, ours, limits)
        try:
            sender, receiver = parties.parties(theirs)
        except Refused as error:
            await link.send(encode(Refusal(str(error))))
            raise
        log.info("linked with a region", peer=theirs.cluster, id=theirs.cluster_id)
        joined = JoinedLink(link)
        try:
            await _exchange(joined, theirs, sender, receiver, is_dialled)
        finally:
            joined.close()
    finally:
        link.close()


async def _greet(link: Link, ours: Hello, limits: StreamLimits) -> Hello:
    await link.send(encode(ours))
    try:
        async with asyncio.timeout(limits.hello_timeout_s):
            first = decode(await link.receive())
    except TimeoutError:
        raise LinkDown(f"no word from the peer within {limits.hello_timeout_s} s") from None
    if isinstance(first, Refusal):
        raise Refused(first.reason)
    if not isinstance(first, Hello):
        raise UnknownMessage(f"the peer begins with {type(first).__name__} instead of Hello")
    if reason := refusal_of(ours, first):
        await link.send(encode(Refusal(reason)))
        raise Refused(reason)
    return first


async def _exchange(link: Link, theirs: Hello, sender: Sender, receiver: Receiver, is_dialled: bool) -> None:
    answers: Answers = asyncio.Queue()
    jobs: list[Coroutine[Any, Any, None]] = [
        _hear(link, sender, receiver, answers),
        _answer(link, answers),
        sender.run(link, Credit(theirs.credit_offers, theirs.credit_bytes), is_dialled),
    ]
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise LinkDown("the exchange has ended")
    finally:
        receiver.leave(answers)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _hear(link: Link, sender: Sender, receiver: Receiver, answers: Answers) -> None:
    while True:
        message: Message = decode(await link.receive())
        if isinstance(message, Offer):
            receiver.take(message, answers)
        elif isinstance(message, Ack | Have | Credit):
            try:
                sender.answered(message)
            except ValueError as error:
                raise UnknownMessage(str(error)) from error
        elif isinstance(message, Refusal):
            raise Refused(message.reason)
        else:
            raise UnknownMessage("a second Hello")


async def _answer(link: Link, answers: Answers) -> None:
    while True:
        await link.send(encode(await answers.get()))


async def keep_linked(
    dial: Callable[[], Awaitable[Link]], ours: Hello, parties: Parties, limits: StreamLimits, ids: Ids
) -> None:
    """For ever: cancel it to end."""
    backoff_s = limits.backoff_s_first
    while True:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            await talk(await dial(), ours, parties, limits, is_dialled=True)
        except Refused as error:
            log.error("a region refuses the link, or is refused", reason=str(error))
            backoff_s = limits.refused_backoff_s
        except (UnknownMessage, TooMuch) as error:
            log.error("a peer breaks the protocol", error=str(error))
            backoff_s = limits.backoff_s_max
        except (LinkDown, OSError) as error:
            log.info("the link has ended", error=str(error))
            if loop.time() - began_s > limits.backoff_s_max:
                backoff_s = limits.backoff_s_first  # it held for a while
        await asyncio.sleep(backoff_s * (0.8 + 0.4 * ids.jitter()))
        backoff_s = min(2 * backoff_s, limits.backoff_s_max)
