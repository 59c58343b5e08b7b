"""The admin API as an OpenAPI 3.1 document; fuzzed against the running server by the tests."""

from functools import cache
from typing import Any

from gateway.admin.console import HEADER, PLAYED
from gateway.admin.operators import ROLES, needed
from gateway.policy.book import Book
from gateway.transfer.lines import FORMAT
from gateway.transfer.room import MAX_LINES


@cache
def document() -> dict[str, Any]:
    """The whole document, with the policy schemas taken from the models that validate them.

    `x-role` of each operation: the least role of the token it takes.
    """
    told = _document()
    for path, operations in told["paths"].items():
        for method in operations.keys() & {"get", "put", "post", "delete"}:
            operations[method]["x-role"] = needed(method.upper(), path)
    return told


def _document() -> dict[str, Any]:
    schemas = Book.model_json_schema(ref_template="#/components/schemas/{model}")
    parts = schemas.pop("$defs", {})
    # As in YAML, where a key with nothing behind it says nothing.
    schemas["properties"] = {
        name: {"anyOf": [part, {"type": "null"}]} for name, part in schemas["properties"].items()
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Semantic Gateway admin API",
            "version": "1",
            "description": "Policies, cache, explanations and health of one gateway.",
        },
        "security": [{"token": []}, {}],
        "paths": {
            "/livez": {"get": _read("live", "The process answers.", security=[])},
            "/readyz": {
                "get": _read("ready", "Ready to serve from the cache.", unavailable=True, security=[])
            },
            "/health": {"get": _read("health", "As /readyz.", unavailable=True, security=[])},
            "/metrics": {"get": _metrics()},
            "/openapi.json": {"get": _read("openapi", "This document.")},
            "/whoami": {"get": _read("whoami", "The name and the role of the token.", "Operator")},
            "/": {"get": _page("console", "The console, a web page.", "text/html")},
            "/console/{file}": {
                "parameters": [_path("file", {"type": "string"})],
                "get": _page(
                    "consoleFile",
                    "A part of it.",
                    "text/html",
                    "text/css",
                    "text/javascript",
                    "image/svg+xml",
                ),
            },
            "/traffic": {
                "get": {
                    **_read("readTraffic", "The latest decisions, the newest first, and counts a minute."),
                    "parameters": [_query("after", _WHOLE), _query("limit", _WHOLE)],
                    "responses": _responses("Traffic", {"400"}),
                }
            },
            "/playground": {
                "post": _write(
                    "play",
                    "What would become of an application's request and, unless `send` is false, what does.",
                    "Play",
                    "Played",
                    missing=True,
                )
            },
            "/policies": {
                "get": _read("readPolicies", "The book in force, defaults filled in.", "Book", etag=True),
                "put": _write("replacePolicies", "Replace the whole book.", "Book", "Book", conditional=True),
            },
            "/policies/validate": {
                "post": _write("validatePolicies", "Validate a book; nothing changes.", "Book", "Validation")
            },
            "/policies/reload": {
                "post": _plain("reloadPolicies", "Read the policy folder again.", "Book", {"422", "503"})
            },
            "/policies/versions": {
                "get": _read(
                    "readVersions", "The book's versions, the newest first.", "Versions", unavailable=True
                )
            },
            "/policies/rollback": {
                "post": _write(
                    "rollbackPolicies",
                    "Put an earlier version in force again, as the newest one.",
                    "Rollback",
                    "Book",
                    missing=True,
                    stored=True,
                )
            },
            "/audit": {
                "get": {
                    **_read("readAudit", "What operators did, the newest first.", unavailable=True),
                    "parameters": [_query("limit", {"type": "integer", "minimum": 0, "maximum": 999999})],
                    "responses": _responses("Audit", {"400", "503"}),
                }
            },
            "/policies/{category}": {
                "parameters": [_path("category", {"type": "string"})],
                "get": _read("readPolicy", "One category.", "Category", missing=True, etag=True),
                "put": _write(
                    "replacePolicy",
                    "Create or replace one category.",
                    "NamedByPath",
                    "Category",
                    conditional=True,
                ),
                "delete": _plain(
                    "deletePolicy",
                    "Remove a category.",
                    "Book",
                    {"400", "404", "409", "412", "422", "503"},
                    conditional=True,
                ),
            },
            "/explain": {
                "post": _write(
                    "explain",
                    "What would become of a request. Calls no model and changes nothing.",
                    "Request",
                    "Explanation",
                    missing=True,
                )
            },
            "/cache": {"get": _read("readCache", "Entries, bytes and quotas per category.")},
            "/cache/entries": {
                "get": {
                    **_read("searchEntries", "Entries whose question holds a text, the newest first."),
                    "parameters": [_query("q", {"type": "string"}), *_FILTERS, _query("limit", _WHOLE)],
                    "responses": _responses("Found", {"400"}),
                }
            },
            "/cache/entries/{id}": {
                "parameters": [_path("id", {"type": "string"})],
                "get": _read("readEntry", "One entry with its document.", missing=True),
            },
            "/cache/purge": {
                "post": _write("purge", "Remove entries that match all criteria.", "Purge", "Purged")
            },
            "/erase": {
                "post": _write(
                    "erase",
                    "Forget every text of a tenant, of an end user, or of an end user of a tenant, wherever it is kept.",
                    "Erasure",
                    "Erased",
                )
            },
            "/cache/export": {
                "get": _export(
                    "exportCache", "The cache as JSON lines: a head, then its entries.", early=True
                )
            },
            "/cache/import": {
                "post": _write("importCache", "Store lines of an export.", "Restoration", "Tally", early=True)
            },
            "/cache/warm": {
                "post": _write("warmCache", "Store answers known beforehand.", "Warming", "Tally", early=True)
            },
            "/examples": {
                "get": {
                    **_read("readExamples", "Examples for small models, the newest first."),
                    "parameters": [
                        *_FILTERS,
                        _query("limit", {"type": "integer", "minimum": 0, "maximum": 999999}),
                    ],
                    "responses": _responses("Examples", {"400"}),
                }
            },
            "/examples/export": {
                "get": _export("exportExamples", "The same examples, one JSON object a line.")
            },
            "/examples/{id}": {
                "parameters": [_path("id", {"type": "string"})],
                "delete": _plain("deleteExample", "Forget an example, everywhere.", "Object", {"404"}),
            },
            "/offload": {
                "get": _read(
                    "readOffload", "Every pair of models: what is offloaded, how good it is, what it saves."
                )
            },
            "/savings": {"get": _savings()},
            "/trust": {
                "get": _read(
                    "readTrust",
                    "How often semantic hits are wrong, in all and by category, and what withheld ones would have done.",
                )
            },
            "/trust/{category}": {
                "parameters": [_path("category", {"type": "string"})],
                "get": _read("readTrustOf", "The same of one category.", missing=True),
            },
            "/tenants": {
                "get": _read("readTenants", "Every tenant: its keys' labels, its limits, what is used.")
            },
            "/backends": {"get": _read("readBackends", "Every backend, its counters and its standing.")},
            "/backends/{id}/drain": {
                "parameters": [_path("id", {"type": "string"})],
                "post": _plain("drainBackend", "No new requests for a backend.", "Object", {"404"}),
            },
            "/backends/{id}/enable": {
                "parameters": [_path("id", {"type": "string"})],
                "post": _plain("enableBackend", "Back into service, and well again.", "Object", {"404"}),
            },
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                **parts,
                "Book": schemas,
                "NamedByPath": _named_by_path(parts["Category"]),
                **_SCHEMAS,
            },
        },
    }


