"""Values as database servers keep them: bytes whose order is the order of the values, and conditions as ranges of them.

| type                          | stored as                                                              |
|-------------------------------|------------------------------------------------------------------------|
| Keyword, KeywordList, Text    | UTF-8: byte order is code point order, zero bytes are welcome          |
| Int, Bool, Datetime           | 8 bytes, most significant first, moved so that negative ones come first |
| Double                        | the 8 bytes of IEEE 754, turned so that they sort as numbers do        |

A server then has nothing to convert or to collate, and cannot differ from the oracle in it: `Amount > 2.5` on an Int is decided
here, as "3 or more", and every comparison is one of two forms, `Points` or a half-open `Span`.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from cluster.visibility.base import SortValue
from cluster.visibility.expressions import Operator
from cluster.visibility.search_attributes import INT64_MAX, INT64_MIN, AttributeType

# Index entries hold this much of a value. Bytes, since servers bound their index entries: InnoDB at 3,072, PostgreSQL at 2,704.
HEAD_BYTES = 255

_TEXTS = frozenset({AttributeType.KEYWORD, AttributeType.KEYWORD_LIST, AttributeType.TEXT})
_SIGN = 1 << 63

Scalar = str | int | float
Ordered = bytes | int | float


def is_text(kind: AttributeType) -> bool:
    return kind in _TEXTS


def stored_value(kind: AttributeType, value: Scalar) -> bytes:
    if kind in _TEXTS:
        return str(value).encode()
    if kind is not AttributeType.DOUBLE:
        return (int(value) + _SIGN).to_bytes(8, "big")
    (bits,) = struct.unpack(">Q", struct.pack(">d", float(value) + 0.0))  # -0.0 is 0.0
    return int(bits ^ ((_SIGN << 1) - 1) if bits & _SIGN else bits | _SIGN).to_bytes(8, "big")


def read_value(kind: AttributeType, stored: bytes | None) -> SortValue:
    """What `stored_value` was given; None for none."""
    if stored is None:
        return None
    if kind in _TEXTS:
        return stored.decode()
    number = int.from_bytes(stored, "big")
    if kind is not AttributeType.DOUBLE:
        return number - _SIGN
    bits = number ^ _SIGN if number & _SIGN else number ^ ((_SIGN << 1) - 1)
    (value,) = struct.unpack(">d", struct.pack(">Q", bits))
    return float(value)


# --- identities -------------------------------------------------------------------------------------------------------
def digest_of(size: int, *parts: object) -> bytes:
    """Keys are digests: of one length whatever the length of the ids, and known without asking the database first."""
    return hashlib.blake2b(msgspec.msgpack.encode(parts), digest_size=size).digest()


def attribute_key(namespace_id: str, name: str, kind: AttributeType) -> int:
    """A stored attribute of a namespace. An attribute defined again with another type is another one."""
    return int.from_bytes(digest_of(8, namespace_id, name, int(kind)), "big", signed=True)


# --- conditions -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Points:
    """Any of these values; () is none, which holds for nothing."""

    values: tuple[Ordered, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """From `low` on, below `high`; None: no bound."""

    low: Ordered | None
    high: Ordered | None


NEVER = Points(())


def _least_not_below(kind: AttributeType, operand: Scalar) -> Ordered:
    """The smallest value of the type that is not below the operand."""
    if kind in _TEXTS:
        return str(operand).encode()
    assert not isinstance(operand, str)
    if kind is not AttributeType.DOUBLE:
        return math.ceil(operand)
    nearest = float(operand)
    return nearest if nearest >= operand else math.nextafter(nearest, math.inf)


def _least_above(kind: AttributeType, operand: Scalar) -> Ordered:
    """The smallest value of the type that is above the operand."""
    if kind in _TEXTS:
        return str(operand).encode() + b"\0"
    assert not isinstance(operand, str)
    if kind is not AttributeType.DOUBLE:
        return math.floor(operand) + 1
    nearest = float(operand)
    return nearest if nearest > operand else math.nextafter(nearest, math.inf)


def _is_value(kind: AttributeType, operand: Scalar) -> bool:
    """A fraction is no Int, and an integer of more than 53 bits may be no Double."""
    if kind in _TEXTS:
        return True
    exact = _least_not_below(kind, operand)
    return exact == operand and (isinstance(exact, float) or INT64_MIN <= int(exact) <= INT64_MAX)


def prefix_end(prefix: bytes) -> bytes | None:
    """The smallest bytes greater than all that begin with the prefix; None for the empty one. UTF-8 has no byte 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1]) if prefix else None


def range_of(kind: AttributeType, test: Operator, operands: Sequence[Scalar]) -> Points | Span:
    """The values of the type that pass a comparison."""
    low: Ordered | None = None
    high: Ordered | None = None
    match test:
        case Operator.EQUAL | Operator.IN:
            found = (_least_not_below(kind, operand) for operand in operands if _is_value(kind, operand))
            return Points(tuple(dict.fromkeys(found)))
        case Operator.LESS:
            high = _least_not_below(kind, operands[0])
        case Operator.LESS_OR_EQUAL:
            high = _least_above(kind, operands[0])
        case Operator.GREATER:
            low = _least_above(kind, operands[0])
        case Operator.GREATER_OR_EQUAL:
            low = _least_not_below(kind, operands[0])
        case Operator.BETWEEN:
            low, high = _least_not_below(kind, operands[0]), _least_above(kind, operands[1])
        case Operator.STARTS_WITH:
            prefix = str(operands[0]).encode()
            low, high = prefix, prefix_end(prefix)
        case _:
            raise AssertionError(f"{test} compares nothing")
    return _within_int64(low, high) if kind not in _TEXTS and kind is not AttributeType.DOUBLE else Span(low, high)


def _within_int64(low: Ordered | None, high: Ordered | None) -> Points | Span:
    """Bounds that no 64-bit column could be compared with are none, or hold for nothing."""
    if (low is not None and int(low) > INT64_MAX) or (high is not None and int(high) <= INT64_MIN):
        return NEVER
    return Span(
        None if low is None or int(low) <= INT64_MIN else low,
        None if high is None or int(high) > INT64_MAX else high,
    )


def as_stored_range(kind: AttributeType, found: Points | Span) -> Points | Span:
    """The same range in stored form."""
    if kind in _TEXTS:
        return found

    def stored(value: Ordered | None) -> bytes | None:
        return None if value is None else stored_value(kind, value)  # type: ignore[arg-type]

    if isinstance(found, Points):
        return Points(tuple(stored_value(kind, value) for value in found.values))  # type: ignore[arg-type]
    return Span(stored(found.low), stored(found.high))
