"""The name under which tests know ops/services/proxy.py; it moved there since chaos and bench start the same servers."""

from __future__ import annotations

from ops.services.proxy import (
    Mode,
    TcpProxy,
    tcp_proxy,
)

__all__ = ["Mode", "TcpProxy", "tcp_proxy"]