def _named_by_path(category: dict[str, Any]) -> dict[str, Any]:
    """A category whose name may be left out, as the path says it."""
    return {**category, "required": [name for name in category.get("required", ()) if name != "name"]}


PURGED = ("tenant", "user", "category", "model", "tag", "entry", "request_id")
_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": True}
_WHOLE: dict[str, Any] = {"type": "integer", "minimum": 0, "maximum": 999999999999}
_TEXT: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": "number"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_COUNTS: dict[str, Any] = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}}


def _closed(**properties: dict[str, Any]) -> dict[str, Any]:
    """An object with all of these and nothing else."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [*properties],
        "properties": properties,
    }


_LINES: dict[str, Any] = {"type": "array", "maxItems": MAX_LINES}  # a line that is wrong is told, not refused
_SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    },
    "Object": _OBJECT,
    "Operator": {
        "type": "object",
        "required": ["name", "role"],
        "properties": {"name": {"type": "string"}, "role": {"enum": list(ROLES)}},
    },
    "Validation": {
        "type": "object",
        "required": ["valid", "version", "changes", "decisions"],
        "properties": {
            "valid": {"const": True},
            "version": {"type": "string"},
            "changes": {
                "type": "array",
                "items": {**_OBJECT, "required": ["path", "old", "new"], "properties": {"path": _TEXT}},
            },
            "decisions": _closed(
                sampled={**_COUNT, "description": "Recent semantic look-ups that were decided again."},
                changed=_COUNT,
                hits_gained=_COUNT,
                hits_lost=_COUNT,
                changes={
                    "type": "array",
                    "items": _closed(
                        **dict.fromkeys(
                            ("request_id", "tenant", "category", "question", "was", "would"), _TEXT
                        )
                    ),
                },
            ),
        },
    },
    "Traffic": _closed(
        next={**_COUNT, "description": "`after` of the next look."},
        decisions={
            "type": "array",
            "items": _closed(
                number={"type": "integer", "minimum": 1},
                at={"type": "number"},
                **dict.fromkeys(
                    ("request_id", "tenant", "endpoint", "model", "category", "decision", "how", "reason"),
                    _TEXT,
                ),
                status={"type": "integer"},
                backend=_TEXT,
                similarity={"type": ["number", "null"]},
                threshold={"type": ["number", "null"]},
                seconds={"type": "number", "minimum": 0},
                question={"type": ["string", "null"]},
            ),
        },
        minutes={"type": "array", "items": _closed(at={"type": "integer"}, counts=_COUNTS)},
        categories={"type": "object", "additionalProperties": _COUNTS, "description": "Of the last hour."},
    ),
    "Found": _closed(
        count={**_COUNT, "description": "Entries that match."},
        looked={**_COUNT, "description": "Entries looked at."},
        entries={
            "type": "array",
            "items": _closed(
                **dict.fromkeys(("entry", "tenant", "category", "model", "endpoint", "question"), _TEXT),
                **dict.fromkeys(("created", "expires", "cost"), _NUMBER),
                **dict.fromkeys(("size", "hits"), _COUNT),
                tags={"type": "array", "items": _TEXT},
            ),
        },
    ),
    "Play": {
        "type": "object",
        "required": ["path", "body"],
        "properties": {
            "path": {"enum": [*PLAYED]},
            "body": {"$ref": "#/components/schemas/Request"},
            "headers": {
                "type": "object",
                "maxProperties": 20,
                "propertyNames": {"pattern": HEADER},
                "additionalProperties": {"type": "string", "pattern": "^[ -~]*$"},
            },
            "send": {"type": "boolean"},
        },
    },
    "Played": _closed(
        explained={"$ref": "#/components/schemas/Explanation"},
        answer={
            "anyOf": [
                {"type": "null"},
                _closed(
                    status={"type": "integer"},
                    headers={"type": "object", "additionalProperties": _TEXT},
                    body={"description": "JSON, or text where it is none."},
                ),
            ]
        },
    ),
    "Request": {
        "type": "object",
        "description": "A chat, completions, responses or messages request as a client would send it; the last with anthropic-version.",
        "required": ["model"],
        "properties": {
            "model": {"type": "string", "minLength": 1},
            "messages": {
                "type": "array",
                "minItems": 1,
                "items": {**_OBJECT, "required": ["role"], "properties": {"role": {"type": "string"}}},
            },
        },
        "anyOf": [  # what comes first in this order says what is asked for
            {"required": ["messages"]},
            {"required": ["prompt"], "properties": {"prompt": {"type": "string"}}},
            {
                "required": ["input"],
                "properties": {"input": {"type": "string"}},
                "not": {"required": ["prompt"]},
            },
        ],
    },
    "Explanation": {
        "type": "object",
        "required": ["decision", "reason", "candidates", "backends"],
        "properties": {
            "decision": {"enum": ["reuse", "forward", "offload", "refuse"]},
            "how": {"enum": ["exact", "semantic", None]},
            "reason": {"type": "string"},
            "category": {"type": ["string", "null"]},
            "similarity": {"type": ["number", "null"]},
            "threshold": {"type": ["number", "null"]},
            "candidates": {"type": "array", "items": _OBJECT},
            "offload": {"type": ["object", "null"], "additionalProperties": True},
            "backends": {"type": "array", "items": _OBJECT},
        },
    },
    "Examples": {
        "type": "object",
        "required": ["count", "examples"],
        "properties": {
            "count": {"type": "integer", "minimum": 0},
            "examples": {"type": "array", "items": _OBJECT},
        },
    },
    "Versions": {
        "type": "object",
        "required": ["versions"],
        "properties": {
            "versions": {
                "type": "array",
                "items": {
                    **_OBJECT,
                    "required": ["number", "version", "at", "who", "what", "source", "current"],
                },
            }
        },
    },
    "Rollback": {
        "type": "object",
        "additionalProperties": False,
        "required": ["version"],
        "properties": {"version": {"type": ["integer", "string"], "minimum": 0, "maximum": 2**53 - 1}},
    },
    "Audit": {
        "type": "object",
        "required": ["records"],
        "properties": {
            "records": {
                "type": "array",
                "items": {**_OBJECT, "required": ["number", "at", "who", "action"]},
            }
        },
    },
    "Purge": {
        "type": "object",
        "additionalProperties": False,
        "anyOf": [
            *({"required": [name]} for name in PURGED),
            {"required": ["all"], "properties": {"all": {"const": True}}},
        ],
        "properties": {
            **{name: {"type": "string"} for name in PURGED},
            "all": {"type": "boolean"},
            "dry_run": {"type": "boolean"},
        },
    },
    "Erasure": {
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "properties": {name: {"type": "string", "minLength": 1} for name in ("tenant", "user")},
    },
    "Erased": {
        "type": "object",
        "required": ["erased", "shared"],
        "properties": {
            "erased": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
            "shared": {"type": "boolean", "description": "Whether the other replicas have been told."},
        },
    },
    "Restoration": {
        "type": "object",
        "additionalProperties": False,
        "required": ["head", "lines"],
        "properties": {
            "head": {
                "type": "object",
                "required": ["format", "embedder", "sorting", "tenants"],
                "properties": {
                    "format": {"const": FORMAT},
                    **{name: {"type": "string"} for name in ("embedder", "sorting", "tenants")},
                },
            },
            "lines": _LINES,
        },
    },
    "Warming": {
        "type": "object",
        "additionalProperties": False,
        "required": ["lines"],
        "properties": {
            **{name: {"type": "string"} for name in ("model", "tenant", "key", "category")},
            "fields": {"type": ["object", "null"]},
            "replace": {"type": "boolean"},
            "lines": _LINES,
        },
    },
    "Tally": {
        "type": "object",
        "required": ["outcomes", "faults"],
        "properties": {
            "outcomes": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}},
            "faults": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["at", "reason"],
                    "properties": {"at": {"type": "integer", "minimum": 0}, "reason": {"type": "string"}},
                },
            },
        },
    },
    "Purged": {
        "type": "object",
        "required": ["purged", "examples", "shared", "dry_run"],
        "properties": {
            "purged": {"type": "integer", "minimum": 0},
            "examples": {"type": "integer", "minimum": 0},
            "shared": {"type": "boolean", "description": "Whether the other replicas have been told."},
            "dry_run": {"type": "boolean"},
        },
    },
}


def _ref(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _path(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema}


def _responses(schema: str, refusals: set[str], *, etag: bool = False) -> dict[str, Any]:
    told: dict[str, Any] = {"200": {"description": "Done.", "content": _ref(schema)}}
    if etag:
        told["200"]["headers"] = {"ETag": {"schema": {"type": "string"}}}
    words = {
        "400": "Not understood.",
        "401": "No or a wrong token.",
        "403": "Not from here.",
        "404": "Not found.",
        "409": "Policies are kept in files here.",
        "412": "Changed since it was read.",
        "413": "Too large.",
        "415": "Not JSON.",
        "422": "Not valid; every fault is listed.",
        "503": "Not ready.",
    }
    for status in sorted(refusals | {"401", "403"}):
        content = _ref("Object" if status == "503" else "Error")
        told[status] = {"description": words[status], "content": content}
    return told


def _read(
    name: str,
    text: str,
    schema: str = "Object",
    *,
    missing: bool = False,
    unavailable: bool = False,
    etag: bool = False,
    security: list[Any] | None = None,
) -> dict[str, Any]:
    refusals = ({"404"} if missing else set()) | ({"503"} if unavailable else set())
    operation = {"operationId": name, "summary": text, "responses": _responses(schema, refusals, etag=etag)}
    return operation if security is None else {**operation, "security": security}


def _page(name: str, text: str, *kinds: str) -> dict[str, Any]:
    operation = _read(name, text, missing=len(kinds) > 1, security=[])
    operation["responses"]["200"]["content"] = {kind: {"schema": _TEXT} for kind in kinds}
    return operation


def _metrics() -> dict[str, Any]:
    operation = _read("metrics", "Prometheus metrics.")
    operation["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    return operation


def _savings() -> dict[str, Any]:
    operation = _read("readSavings", "What reuse and small models have saved, net of bad answers.")
    operation["responses"] = _responses("Object", {"400"})
    operation["responses"]["200"]["content"]["text/csv"] = {"schema": {"type": "string"}}
    ways = {"enum": ["exact", "semantic", "join", "offload"]}
    parameters = [
        _query("tenant", {"type": "string"}),
        _query("category", {"type": "string"}),
        _query("how", ways),
        _query("format", {"enum": ["json", "csv"]}),
    ]
    return {**operation, "parameters": parameters}


def _export(name: str, text: str, *, early: bool = False) -> dict[str, Any]:
    operation = _read(name, text, unavailable=early)
    operation["responses"]["200"]["content"] = {"application/jsonl": {"schema": {"type": "string"}}}
    return {**operation, "parameters": _FILTERS}


def _plain(
    name: str, text: str, schema: str, refusals: set[str], *, conditional: bool = False
) -> dict[str, Any]:
    parameters = _CONDITIONS if conditional else []
    return {
        "operationId": name,
        "summary": text,
        "description": _IF_MATCH if conditional else text,
        "parameters": parameters,
        "responses": _responses(schema, refusals, etag=True),
    }


def _write(
    name: str,
    text: str,
    given: str,
    schema: str,
    *,
    conditional: bool = False,
    missing: bool = False,
    early: bool = False,
    stored: bool = False,
) -> dict[str, Any]:
    refusals = {"400", "413", "415", "422"}
    refusals |= {"409", "412", "503"} if conditional or stored else set()
    refusals |= {"404"} if missing else set()
    refusals |= {"503"} if early else set()
    operation = _plain(name, text, schema, refusals, conditional=conditional)
    return {**operation, "requestBody": {"required": True, "content": _ref(given)}}


_FILTERS: list[dict[str, Any]] = [
    _query(name, {"type": "string"}) for name in ("tenant", "model", "category")
]
_CONDITIONS: list[dict[str, Any]] = [
    {
        "name": "dry_run",
        "in": "query",
        "schema": {"type": "boolean"},
        "description": "Validate and tell, change nothing.",
    }
]
_IF_MATCH = "With `If-Match: <the ETag that was read>` nothing is overwritten that changed meanwhile (412)."
