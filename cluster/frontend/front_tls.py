"""Mutual TLS of the public port, and of this region's calls of other regions: the same three files for both.

Whoever connects shows a certificate that the authority has signed: clients, workers and other regions alike. Read once at start;
a renewed certificate needs a restart.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import msgspec


class FrontTls(msgspec.Struct, frozen=True):
    """Files in PEM form. peer_name: a DNS name that every region's certificate carries, where they are called by address."""

    certificate: str
    key: str
    authority: str
    peer_name: str = ""


def server_context(tls: FrontTls) -> ssl.SSLContext:
    """Raises OSError, ssl.SSLError for files that are not there or do not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.key)
    context.load_verify_locations(tls.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    return context


def client_credentials(tls: FrontTls) -> grpc.ChannelCredentials:
    """Raises OSError."""
    authority, key, certificate = (Path(name).read_bytes() for name in (tls.authority, tls.key, tls.certificate))
    return grpc.ssl_channel_credentials(authority, key, certificate)


def channel_options(tls: FrontTls | None) -> tuple[tuple[str, str], ...]:
    return (("grpc.ssl_target_name_override", tls.peer_name),) if tls is not None and tls.peer_name else ()
