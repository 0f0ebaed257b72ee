"""Damage below the level of messages: bytes that no protobuf library would have written."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.fuzz.values import mutated_bytes

INVALID_UTF8 = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\x80b", b"\xe2\x82")


def varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def delimited(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def fields(data: bytes) -> list[tuple[int, int, bytes]]:
    """(start, end, content) of each top-level length-delimited field; stops at what it cannot read."""
    found: list[tuple[int, int, bytes]] = []
    at = 0
    while at < len(data):
        start = at
        try:
            tag, at = _read_varint(data, at)
            kind = tag & 7
            if kind == 0:
                _, at = _read_varint(data, at)
            elif kind == 1:
                at += 8
            elif kind == 5:
                at += 4
            elif kind == 2:
                length, at = _read_varint(data, at)
                found.append((start, at + length, data[at : at + length]))
                at += length
            else:
                break
        except IndexError:
            break
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def invalid_utf8(rng: random.Random, data: bytes) -> bytes:
    """Some field at some depth holds bytes that are no UTF-8."""
    found = fields(data)
    if not found:
        return data + delimited(1, rng.choice(INVALID_UTF8))
    start, end, content = rng.choice(found)
    number = _read_varint(data, start)[0] >> 3
    inner = invalid_utf8(rng, content) if rng.random() < 0.6 and len(fields(content)) else rng.choice(INVALID_UTF8)
    return data[:start] + delimited(number, inner) + data[end:]


def truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def with_unknown_fields(rng: random.Random, data: bytes) -> bytes:
    """A newer client's fields: correct servers skip them."""
    extra = (
        delimited(99_999, b"new"),
        varint(88_888 << 3) + varint(7),
        varint((7_777 << 3) | 5) + b"abcd",
        delimited(536_870_911, b""),
    )
    return data + rng.choice(extra) if rng.random() < 0.5 else rng.choice(extra) + data


def doubled(rng: random.Random, data: bytes) -> bytes:
    """Every singular field twice: the last one counts, messages merge."""
    return data + mutated_bytes(rng, data) if rng.random() < 0.5 else data + data


def nested_too_deep(rng: random.Random, data: bytes) -> bytes:
    """Deeper than any parser allows."""
    content = b""
    number = rng.choice((1, 2, 3, 4, 5))
    for _ in range(rng.choice((90, 101, 400, 3_000))):
        content = delimited(number, content)
    return data + content


def impossible_tags(rng: random.Random, data: bytes) -> bytes:
    """Field number 0, group markers, varints without an end, lengths beyond the message."""
    what = (b"\x00\x00", b"\x0b", b"\x0c", b"\xff" * 11, delimited(1, b"x")[:-1] + b"", b"\x0a\xff\xff\xff\xff\x0f", b"\x0f")
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(what) + data[place:]


def noise(rng: random.Random, data: bytes) -> bytes:
    return rng.randbytes(rng.randrange(200))


MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    mutated_bytes, mutated_bytes, invalid_utf8, invalid_utf8, truncated, with_unknown_fields, doubled, nested_too_deep,
    impossible_tags, noise,
)  # fmt: skip
