"""The OpenAPI 3.1 document, made from the endpoints and their types. Pure."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from contract.ids import ID_PATTERN
from fleet.api.forms import Refusal
from fleet.web.endpoint import RAW, RAW_TYPE, Endpoint
from fleet.web.problem import STATUSES

REF = "#/components/schemas/{name}"
TITLE = "Shoal controller"


def document(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """The document. Responses that every endpoint may give are components of their own."""
    endpoints = list(endpoints)
    kinds = [kind for one in endpoints for kind in (one.answer, one.body, one.query) if kind not in (None, RAW)]
    found, parts = msgspec.json.schema_components([*kinds, Refusal], ref_template=REF)
    schemas = dict(zip(map(_key, [*kinds, Refusal]), found, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for one in endpoints:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schemas, parts)
    queries = {one.query.__name__ for one in endpoints}
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": version, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": {name: part for name, part in sorted(parts.items()) if name not in queries},
            "responses": {str(status): _refusal(why, schemas[_key(Refusal)]) for status, why in STATUSES.items()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _operation(one: Endpoint, schemas: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    who = f"{one.least}{' or client' if one.clients else ''}"
    operation: dict[str, Any] = {
        "operationId": _name(one),
        "summary": one.summary,
        "description": f"Least role: {who}.",
        "parameters": [*_in_path(one.path), *_in_query(one, parts)],
        "responses": {
            "200": {"description": "Done.", "content": {one.media_type: {"schema": schemas[_key(one.answer)]}}},
            **{str(status): {"$ref": f"#/components/responses/{status}"} for status in STATUSES},
            **{str(status): _refusal(why, schemas[_key(Refusal)]) for status, why in one.statuses.items()},
        },
    }
    if one.body is RAW:
        operation["requestBody"] = {"required": True, "content": {RAW_TYPE: {"schema": {"type": "string"}}}}
    elif one.body is not None:
        content = {"application/json": {"schema": schemas[_key(one.body)]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _in_path(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)}", path)
    schema = {"type": "string", "pattern": ID_PATTERN}
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]


def _in_query(one: Endpoint, parts: dict[str, Any]) -> list[dict[str, Any]]:
    own = parts[one.query.__name__]
    required = own.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": schema}
        for name, schema in own["properties"].items()
    ]


def _refusal(why: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": why, "content": {"application/json": {"schema": schema}}}


def _name(one: Endpoint) -> str:
    words = re.findall(r"\w+", one.path.removeprefix("/v1"))
    return "_".join([one.method.lower(), *words])


def _key(kind: Any) -> str:
    return repr(kind)
