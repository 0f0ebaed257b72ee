"""The values that fill a generated request: what a correct client sends under a field of that name, and what only a broken
or hostile one sends. The second kind sits at the borders: empty, one above a limit, negative, beyond any clock, not a number."""

from __future__ import annotations

import random
from collections.abc import Sequence

ID_BYTES_MAX = 1_000
INT32 = (0, -1, 1, 2**31 - 1, -(2**31))
INT64 = (0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
UINT = (0, 1, 2**31 - 1)
FLOATS = (0.0, -0.0, -1.0, 0.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"))
ENUMS = (-1, 99, 999, 2**31 - 1, -(2**31))
# (seconds, nanos)
DURATIONS = (
    (0, 0), (0, 1), (-1, 0), (0, -1), (-(10**9), 999_999_999), (1, -1), (0, 2**31 - 1), (0, -(2**31)), (315_576_000_000, 0),
    (2**63 - 1, 999_999_999), (-(2**63), 0), (9_223_372_036, 854_775_807), (9_223_372_037, 0), (36_500 * 86_400, 1),
)  # fmt: skip
TIMESTAMPS = (
    (0, 0), (0, 1), (-1, 0), (-62_135_596_800, 0), (253_402_300_799, 999_999_999), (253_402_300_800, 0), (2**63 - 1, 2**31 - 1),
    (-(2**63), -(2**31)), (9_223_372_036, 999_999_999), (4_102_444_800, 0), (1, -1),
)  # fmt: skip
TEXTS = (
    "", " ", "\x00", "a\x00b", "\r\nX-Injected: 1", "x" * ID_BYTES_MAX, "x" * (ID_BYTES_MAX + 1), "x" * 70_000,
    "é" * (ID_BYTES_MAX // 2), "é" * (ID_BYTES_MAX // 2 + 1), "\U0001f480", "\ufffe\uffff", "\u202egnirts", "/_sys/x",
    "../../etc", "' OR 1=1 --", '"', "\\", "%s%n{0}", "null", "0", "-1", "@@@", "00000000-0000-0000-0000-000000000000",
    "temporal-system", "__temporal_system", "TemporalChangeVersion", "\ud7ff\ue000",
)  # fmt: skip
QUERIES = (
    "", "ExecutionStatus = 'Running'", "WorkflowType = 'Raw' ORDER BY StartTime DESC", "WorkflowId STARTS_WITH 'seq'",
    "StartTime > '2020-01-01T00:00:00Z' AND CloseTime IS NULL", "FuzzInt BETWEEN 1 AND 3", "FuzzKeyword IN ('a', 'b')",
    "GROUP BY ExecutionStatus", "ExecutionStatus = 1", "FuzzText = 'word'", "FuzzBool = true", "FuzzDouble >= 1.5",
    "FuzzDatetime < '2030-01-01T00:00:00Z'", "FuzzKeywordList = 'x'", "ExecutionDuration > '1m'", "HistoryLength > 3",
)  # fmt: skip
BAD_QUERIES = (
    "((((", "WorkflowId =", "WorkflowId = 'x", "Nobody = 1", "GROUP BY WorkflowId, WorkflowType", "FuzzInt = 'x'",
    "'; DROP TABLE x", "(" * 300 + "FuzzInt = 1" + ")" * 300, "NOT " * 500 + "FuzzInt = 1",
    " AND ".join(["FuzzInt = 1"] * 1_000), "FuzzInt = 99999999999999999999999999", "FuzzInt = -9223372036854775808",
    "FuzzDouble = 1e999", "FuzzDatetime = 'yesterday'", "StartTime > '99999-01-01T00:00:00Z'",
    "StartTime > 9223372036854775808", "ORDER BY", "FuzzInt BETWEEN 3 AND", "ExecutionStatus = 'Nothing'",
    "ExecutionDuration > '-1x'", "WorkflowId = 'a\x00b'", "FuzzText LIKE '%'", "*", "WorkflowId",
    "ExecutionTime = '0000-00-00T00:00:00Z'", "StartTime = '0001-01-01T00:00:00Z'",
)  # fmt: skip
CRONS = (*[""] * 12, "@every 1h", "0 12 * * *", "CRON_TZ=Europe/Berlin 15 3 * * 1-5")
BAD_CRONS = (
    "every now and then", "* * * *", "99 * * * *", "@every -1s", "@every 0s", "@every 99999999999h", "0 0 31 2 *",
    "CRON_TZ=Nowhere * * * * *", "*/0 * * * *", "1-0 * * * *", "@every", "@every 1e99s",
    "CRON_TZ=../../etc/passwd * * * * *", "* " * 500, "CRON_TZ= * * * * *", "@every 1ns", "60-5/7 * * * *",
    "*/99999999999999999999 * * * *", "TZ=\x00 * * * * *",
)  # fmt: skip
MASK_PATHS = (
    "versioning_override", "priority", "completion_callbacks", "time_skipping_config", "task_queue", "taskQueue.name",
    "retry_policy", "retry_policy.maximum_attempts", "start_to_close_timeout", "schedule_to_close_timeout",
    "heartbeat_timeout", "schedule_to_start_timeout", "priority.priority_key", "retryPolicy.initialInterval",
)  # fmt: skip
BAD_MASK_PATHS = (
    "",
    ".",
    "..",
    "nobody",
    "task_queue.",
    ".name",
    "retry_policy.nobody.deeper",
    "a" * 2_000,
    "retry_policy.initial_interval.seconds",
)
ATTRIBUTES = ("FuzzText", "FuzzKeyword", "FuzzInt", "FuzzDouble", "FuzzBool", "FuzzDatetime", "FuzzKeywordList")  # type 1..7
ENCODED = (b'"text"', b"1", b"1.5", b"true", b'"2026-01-01T00:00:00Z"', b'["a","b"]', b"null", b"{}", b"[]")
BAD_ENCODED = (
    b"",
    b"{",
    b"\xff\xfe",
    b"[" * 3_000,
    b"1e999",
    b"NaN",
    b"9" * 400,
    b'"\\ud800"',
    b"\x00",
    b"[[1]]",
    b'{"a":' * 500,
    b"x" * 70_000,
)
ENCODINGS = (b"json/plain", b"json/plain", b"json/plain", b"binary/null", b"binary/plain", b"json/protobuf")
BAD_ENCODINGS = (b"", b"\xff", b"json/nothing", b"binary/encrypted", b"x" * 5_000)


def bad_text(rng: random.Random) -> str:
    """Valid Unicode, as protobuf wants it: invalid UTF-8 is a matter of the wire (mutations.py)."""
    text = rng.choice(TEXTS)
    if rng.random() < 0.1:
        text = "".join(
            chr(rng.choice((rng.randrange(1, 0xD800), rng.randrange(0xE000, 0x110000)))) for _ in range(rng.randrange(1, 40))
        )
    return text


def mutated_bytes(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, cut out, doubled or added."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        place = rng.randrange(len(changed) + 1)
        what = rng.randrange(5)
        if what == 0 and changed:
            changed[min(place, len(changed) - 1)] ^= 1 << rng.randrange(8)
        elif what == 1:
            del changed[place : place + rng.randrange(1, 9)]
        elif what == 2:
            changed[place:place] = rng.randbytes(rng.randrange(1, 9))
        elif what == 3:
            del changed[place:]
        else:
            changed[place:place] = changed[place : place + 16]
    return bytes(changed)


def mostly(rng: random.Random, usual: Sequence[str], rare: Sequence[str], rare_share: float) -> str:
    return rng.choice(rare) if rng.random() < rare_share else rng.choice(usual)
