"""The codec: any fragmentation gives the same frames, any garbage is refused and changes nothing."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.wire.frames import (
    PREFIX_BYTES,
    Cancel,
    Failure,
    Frame,
    FrameReader,
    Goodbye,
    Hello,
    Ping,
    Pong,
    ProtocolError,
    Refused,
    Request,
    Response,
    Welcome,
    encode,
)
from cluster.wire.states import CLIENT, SERVER, State, next_state

IDS, COUNTS = st.integers(1, (1 << 63) - 1), st.integers(0, (1 << 63) - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Hello, TEXT, COUNTS, COUNTS, TEXT, TEXT, COUNTS),
    st.builds(Welcome, COUNTS, TEXT, TEXT, COUNTS, COUNTS, COUNTS, COUNTS),
    st.builds(Refused, COUNTS, TEXT),
    st.builds(Request, IDS, TEXT, COUNTS, st.binary(max_size=300)),
    st.builds(Response, IDS, st.binary(max_size=300)),
    st.builds(Failure, IDS, COUNTS, TEXT, st.lists(st.tuples(TEXT, st.binary(max_size=50)), max_size=3).map(tuple)),
    st.builds(Cancel, IDS),
    st.builds(Ping, COUNTS),
    st.builds(Pong, COUNTS),
    st.builds(Goodbye, TEXT),
)
MAX = 4096
EXAMPLES: dict[type[Frame], Frame] = {
    type(frame): frame
    for frame in (
        Hello("", 1, 1, "", "", 1),
        Welcome(1, "", "", 1, 1, 1, 1),
        Refused(9, "no"),
        Request(1, "m", 1, b""),
        Response(1, b""),
        Failure(1, 5, "", ()),
        Cancel(1),
        Ping(1),
        Pong(1),
        Goodbye(""),
    )
}
KINDS = tuple(EXAMPLES)


def taken(reader: FrameReader) -> list[Frame]:
    found = []
    while (frame := reader.next_frame()) is not None:
        found.append(frame)
    return found


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(PREFIX_BYTES, "big") + body


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(1, 400), max_size=60))
def test_any_fragmentation_gives_the_same_frames(frames: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(map(encode, frames))
    reader, found, at = FrameReader(MAX), [], 0
    for cut in [*cuts, len(stream)]:
        reader.receive(stream[at : at + cut])
        at += cut
        found += taken(reader)
    assert found == frames
    assert reader.buffered_bytes == 0


@given(st.lists(FRAMES, max_size=3), st.binary(max_size=200), st.booleans())
def test_garbage_is_a_protocol_error_or_an_unfinished_frame_and_what_came_before_it_still_comes_out(
    frames: list[Frame], garbage: bytes, is_framed: bool
) -> None:
    reader = FrameReader(MAX)
    reader.receive(b"".join(map(encode, frames)) + (framed(garbage) if is_framed else garbage))
    assert [reader.next_frame() for _ in frames] == frames
    try:
        rest = taken(reader)
    except ProtocolError as first:
        left = reader.buffered_bytes
        with pytest.raises(ProtocolError) as again:
            reader.next_frame()
        assert (str(again.value), reader.buffered_bytes) == (str(first), left), "asking again changes nothing"
    else:
        assert all(isinstance(frame, KINDS) for frame in rest)


@given(FRAMES, st.data())
def test_a_damaged_byte_never_raises_anything_but_a_protocol_error(frame: Frame, data: st.DataObject) -> None:
    whole = bytearray(encode(frame))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    reader = FrameReader(MAX)
    reader.receive(bytes(whole))
    try:
        assert all(isinstance(each, KINDS) for each in taken(reader))
    except ProtocolError:
        assert reader.buffered_bytes > 0


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_frame_is_accepted_up_to_its_limit_and_not_one_byte_more(over: int) -> None:
    frame = Response(1, bytes(1000))
    reader = FrameReader(len(encode(frame)) - PREFIX_BYTES - over)
    reader.receive(encode(frame)[: PREFIX_BYTES + 10])
    if over > 0:
        with pytest.raises(ProtocolError, match="bytes; at most"):  # from its length alone: nothing is collected first
            reader.next_frame()
    else:
        reader.receive(encode(frame)[PREFIX_BYTES + 10 :])
        assert reader.next_frame() == frame


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\x90",
        msgspec.msgpack.encode([99, 1]),
        msgspec.msgpack.encode([4, 0, "m", 1, b""]),
        msgspec.msgpack.encode([4, -1, "m", 1, b""]),
        msgspec.msgpack.encode([4, 1 << 63, "m", 1, b""]),
        msgspec.msgpack.encode([4, 1, "m", 1]),
        msgspec.msgpack.encode([4, 1, "m", 1, b"", "what a newer version adds"]),
        msgspec.msgpack.encode([4, 1, b"m", 1, b""]),
        msgspec.msgpack.encode([5, 1, b"x"]) + b"\x00",
        b"\x93\x05\x01\xa2\xff\xfe",
        b"\x91" * 3000,
    ],
)
def test_a_body_that_is_no_frame_is_refused(body: bytes) -> None:
    reader = FrameReader(MAX)
    reader.receive(framed(body))
    with pytest.raises(ProtocolError):
        reader.next_frame()


def test_a_handshake_of_a_newer_version_with_more_fields_is_still_understood() -> None:
    reader = FrameReader(MAX)
    reader.receive(framed(msgspec.msgpack.encode([1, "outlast-wire", 1, 7, "n", "c", 4, "new", {"more": 1}])))
    assert reader.next_frame() == Hello("outlast-wire", 1, 7, "n", "c", 4)


def test_every_frame_that_is_not_in_the_table_is_refused() -> None:
    for rules in (CLIENT, SERVER):
        for state in State:
            for kind in KINDS:
                frame = EXAMPLES[kind]
                if (state, kind) in rules:
                    assert next_state(rules, state, frame) is rules[state, kind]
                else:
                    with pytest.raises(ProtocolError, match=f"{kind.__name__} must not come while {state.value}"):
                        next_state(rules, state, frame)


def test_nothing_but_the_handshake_is_legal_before_it_and_nothing_at_all_after_the_end() -> None:
    assert {kind for state, kind in SERVER if state is State.GREETING} == {Hello}
    assert {kind for state, kind in CLIENT if state is State.GREETING} == {Welcome, Refused, Goodbye}
    assert not [kind for state, kind in (*SERVER, *CLIENT) if state is State.CLOSED]
