"""HPACK as the RFC's own examples have it, as any encoder may write it, and as nobody may."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.frontend.http2_headers import (
    LIST_BYTES_MAX,
    STATIC,
    TABLE_BYTES_MAX,
    Field,
    HeaderDecoder,
    HeadersFault,
    HeadersTooLarge,
    encode_headers,
)


def decoder() -> HeaderDecoder[list[Field]]:
    return HeaderDecoder(list)


GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
SECURE = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), (b":authority", b"www.example.com")]


@pytest.mark.parametrize(
    "blocks",
    [
        (
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ),
        ("828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf", "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf"),
    ],
    ids=["plain", "Huffman"],
)  # fmt: skip
def test_the_examples_of_the_rfc_are_read(blocks: tuple[str, ...]) -> None:
    """RFC 7541, C.3 and C.4: three requests on one connection."""
    reading = decoder()
    read = [reading.decode(bytes.fromhex(block)) for block in blocks]
    assert read == [GET, [*GET, (b"cache-control", b"no-cache")], [*SECURE, (b"custom-key", b"custom-value")]]


def test_equal_blocks_mean_something_else_after_the_table_has_changed() -> None:
    reading = decoder()
    reading.decode(b"\x40\x01a\x011")
    assert reading.decode(b"\xbe") == reading.decode(b"\xbe") == [(b"a", b"1")]
    reading.decode(b"\x40\x01b\x012")
    assert reading.decode(b"\xbe") == [(b"b", b"2")] and reading.decode(b"\xbf") == [(b"a", b"1")]


def _integer(value: int, prefix_bits: int, first: int) -> bytes:
    mask = (1 << prefix_bits) - 1
    if value < mask:
        return bytes((first | value,))
    parts, value = [first | mask], value - mask
    while value >= 128:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes((*parts, value))


class Writer:
    """An encoder that writes a field in any of the ways that are allowed, as it is told."""

    def __init__(self) -> None:
        self.table: deque[Field] = deque()
        self.bytes_max = TABLE_BYTES_MAX

    def field(self, field: Field, way: int) -> bytes:
        entries = [*STATIC, *self.table]
        if way == 0 and field in entries:
            return _integer(entries.index(field) + 1, 7, 0x80)
        names = [name for name, _ in entries]
        index = names.index(field[0]) + 1 if way % 2 and field[0] in names else 0
        is_kept = way >= 3
        head = _integer(index, 6, 0x40) if is_kept else _integer(index, 4, 0x10)
        name = b"" if index else _integer(len(field[0]), 7, 0) + field[0]
        if is_kept:
            self.table.appendleft(field)
            self._evict()
        return head + name + _integer(len(field[1]), 7, 0) + field[1]

    def resize(self, bytes_max: int) -> bytes:
        self.bytes_max = bytes_max
        self._evict()
        return _integer(bytes_max, 5, 0x20)

    def _evict(self) -> None:
        while sum(len(name) + len(value) + 32 for name, value in self.table) > self.bytes_max:
            self.table.pop()


TEXT = st.binary(max_size=200)
FIELDS = st.tuples(st.sampled_from([b"a", b"b", b"user-agent", b":path", b"x" * 130]), TEXT)
SIZES = st.one_of(st.none(), st.integers(0, TABLE_BYTES_MAX))
BLOCKS = st.tuples(SIZES, st.lists(st.tuples(FIELDS, st.integers(0, 5)), max_size=8))


@given(st.lists(BLOCKS, max_size=12))
def test_every_way_of_writing_a_field_is_read(blocks: list[tuple[int | None, list[tuple[Field, int]]]]) -> None:
    writing, reading = Writer(), decoder()
    for size, fields in blocks:
        block = b"" if size is None else writing.resize(size)
        block += b"".join(writing.field(field, way) for field, way in fields)
        assert reading.decode(block) == [field for field, _ in fields]


@given(st.lists(st.tuples(TEXT, TEXT)))
def test_what_is_written_is_read(fields: list[Field]) -> None:
    assert decoder().decode(encode_headers(fields)) == fields


@pytest.mark.parametrize(
    "block",
    [
        "80",  # index 0
        "be",  # beyond the table
        "7f",  # within a number
        "ffffffffffffff7f",  # a number without end
        "00016105",  # within a value
        "400161853fffffff",  # a string beyond its block
        "00016184ffffffff",  # the code for the end of a string
        "000161821fff",  # padding longer than a byte
        "00016181fe",  # padding that is not of ones
        "3fe21f",  # a table of 4,097 bytes
        "8220",  # a new size of the table behind a field
    ],
)
def test_a_block_that_no_encoder_writes_is_refused(block: str) -> None:
    with pytest.raises(HeadersFault):
        decoder().decode(bytes.fromhex(block))


def test_a_small_block_cannot_become_a_large_list() -> None:
    reading = decoder()
    reading.decode(b"\x40\x01a" + _integer(4_000, 7, 0) + b"x" * 4_000)
    reading.decode(b"\xbe" * (LIST_BYTES_MAX // 4_033))
    with pytest.raises(HeadersTooLarge):
        reading.decode(b"\xbe" * (LIST_BYTES_MAX // 4_033 + 1))


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_no_bytes_break_the_reading_otherwise(blocks: list[bytes]) -> None:
    reading = decoder()
    for block in blocks:
        try:
            reading.decode(block)
        except (HeadersFault, HeadersTooLarge):
            return
