"""How the API describes itself: OpenAPI 3.1, with what the routes alone do not say."""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from handinger.api.models.emails import EmailSettingsUpdate
from handinger.api.models.instructions import WorkerCancel, WorkerContinue, WorkerCreate
from handinger.api.models.schedules import ScheduleChange, ScheduleCreate

_BODIES_WITH_FILES = ("WorkerCreate", "WorkerContinue")
_BODIES = (
    WorkerCreate,
    WorkerContinue,
    WorkerCancel,
    ScheduleCreate,
    ScheduleChange,
    EmailSettingsUpdate,
)
# Signed requests, and what the link in a mail leads to.
_WITHOUT_KEY = ("postInboundEmail", "getEmailFile")
_REFERENCE = "#/components/schemas/{model}"

_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key within 24 hours joins the first request instead of running again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`respond-async` answers 202 at once (RFC 7240).",
    "schema": {"type": "string"},
}


def body_of(name: str, *, required: bool = True, with_files: bool = False) -> dict[str, Any]:
    """For `openapi_extra` of a route that reads its body itself."""
    schema = {"$ref": _REFERENCE.format(model=name)}
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if with_files:
        form: dict[str, Any] = {"schema": {"$ref": _REFERENCE.format(model=_form_name(name))}}
        if name == "WorkerCreate":
            form["encoding"] = {"metadata": {"contentType": "application/json"}}
        content["multipart/form-data"] = form
    return {"requestBody": {"required": required, "content": content}}


def _form_name(name: str) -> str:
    return f"{name}Form"


def _form_of(schema: dict[str, Any]) -> dict[str, Any]:
    """The same fields as a form, each file a part of its own."""
    files = {
        "type": "array",
        "title": "Files",
        "items": {"type": "string", "contentMediaType": "application/octet-stream"},
        "description": "One part for each file; `files[]` is read as well.",
    }
    form = {name: value for name, value in schema.items() if name != "examples"}
    form["properties"] = {**schema["properties"], "files": files}
    return {**form, "title": _form_name(schema["title"])}


def install(app: FastAPI) -> None:
    """Let the app describe itself in full."""
    generate = app.openapi

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generate())
        return app.openapi_schema

    app.openapi = describe


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    components = document["components"]
    components["securitySchemes"] = {
        "apiKey": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key: `hdg_live_...`, made by `handinger keys create`.",
        }
    }
    _, bodies = models_json_schema(
        [(model, "validation") for model in _BODIES], ref_template=_REFERENCE
    )
    components["schemas"] |= bodies["$defs"]
    for name in _BODIES_WITH_FILES:
        components["schemas"][_form_name(name)] = _form_of(bodies["$defs"][name])
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/api") and operation["operationId"] not in _WITHOUT_KEY:
                operation["security"] = [{"apiKey": []}]
            if method == "post" and operation["operationId"] in ("createWorker", "continueWorker"):
                operation["parameters"] += [_IDEMPOTENCY_KEY, _PREFER]
    return document
