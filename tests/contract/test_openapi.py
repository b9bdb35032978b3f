"""The API describes itself in full, and its examples run."""

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from handinger.api.models.instructions import WorkerCancel, WorkerContinue, WorkerCreate
from handinger.api.models.schedules import ScheduleChange, ScheduleCreate
from handinger.server import describe_app

COMMITTED = Path(__file__).parents[2] / "openapi.json"


@pytest.fixture(scope="module")
def document() -> dict:
    return describe_app().openapi()


def test_the_committed_description_is_the_routes_own(document: dict) -> None:
    assert json.loads(COMMITTED.read_text()) == json.loads(json.dumps(document))


def test_it_is_openapi_3_1(document: dict) -> None:
    assert document["openapi"].startswith("3.1.")


def test_every_model_and_every_field_is_described(document: dict) -> None:
    schemas = document["components"]["schemas"]
    silent = [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, described in schema.get("properties", {}).items()
        if not described.get("description")
    ]
    assert silent == []
    assert [name for name, schema in schemas.items() if not schema.get("description")] == [
        "JsonValue"  # any JSON value; pydantic's own
    ]


def test_every_operation_has_a_summary_an_id_and_its_errors(document: dict) -> None:
    ids = []
    for path, operations in document["paths"].items():
        for operation in operations.values():
            ids.append(operation["operationId"])
            assert operation["summary"]
            if path.startswith("/api") and "security" in operation:
                assert operation["security"] == [{"apiKey": []}]
                assert {"401", "429", "503"} <= set(operation["responses"])
    assert len(ids) == len(set(ids))


def test_every_reference_leads_somewhere(document: dict) -> None:
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])


@pytest.mark.parametrize(
    "model", [WorkerCreate, WorkerContinue, WorkerCancel, ScheduleCreate, ScheduleChange]
)
def test_every_body_has_an_example_that_is_valid(model: type, document: dict) -> None:
    examples = document["components"]["schemas"][model.__name__]["examples"]
    assert examples
    for example in examples:
        TypeAdapter(model).validate_python(example)
