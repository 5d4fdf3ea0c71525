"""The OpenAPI 3.1 document, made from the endpoints and the messages; never written by hand.

Served at `/v1/openapi.json`, kept at `docs/reference/openapi.json`, printed by `commitd openapi`.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from coordinator.errors import RequestError
from coordinator.http.endpoints import ENDPOINTS, Endpoint
from coordinator.http.middleware import PROBLEM_TYPE
from coordinator.shards import SHARD_HEADER
from coordinator.webhooks import NoticeView
from coordinator.wire import API_VERSION, LEADER_HEADER, Encoding, Name, Problem
from coordinator.wire_queries import EVENT_STREAM, LAST_EVENT_ID

__all__ = ["document", "text"]

_IN_PATH = re.compile(r"{(\w+)}")
_REF = "#/components/schemas/{model}"


def document() -> dict[str, Any]:
    """The document as a JSON value."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "commitd",
            "version": API_VERSION,
            "description": "Commit several services together, or none of them. Any replica takes any request.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(),
        "webhooks": {"notice": {"post": _notice()}},
        "components": {"schemas": _schemas()},
    }


@cache
def text() -> str:
    """The document as it is kept in a file; making it takes as long as many requests."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return paths


def _notice() -> dict[str, Any]:
    """What an application is told, at the URL that it gave as `notify`."""
    schema = {"$ref": _REF.format(model=NoticeView.__name__)}
    return {
        "operationId": "notice",
        "summary": "Told once the transaction is decided, and once it has ended; signed as Standard Webhooks says.",
        "requestBody": {"required": True, "content": {Encoding.JSON.value: {"schema": schema}}},
        "responses": {"2XX": {"description": "It is taken. Whatever else is answered, it comes again."}},
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": endpoint.name, "summary": endpoint.summary}
    if parameters := _parameters(endpoint):
        operation["parameters"] = parameters
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(endpoint.body)}
    operation["responses"] = _responses(endpoint)
    return operation


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    parameters = []
    for name in _IN_PATH.findall(endpoint.path):
        schema = TypeAdapter(Name).json_schema()
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    if endpoint.query is not None:
        properties = endpoint.query.model_json_schema(ref_template=_REF)["properties"]
        for name, schema in properties.items():
            parameters.append({"name": name, "in": "query", "required": False, "schema": _of_text(schema)})
    if endpoint.is_stream:
        schema = {"type": "string", "pattern": "^[0-9]+$"}
        parameters.append({"name": LAST_EVENT_ID, "in": "header", "required": False, "schema": schema})
    return parameters


def _of_text(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is absent rather than null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
    return {**kinds[0], **rest}


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    responses: dict[str, Any] = {
        str(status): {"description": description} | ({} if model is None else {"content": _answer(endpoint, model)})
        for status, (model, description) in endpoint.answers.items()
    }
    if endpoint.leader:
        responses["307"] = {
            "description": "Another replica leads, or the gid belongs to another shard: the same request to Location.",
            "headers": {name: {"schema": {"type": "string"}} for name in ("Location", LEADER_HEADER, SHARD_HEADER)},
        }
    by_status: dict[int, list[type[RequestError]]] = {}
    for error in endpoint.errors:
        by_status.setdefault(error.status, []).append(error)
    for status, errors in sorted(by_status.items()):
        responses[str(status)] = _problems(errors)
    return responses


def _problems(errors: list[type[RequestError]]) -> dict[str, Any]:
    described = "; ".join(f"`{error.code}`: {error.title}" for error in errors)
    answer: dict[str, Any] = {
        "description": described,
        "content": {PROBLEM_TYPE: {"schema": {"$ref": _REF.format(model=Problem.__name__)}}},
    }
    if any(error.retry_safe for error in errors):
        answer["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
    return answer


def _answer(endpoint: Endpoint, model: type[BaseModel]) -> dict[str, Any]:
    """Of a stream, the schema is that of each event, whose data holds the model."""
    if endpoint.is_stream:
        held = {"$ref": _REF.format(model=model.__name__)}
        data = {"type": "string", "contentMediaType": Encoding.JSON.value, "contentSchema": held}
        properties = {"id": {"type": "string"}, "data": data}
        return {EVENT_STREAM: {"schema": {"type": "object", "properties": properties, "required": ["id", "data"]}}}
    return _content(model)


def _content(model: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {encoding.value: {"schema": schema} for encoding in Encoding}


def _schemas() -> dict[str, Any]:
    requests: set[type[BaseModel]] = {e.body for e in ENDPOINTS if e.body is not None}
    requests |= {e.query for e in ENDPOINTS if e.query is not None}
    answers = {model for e in ENDPOINTS for model, _ in e.answers.values() if model is not None}
    answers |= {NoticeView, Problem}
    modes: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        *((model, "validation") for model in requests),
        *((model, "serialization") for model in answers),
    ]
    _, schemas = models_json_schema(sorted(modes, key=lambda m: m[0].__name__), ref_template=_REF)
    queries = {e.query.__name__ for e in ENDPOINTS if e.query is not None}
    return {name: schema for name, schema in sorted(schemas["$defs"].items()) if name not in queries}
