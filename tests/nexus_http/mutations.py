"""Good requests, and what becomes of them in bad hands: headers and tokens changed at random, from seeds that are told."""

from __future__ import annotations

import random

PIECES = (
    "", " ", "\t", ",", ";", "=", '"', "\\", "<", ">", "%", "%00", "%2F", "..", "\0", "\r", "\n", "\x7f", "\udcff", "\udc80", "é",
    "😀", "0", "-1", "1e9", "9" * 40, "NaN", "ms", "s", "m", "h", ".", "true", "null", "{}", "[", "]", "a" * 300, "a" * 9_000,
    "A=", "==", "_-", '; type="T"', "<u>", "temporal:///x", "Thu, 01 Jan 1970 00:00:00 GMT", "2026-01-01T00:00:00Z", "+00:00",
    "9999-12-31T23:59:59.999999999+23:59", "0000-00-00T00:00:00Z", "application/json", "charset=utf-8", "message-type",
    "format=protobuf",
)  # fmt: skip
NAMES = (
    "nexus-link", "nexus-callback-", "nexus-callback-x", "content-type", "content-x", "content-encoding", "request-timeout",
    "operation-timeout", "nexus-operation-token", "nexus-operation-state", "nexus-operation-start-time", "nexus-request-id",
    "nexus-operation-close-time", "x-any", "X-Ünicode", "temporal-callback-token", "",
)  # fmt: skip
START = [
    ("host", "x"),
    ("content-type", "application/json"),
    ("request-timeout", "10s"),
    ("operation-timeout", "1.5m"),
    ("nexus-request-id", "0b8fa7c5-4a1c-4d6e-9d3c-52d6a1a4a111"),
    ("nexus-link", '<temporal:///namespaces/n/workflows/w/r/history?eventID=5>; type="temporal.api.common.v1.Link"'),
    ("nexus-callback-token", "dG9rZW4"),
    ("x-mine", "value"),
]
COMPLETION = [
    ("nexus-operation-state", "succeeded"),
    ("nexus-operation-token", "eyJ0IjoxfQ"),
    ("nexus-operation-start-time", "Thu, 01 Jan 2026 00:00:00 GMT"),
    ("nexus-operation-close-time", "2026-01-01T00:00:00.123456789Z"),
    ("content-type", "application/json"),
    ("nexus-link", '<t:///a>; type="T", <t:///b>; type="U"'),
]
FAILURE = (
    b'{"message":"m","stackTrace":"t","metadata":{"type":"nexus.OperationError"},'
    b'"details":{"state":"failed"},"cause":{"message":"c"}}'
)


def mutated_text(text: str, draw: random.Random) -> str:
    for _ in range(draw.randint(1, 3)):
        at = draw.randint(0, len(text))
        kind = draw.randrange(5)
        if kind == 0:
            text = text[:at] + draw.choice(PIECES) + text[at:]
        elif kind == 1:
            text = text[:at] + text[at + draw.randint(1, 8) :]
        elif kind == 2:
            character = draw.choice((draw.randrange(128), draw.randrange(0xDC80, 0xDD00), draw.randrange(0x500)))
            text = text[:at] + chr(character) + text[at + 1 :]
        elif kind == 3:
            text = text[:at] + text
        else:
            text = draw.choice(PIECES)
    return text


def mutated_headers(headers: list[tuple[str, str]], draw: random.Random) -> list[tuple[str, str]]:
    changed = list(headers)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(changed)) if changed else 0
        kind = draw.randrange(5)
        if kind == 0 and changed:
            changed[at] = (changed[at][0], mutated_text(changed[at][1], draw))
        elif kind == 1 and changed:
            del changed[at]
        elif kind == 2 and changed:
            changed.append((changed[at][0], mutated_text(changed[at][1], draw)))
        elif kind == 3 and changed:
            changed[at] = (draw.choice(NAMES), changed[at][1])
        else:
            changed.append((draw.choice(NAMES), draw.choice(PIECES)))
    return changed


def mutated_bytes(data: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.randint(1, 3)):
        at = draw.randint(0, len(data))
        kind = draw.randrange(4)
        if kind == 0:
            data = data[:at] + draw.choice(PIECES).encode("utf-8", "surrogateescape") + data[at:]
        elif kind == 1:
            data = data[:at] + data[at + draw.randint(1, 8) :]
        elif kind == 2:
            data = data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
        else:
            data = data[:at]
    return data
