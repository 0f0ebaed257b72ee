"""What is kept of a Nexus endpoint, and the public server's rules for one (release 1.32.1), in its words."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec
from temporalio.api.common.v1 import Payload
from temporalio.api.nexus.v1 import Endpoint, EndpointSpec

from cluster.config import Limits
from cluster.core.errors import invalid_argument
from nexus.errors import Refused
from nexus.policy import Caller, EndpointPolicy, check_caller

NAME_FORM = r"^[a-zA-Z][a-zA-Z0-9\-]*[a-zA-Z0-9]$"
NAME_BYTES_MAX = 200  # limit.endpointNameMaxLength
DESCRIPTION_BYTES_MAX = 20_000  # limit.endpointDescriptionMaxSize
URL_BYTES_MAX = 4 * 1024  # limit.endpointExternalURLMaxLength
PAGE_ENDPOINTS_DEFAULT = 100  # limit.endpointListDefaultPageSize
PAGE_ENDPOINTS_MAX = 1_000  # limit.endpointListMaxPageSize
_NAME = re.compile(NAME_FORM.rstrip("$") + r"\Z")


class EndpointRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """namespace_id and task_queue of a worker target, or url of an external one. version: 1, and one more with each change.

    Of two records with one id the higher version is the later one; of equal ones the later modified_at.
    """

    id: str
    name: str
    version: int
    created_at: int
    modified_at: int
    description: bytes = b""  # Payload
    namespace_id: str = ""
    task_queue: str = ""
    url: str = ""
    policy: EndpointPolicy = EndpointPolicy()
    is_deleted: bool = False  # a tombstone, for other regions

    @property
    def is_external(self) -> bool:
        return bool(self.url)

    def allows(self, namespace: str) -> bool:
        """Whether workflows of that namespace may use it."""
        try:
            check_caller(self.policy, Caller(namespace=namespace))
        except Refused:
            return False
        return True

    @property
    def order(self) -> tuple[int, int]:
        return self.version, self.modified_at


_decoder = msgspec.msgpack.Decoder(EndpointRecord)


def encode_record(record: EndpointRecord) -> bytes:
    return msgspec.msgpack.encode(record)


def decode_record(data: bytes) -> EndpointRecord:
    return _decoder.decode(data)


def public_endpoint(record: EndpointRecord, namespace: str) -> Endpoint:
    """As the operator sees it. namespace: the name of a worker target's."""
    endpoint = Endpoint(version=record.version, id=record.id, url_prefix=f"/nexus/endpoints/{record.id}/services")
    endpoint.spec.name = record.name
    if record.description:
        endpoint.spec.description.CopyFrom(Payload.FromString(record.description))
    if record.is_external:
        endpoint.spec.target.external.url = record.url
    else:
        endpoint.spec.target.worker.namespace = namespace
        endpoint.spec.target.worker.task_queue = record.task_queue
    endpoint.created_time.FromNanoseconds(record.created_at)
    if record.version > 1:
        endpoint.last_modified_time.FromNanoseconds(record.modified_at)
    return endpoint


def spec_issues(spec: EndpointSpec, limits: Limits) -> list[str]:
    """All that is wrong with a wish but for the target's namespace, which only the registry of namespaces knows."""
    issues = _name_issues(spec.name)
    variant = spec.target.WhichOneof("variant")
    if variant is None:
        return [*issues, "empty target variant"]
    if variant == "worker":
        if not spec.target.worker.namespace:
            issues.append("target namespace not set")
        if problem := _queue_problem(spec.target.worker.task_queue, limits.id_bytes_max):
            issues.append(f"invalid target task queue: {_quoted(problem)}")
    else:
        issues += _url_issues(spec.target.external.url)
    if spec.description.ByteSize() > DESCRIPTION_BYTES_MAX:
        issues.append(f"description size exceeds limit of {DESCRIPTION_BYTES_MAX}")
    return issues


def _name_issues(name: str) -> list[str]:
    if not name:
        return ["endpoint name not set"]
    issues = []
    if len(name.encode()) > NAME_BYTES_MAX:
        issues.append(f"endpoint name exceeds length limit of {NAME_BYTES_MAX}")
    if _NAME.match(name) is None:
        issues.append(f"endpoint name must match the regex: {_quoted(NAME_FORM)}")
    return issues


def _queue_problem(name: str, length_max: int) -> str:
    if not name:
        return "taskQueue is not set"
    if len(name.encode()) > length_max:
        return "taskQueue length exceeds limit"
    if name.startswith("/_sys/"):
        return "task queue name cannot start with reserved prefix /_sys/"
    return ""


def _url_issues(url: str) -> list[str]:
    if not url:
        return ["empty target URL"]
    if len(url.encode()) > URL_BYTES_MAX:
        return [f"target URL length exceeds limit of {URL_BYTES_MAX}"]
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is only read when it is asked for
    except ValueError as error:
        return [f"invalid target URL: {error}"]
    if parts.scheme not in ("http", "https"):
        return [f"invalid target URL scheme: {_quoted(parts.scheme)}, expected http or https"]
    if not parts.hostname or parts.username is not None:
        return ["invalid target URL: it names no host, or a user"]
    return []


def id_issues(id: str) -> list[str]:
    if not id:
        return ["endpoint ID not set"]
    if len(id) not in (32, 36, 38, 45):
        return [f"malformed endpoint ID: {_quoted(f'invalid UUID length: {len(id)}')}"]
    if re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", id) is None:
        return [f"malformed endpoint ID: {_quoted('invalid UUID format')}"]
    return []


def refuse(issues: Sequence[str]) -> None:
    """Raises INVALID_ARGUMENT if there are any."""
    if issues:
        raise invalid_argument(", ".join(issues))


def _quoted(text: str) -> str:
    """As the public server's language quotes it."""
    return json.dumps(text, ensure_ascii=False)
