"""Every limit and default of the HTTP gateway, each with its unit and its precedent. Tests try the limits at -1, exactly, +1."""

from __future__ import annotations

import msgspec

MIB = 1024 * 1024
SECOND_NS = 1_000_000_000


class GatewaySettings(msgspec.Struct, frozen=True):
    body_bytes_max: int = 2 * MIB  # limit.blobSize.error, of a request and of a result
    name_bytes_max: int = 1_000  # a service's and an operation's; limit.maxIDLength
    token_bytes_max: int = 4_096  # component.nexusoperations.limit.operation.token.length
    headers_bytes_max: int = 8_192  # component.nexusoperations.limit.header.size: names and values that reach a handler
    links_count_max: int = 10  # frontend.maxLinksPerRequest
    link_bytes_max: int = 4_000  # frontend.linkMaxSize
    callback_url_bytes_max: int = 1_000  # frontend.callbackURLMaxLength
    request_timeout_default_ns: int = 10 * SECOND_NS  # component.nexusoperations.request.timeout
    request_timeout_max_ns: int = 60 * SECOND_NS  # a longer wish is cut: the answer is then a token, or "upstream timeout"
    dispatch_reserve_ns: int = SECOND_NS  # of the request's time, for the way back; at most a tenth of it
    body_timeout_s: float = 10.0  # from the end of the head to the end of the body: a slow sender holds nothing longer
    wait_max_ns: int = 60 * SECOND_NS  # of ?wait=; a caller that wants more asks again
    stream_s_max: float = 3_600.0  # of one stream of events; the caller comes back by itself
    stream_beat_s: float = 15.0  # a comment in a silent stream, so that proxies keep it open
    waits_count_max: int = 12_000  # long polls and streams of one process; the design's promise is 10,000
    requests_per_s_max: float = 2_000.0  # of all callers together, before a worker is asked anything
    requests_burst: int = 4_000
    operations_listed_max: int = 2_000  # of one caller; component.nexusoperations.limit.operation.concurrency, ours
    failure_depth_max: int = 20  # causes of causes in a failure that somebody sends
    cors_origins: tuple[str, ...] = ()  # none: a browser's page may not call; "*" = all
