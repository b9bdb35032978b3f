"""The API describes itself in full, and its examples run."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from handinger.server import describe_app
from tests.contract.world import Api

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


def test_the_example_of_every_body_runs(
    new_organization: Callable[[str], Api], document: dict
) -> None:
    api = new_organization("of the examples")
    worker_id = api.create("Be there.").json()["id"]
    schedule = {"input": "Later.", "when": {"type": "delayed", "delayInSeconds": 3600}}
    made = api.client.post(f"/api/workers/{worker_id}/schedules", json=schedule)
    ids = {"{workerId}": worker_id, "{scheduleId}": made.json()["id"]}
    ran = list[str]()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is None:
                continue
            name = body["schema"]["$ref"].rpartition("/")[2]
            for example in document["components"]["schemas"][name]["examples"]:
                url = re.sub(r"{\w+}", lambda found: ids[found.group()], path)
                response = api.client.request(method, url, json=example)
                assert response.is_success, (path, example, response.text)
                ran.append(operation["operationId"])
    assert {"createWorker", "continueWorker", "cancelWorker"} < set(ran)
