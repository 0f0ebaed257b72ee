"""How nodes encode what they say to each other: msgpack maps, in which a field that a newer version added is passed over.

Public messages travel inside as the bytes they are. `version` is raised when a message means something else than before; what
cannot be understood is refused, loudly.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from cluster.core.errors import unimplemented

M = TypeVar("M", bound=msgspec.Struct)
_decoders: Final[dict[type, msgspec.msgpack.Decoder[Any]]] = {}
encode: Final = msgspec.msgpack.Encoder().encode


class Reader:
    """Reads messages up to one version; those without a version (answers) are as the request's."""

    def __init__(self, version: int) -> None:
        self._version = version

    def decode(self, form: type[M], payload: bytes) -> M:
        """Raises UNIMPLEMENTED for what this version does not understand."""
        decoder = _decoders.get(form)
        if decoder is None:
            decoder = _decoders[form] = msgspec.msgpack.Decoder(form)
        try:
            message: M = decoder.decode(payload)
        except msgspec.DecodeError as error:
            raise unimplemented(f"{form.__name__} of another node cannot be read here: {error}") from error
        version = getattr(message, "version", self._version)
        if version > self._version:
            raise unimplemented(f"{form.__name__} of version {version} is newer than this node")
        return message
