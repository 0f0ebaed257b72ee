"""The gateway described in OpenAPI 3.1, from the table of routes: what is not in it is neither served nor described."""

from __future__ import annotations

import re
from typing import Any

from nexus.errors import STATUS_OF
from nexus.routes import ROUTES, Route
from nexus.settings import GatewaySettings

_DURATION = {"type": "string", "pattern": r"^[0-9]{1,18}(\.[0-9]{0,18})?(ms|s|m)$", "examples": ["10s"]}
_FAILURE = {"$ref": "#/components/schemas/Failure"}
_JSON_FAILURE = {"application/json": {"schema": _FAILURE}}
_LINK = "<url>; type=\"...\", as the HTTP header Link"


def document(settings: GatewaySettings) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, settings)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Outlast Nexus gateway",
            "version": "1",
            "description": "Operations of any length by the Nexus RPC protocol (github.com/nexus-rpc/api). Names in a path are "
            "percent-encoded, slashes too. A refusal is a Failure with metadata.type nexus.HandlerError; those with status "
            "408, 429, 500, 503 and 520 are worth another try with the same Nexus-Request-Id, unless "
            "details.retryableOverride says otherwise.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {"schemas": _schemas(), "responses": {"Refused": _refused()}},
    }


def _operation(route: Route, settings: GatewaySettings) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": route.id,
        "summary": route.summary,
        "parameters": [*_path_parameters(route, settings), *_parameters(route.action, settings)],
        "responses": {**_responses(route.action), "default": {"$ref": "#/components/responses/Refused"}},
    }
    if route.action == "start":
        made["requestBody"] = {
            "description": "The operation's input, of any content type; at most "
            f"{settings.body_bytes_max} bytes. None and no content type: null.",
            "content": {"application/json": {"schema": {}}, "application/octet-stream": {}},
        }
    elif route.action == "complete":
        made["requestBody"] = {
            "description": "The result, or a Failure if the state is failed or canceled.",
            "content": {"application/json": {"schema": {}}, "application/octet-stream": {}},
        }
    return made


def _path_parameters(route: Route, settings: GatewaySettings) -> list[dict[str, Any]]:
    found = []
    for name in re.findall(r"\{(\w+)\}", route.path):
        longest = settings.token_bytes_max if name == "token" else settings.name_bytes_max
        schema = {"type": "string", "minLength": 1, "maxLength": longest}
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    return found


def _header(name: str, description: str, schema: dict[str, Any] | None = None, required: bool = False) -> dict[str, Any]:
    made = {"name": name, "in": "header", "description": description, "schema": schema or {"type": "string"}}
    return {**made, "required": True} if required else made


def _query(name: str, description: str, schema: dict[str, Any] | None = None, required: bool = False) -> dict[str, Any]:
    return {**_header(name, description, schema, required), "in": "query"}


def _parameters(action: str, settings: GatewaySettings) -> list[dict[str, Any]]:
    timeout = _header("Request-Timeout", "How long the caller waits for an answer; 10 s if it does not say", _DURATION)
    url = {"type": "string", "maxLength": settings.callback_url_bytes_max}
    request_id = {"type": "string", "maxLength": settings.name_bytes_max}
    link = _header("Nexus-Link", _LINK)
    if action == "start":
        return [
            _query("callback", "Where the result is to be told, http or https", url),
            timeout,
            _header("Operation-Timeout", "How long the caller waits for the operation", _DURATION),
            _header("Nexus-Request-Id", "The same for every try: the operation is started once", request_id),
            link,
        ]
    if action == "cancel":
        token = {"type": "string", "maxLength": settings.token_bytes_max}
        named = _query("token", "The operation's token, if not in its header", token)
        return [named, _header("Nexus-Operation-Token", "The token"), timeout]
    if action == "look":
        return [_query("wait", "Wait so long for the result (at most 60 s); without it, the state is told at once", _DURATION)]
    if action == "list":
        return [
            _query("workflow_id", "The caller", {"type": "string", "minLength": 1, "maxLength": settings.name_bytes_max}, True),
            _query("run_id", "Its run; the current one if not given", {"type": "string", "maxLength": settings.name_bytes_max}),
        ]
    if action == "complete":
        states = {"type": "string", "enum": ["succeeded", "failed", "canceled"]}
        return [
            _header("Nexus-Operation-State", "How it ended", states, True),
            _header("Token", "The callback's token (or Temporal-Callback-Token)"),
            _header("Nexus-Operation-Token", "The operation's token"),
            _header("Nexus-Operation-Start-Time", "RFC 5322"),
            _header("Nexus-Operation-Close-Time", "RFC 3339"),
            link,
        ]
    return []


def _responses(action: str) -> dict[str, Any]:
    result = {
        "description": "It succeeded: the body is the result",
        "headers": {"Nexus-Operation-State": {"schema": {"type": "string"}}},
    }
    unsuccessful = {"description": "It failed or was canceled: nexus.OperationError, details.state", "content": _JSON_FAILURE}
    info = {"application/json": {"schema": {"$ref": "#/components/schemas/OperationInfo"}}}
    if action == "start":
        return {"200": result, "201": {"description": "It goes on", "content": info}, "424": unsuccessful}
    if action == "cancel":
        return {"202": {"description": "Heard; the operation may still end in any way"}}
    if action == "look":
        told = {"description": "With wait: the result. Without: OperationInfo. With Accept: text/event-stream, events"}
        return {"200": told, "202": {"description": "Still running: ask again", "content": info}, "424": unsuccessful}
    if action == "list":
        listed = {"type": "object", "required": ["operations"], "properties": {"operations": {"type": "array"}}}
        return {"200": {"description": "Newest first", "content": {"application/json": {"schema": listed}}}}
    if action == "complete":
        return {"200": {"description": "Heard"}}
    return {"200": {"description": "OpenAPI 3.1", "content": {"application/json": {"schema": {"type": "object"}}}}}


def _refused() -> dict[str, Any]:
    return {
        "description": "nexus.HandlerError; details.type is one of " + ", ".join(sorted(STATUS_OF)),
        "headers": {"Retry-After": {"schema": {"type": "string"}}},
        "content": _JSON_FAILURE,
    }


def _schemas() -> dict[str, Any]:
    return {
        "Failure": {
            "type": "object",
            "required": ["message"],
            "properties": {
                "message": {"type": "string"},
                "stackTrace": {"type": "string"},
                "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                "details": {},
                "cause": _FAILURE,
            },
        },
        "OperationInfo": {
            "type": "object",
            "required": ["token", "state"],
            "properties": {
                "token": {"type": "string"},
                "state": {"type": "string", "enum": ["running", "succeeded", "failed", "canceled"]},
                "attempt": {"type": "integer"},
                "lastFailure": {"type": "string"},
                "progress": {"type": "object"},
                "startTime": {"type": "string", "format": "date-time"},
                "closeTime": {"type": "string", "format": "date-time"},
                "links": {"type": "array", "items": {"type": "object"}},
            },
        },
    }
