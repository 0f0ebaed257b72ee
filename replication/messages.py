"""What two regions say to each other over a link: one byte for the format, then one message.

message   from      says
--------  --------  -----------------------------------------------------------------------------------------------------
Hello     both      who I am, which formats I speak, how much I take in at once; the first message of each side
Refusal   both      why this link cannot be: the other side shows it to its operator, and does not try again at once
Offer     sender    one delta, as number n of a source shard's stream
Ack       receiver  all up to number n is durable or in quarantine here
Have      receiver  number n does not fit what I have: send it again as a snapshot with the events from event e on
Credit    receiver  how many offers, and bytes of offers, I take in from now on

Numbers of a stream are dense. A stream is one owner's of a source shard (its lease's range id, which only rises): a new owner
begins another, and the old one's messages are no longer looked at. `floor` is the lowest number that the sender still has: a
receiver that has forgotten the stream begins there.

A message of a format that is not known is refused. A field that is not known is refused as well, and of a delta it is put into
quarantine with the rest: nothing that a newer version says is lost in silence. Only a Hello may say more than is understood.
"""

from __future__ import annotations

import msgspec

from cluster.core.branches import Head

FORMAT = 1
FORMATS = (1, 1)  # the lowest and the highest that this program speaks


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    cluster: str
    cluster_id: str
    initial_version: int
    increment: int
    format_min: int
    format_max: int
    credit_offers: int
    credit_bytes: int
    shards_count: int = 0  # for who looks at it: nothing depends on it


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    reason: str


class Offer(msgspec.Struct, frozen=True, tag="offer", forbid_unknown_fields=True):
    """position: of the source shard's journal, for whoever looks at it; delta: encoded, so that poison hurts itself alone."""

    shard: int
    stream: int
    number: int
    floor: int
    position: int
    delta: bytes


class Ack(msgspec.Struct, frozen=True, tag="ack", forbid_unknown_fields=True):
    shard: int
    stream: int
    number: int


class Have(msgspec.Struct, frozen=True, tag="have", forbid_unknown_fields=True):
    shard: int
    stream: int
    number: int
    head: Head
    events_from: int


class Credit(msgspec.Struct, frozen=True, tag="credit", forbid_unknown_fields=True):
    offers: int
    bytes: int


Message = Hello | Refusal | Offer | Ack | Have | Credit

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


class UnknownMessage(Exception):
    """The peer says what this version does not understand: the link ends."""


def encode(message: Message) -> bytes:
    return bytes((FORMAT,)) + _encoder.encode(message)


def decode(data: bytes) -> Message:
    """Raises UnknownMessage."""
    if not data or data[0] != FORMAT:
        raise UnknownMessage(f"message format {data[:1]!r}, and this region speaks {FORMAT}")
    try:
        message: Message = _decoder.decode(memoryview(data)[1:])
    except msgspec.MsgspecError as error:
        raise UnknownMessage(f"a message that cannot be read: {error}") from error
    return message


def refusal_of(ours: Hello, theirs: Hello) -> str:
    """Why these two cannot be linked, "" if they can."""
    if ours.cluster == theirs.cluster or ours.cluster_id == theirs.cluster_id:
        return f"both regions are called {theirs.cluster!r} (id {theirs.cluster_id}): a region is not linked with itself"
    if ours.increment != theirs.increment:
        return f"the failover version increments differ: {ours.increment} and {theirs.increment}"
    if ours.initial_version == theirs.initial_version:
        return f"both regions have the initial failover version {ours.initial_version}: their writes could not be told apart"
    if ours.format_max < theirs.format_min or theirs.format_max < ours.format_min:
        return (
            f"{ours.cluster} speaks formats {ours.format_min}..{ours.format_max}, "
            f"{theirs.cluster} {theirs.format_min}..{theirs.format_max}: upgrade one of them"
        )
    return ""
