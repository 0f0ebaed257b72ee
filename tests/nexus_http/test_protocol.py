"""The pure protocol: laws, round trips, and 10,000 mutations each of headers, callbacks, tokens and paths."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.api.nexus.v1 import Link

from cluster.tokens import KeySet, TokenKey, Tokens
from nexus import headers as h
from nexus import protocol
from nexus.content import content_of, payload_of
from nexus.errors import FINAL, STATUS_OF, TYPE_OF, ErrorType, Refused, is_retryable
from nexus.failures import failure_json, read_failure
from nexus.operation_tokens import OperationToken, OperationTokens
from nexus.policy import Bucket
from nexus.routes import ROUTES, MethodNotAllowed, match
from nexus.settings import GatewaySettings
from tests.nexus_http.mutations import COMPLETION, FAILURE, START, mutated_bytes, mutated_headers, mutated_text

SETTINGS = GatewaySettings()
MUTATIONS = 10_000
CALLERS_FAULT = {ErrorType.BAD_REQUEST, ErrorType.NOT_FOUND}


def start(pairs: h.Pairs, body: bytes = b"{}") -> None:
    times = protocol.request_times(pairs, 10**18, SETTINGS)
    request = protocol.start_request(pairs, "billing", "charge", "http://h/x", body, times, "made", SETTINGS)
    assert len(request.SerializeToString()) < SETTINGS.body_bytes_max
    protocol.cancel_request(pairs, "billing", "charge", protocol.operation_token(pairs, "t", SETTINGS), times, SETTINGS)


def test_ten_thousand_mutations_of_a_starts_headers_end_in_a_request_or_a_refusal() -> None:
    refused = 0
    for seed in range(MUTATIONS):
        draw = random.Random(seed)
        try:
            start(h.lower(mutated_headers(START, draw)))
        except Refused as error:
            assert error.type in CALLERS_FAULT, seed
            assert error.message.isprintable() and len(error.message) < 300, seed
            json.loads(protocol.refusal(error).body)
            refused += 1
        except Exception as failure:
            raise AssertionError(f"seed {seed}") from failure
    assert MUTATIONS * 0.1 < refused < MUTATIONS * 0.95  # both outcomes are seen


def test_ten_thousand_mutations_of_a_callback_end_in_a_completion_or_a_refusal() -> None:
    refused = 0
    for seed in range(MUTATIONS):
        draw = random.Random(seed)
        headers, body = COMPLETION, b'{"a":1}'
        if draw.random() < 0.5:
            headers, body = [("nexus-operation-state", "failed"), *COMPLETION[1:]], mutated_bytes(FAILURE, draw)
        try:
            told = protocol.completion(h.lower(mutated_headers(headers, draw)), "token", "", body, SETTINGS)
            assert told.state in protocol.STATES
            assert (told.failure is None) == (told.state == "succeeded")
        except Refused as error:
            assert error.type in CALLERS_FAULT, seed
            refused += 1
        except Exception as failure:
            raise AssertionError(f"seed {seed}") from failure
    assert MUTATIONS * 0.1 < refused < MUTATIONS * 0.95


def test_ten_thousand_mutations_of_a_token_open_nothing() -> None:
    tokens = OperationTokens(Tokens(KeySet([TokenKey(1, b"k" * 32)])), SETTINGS)
    bound = OperationToken("ns-id", "e1", "billing", "charge", "handlers own token")
    sealed = tokens.seal(bound)
    assert tokens.open(sealed, "ns-id", "e1", "billing", "charge") == bound.token
    for seed in range(MUTATIONS):
        changed = mutated_text(sealed, random.Random(seed))
        try:
            assert tokens.open(changed, "ns-id", "e1", "billing", "charge") == bound.token
            # Only the same token written otherwise may open: padding, and the bits that base64 does not use.
            assert changed.rstrip("=")[:-1] == sealed[:-1], seed
        except Refused as error:
            assert error.type is ErrorType.NOT_FOUND, seed
        except Exception as failure:
            raise AssertionError(f"seed {seed}") from failure


def test_ten_thousand_mutations_of_a_path_are_matched_or_refused() -> None:
    paths = [route.path.replace("{", "").replace("}", "") + "?wait=1s&token=x" for route in ROUTES]
    for seed in range(MUTATIONS):
        draw = random.Random(seed)
        path = mutated_text(draw.choice(paths), draw)
        try:
            matched = match(draw.choice(("GET", "POST")), path)
            assert all("\0" not in value for value in matched.values.values())
        except MethodNotAllowed as error:
            assert error.allowed
        except Refused as error:
            assert error.type in CALLERS_FAULT, seed
        except Exception as failure:
            raise AssertionError(f"seed {seed}") from failure


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=100)), max_size=8), st.binary(max_size=100))
def test_any_headers_and_any_body_end_in_a_request_or_a_refusal(pairs: list[tuple[str, str]], body: bytes) -> None:
    try:
        start(h.lower(pairs), body)
    except Refused as error:
        assert error.type in CALLERS_FAULT


@given(st.binary(max_size=200))
def test_any_body_of_a_failed_callback_is_a_failure_or_a_refusal(body: bytes) -> None:
    try:
        failure = read_failure(body, SETTINGS.failure_depth_max)
        json.dumps(failure_json(failure, True, SETTINGS.failure_depth_max))
    except Refused as error:
        assert error.type is ErrorType.BAD_REQUEST


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10), lambda one: st.lists(one, max_size=3), max_leaves=5
)


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3), JSON, st.integers(0, 25))
def test_a_failure_is_read_as_it_was_written(message: str, metadata: dict[str, str], details: object, depth: int) -> None:
    written: dict[str, object] = {"message": message, "metadata": metadata, "details": details}
    for _ in range(depth):
        written = {"message": "outer", "cause": written}
    try:
        back = failure_json(read_failure(json.dumps(written).encode(), 20), True, 20)
    except Refused:
        assert depth >= 20
        return
    for _ in range(depth):
        back = back["cause"]
    assert back == {key: value for key, value in {"message": message, "metadata": metadata or None, "details": details}.items()
                    if value is not None}  # fmt: skip


CONTENT_TYPES = st.sampled_from(
    ["", "application/json", "application/octet-stream", 'application/x-protobuf; message-type="a.B"', "text/plain; charset=x",
     'application/json; format=protobuf; message-type="a.B"', "IMAGE/PNG", "nonsense", 'a/b; c="d;e"']
)  # fmt: skip


@given(CONTENT_TYPES, st.binary(max_size=50), st.sampled_from(["", "gzip"]))
def test_content_leaves_as_it_came(type: str, body: bytes, encoding: str) -> None:
    pairs = [("content-type", type)] * bool(type) + [("content-encoding", encoding)] * bool(encoding)
    headers, out = content_of(payload_of(pairs, body))
    assert out == body
    came = type or ("" if encoding or not body else "application/octet-stream")
    assert headers.get("Content-Type", "") == came
    assert headers.get("Content-Encoding", "") == encoding


METADATA = st.dictionaries(st.sampled_from(["encoding", "messageType", "type", "x"]), st.binary(max_size=12), max_size=3)


@given(METADATA, st.binary(max_size=50))
def test_a_payload_of_any_kind_comes_back_as_it_was(metadata: dict[str, bytes], data: bytes) -> None:
    payload = Payload(metadata=metadata, data=data)
    headers, body = content_of(payload)
    back = payload_of([(name.lower(), value) for name, value in headers.items()], body)
    if metadata.get("encoding") in (b"unknown/nexus-content", b"binary/null"):
        return  # these stand for what is only a body
    assert back == payload


@given(st.integers(1, 10**18))
def test_times_are_read_as_they_are_written(at: int) -> None:
    assert h.close_time_ns(h.rfc3339(at)) == at
    assert h.start_time_ns(h.rfc5322(at)) == at // 10**9 * 10**9


PRINTABLE = st.characters(min_codepoint=33, max_codepoint=126)


@given(st.text(alphabet=PRINTABLE, min_size=1, max_size=80), st.from_regex(r"[A-Za-z0-9_./]{1,20}", fullmatch=True))
def test_a_link_is_read_as_it_was_written_or_not_written(url: str, type: str) -> None:
    text = h.link_header(Link(url=url, type=type))
    if not text:
        assert "<" in url or ">" in url
        return
    for line in (text, f"{text}, {text}"):
        assert {(one.url, one.type) for one in h.links_of([("nexus-link", line)], SETTINGS)} == {(url, type)}


@pytest.mark.parametrize(
    ("text", "ns"),
    [("1ms", 10**6), ("1s", 10**9), ("2m", 120 * 10**9), ("1.5s", 1_500_000_000), ("7.97s", 7_970_000_000), ("0s", 0),
     (" 1s ", 10**9), ("1.s", 10**9), ("9" * 18 + "m", h._DURATION_NS_MAX)],
)  # fmt: skip
def test_durations(text: str, ns: int) -> None:
    assert h.duration_ns(text, "x") == ns


@pytest.mark.parametrize("text", ["", "1", "s", "-1s", "+1s", "1h", "1 s", ".5s", "1e3s", "٣s", "9" * 19 + "s", "1s1s", "1S"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(Refused):
        h.duration_ns(text, "x")


def test_the_table_of_errors_is_the_specifications() -> None:
    assert {type.value for type in ErrorType} == set(STATUS_OF)
    assert TYPE_OF[520] == "UPSTREAM_TIMEOUT" and len(TYPE_OF) == len(STATUS_OF)
    assert all(status in (408, 429, 500, 503, 520) for type, status in STATUS_OF.items() if type not in FINAL)
    assert is_retryable("NEVER_HEARD_OF") and not is_retryable("INTERNAL", False) and is_retryable("BAD_REQUEST", True)


def test_a_token_longer_than_any_caller_takes_is_not_given_out() -> None:
    tokens = OperationTokens(Tokens(KeySet([TokenKey(1, b"k" * 32)])), SETTINGS)
    assert len(tokens.seal(OperationToken("n", "e", "s", "o", "t" * 3_000))) <= SETTINGS.token_bytes_max
    with pytest.raises(Refused):
        tokens.seal(OperationToken("n", "e", "s", "o", "t" * 3_100))
    with pytest.raises(Refused):
        tokens.seal(OperationToken("n", "e", "s", "o", ""))


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=100))
def test_a_bucket_never_gives_more_than_its_rate_and_burst(pauses: list[float]) -> None:
    bucket, now, taken = Bucket(10, 5, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        after = bucket.take(now)
        taken += after == 0
        assert taken <= 5 + 10 * now + 1e-6
        if after:
            assert bucket.take(now + after + 1e-6) == 0
            taken, now = taken + 1, now + after + 1e-6
