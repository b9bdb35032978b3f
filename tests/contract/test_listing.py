"""The list of workers, and deleting one for good (1.2)."""

from collections.abc import Callable

import httpx2
import psycopg
import pytest

from tests.contract.wire import Json, error_in, worker_in, workers_in
from tests.contract.world import Api, Scripts, wait_until
from tests.support.model_server import Step, ToolCall


@pytest.fixture(scope="module")
def lister(new_organization: Callable[[str], Api]) -> Api:
    """An organization whose workers are known."""
    return new_organization("lister")


@pytest.fixture(scope="module")
def ids(lister: Api, scripts: Scripts) -> list[str]:
    """Of five ended workers, oldest first."""
    return [worker_in(lister.create(scripts(Step(text="x"))))["id"] for _ in range(5)]


def _page(api: Api, **query: str | int) -> Json:
    return workers_in(api.client.get("/api/workers", params=query))


def test_workers_are_listed_newest_first_without_messages(lister: Api, ids: list[str]):
    page = _page(lister)
    assert [worker["id"] for worker in page["workers"]] == ids[::-1]
    assert page["nextCursor"] is None
    newest = lister.worker(ids[-1])
    assert page["workers"][0] == {**newest, "messages": []}


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [(1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (4, [4, 1]), (5, [5]), (6, [5]), (100, [5])],
)
def test_pages_hold_each_worker_once(lister: Api, ids: list[str], limit: int, sizes: list[int]):
    query: dict[str, str | int] = {"limit": limit}
    seen: list[str] = []
    told: list[int] = []
    while True:
        page = _page(lister, **query)
        told.append(len(page["workers"]))
        seen += [worker["id"] for worker in page["workers"]]
        if page["nextCursor"] is None:
            break
        query["cursor"] = page["nextCursor"]
    assert (seen, told) == (ids[::-1], sizes)


def test_workers_that_are_made_meanwhile_do_not_move_the_pages(
    new_organization: Callable[[str], Api], scripts: Scripts
):
    api = new_organization("growing")
    quick = scripts(Step(text="x"))
    made = [worker_in(api.create(quick))["id"] for _ in range(3)]
    first = _page(api, limit=2)
    worker_in(api.create(quick))
    # Nor do ones that are gone by then.
    assert api.client.delete(f"/api/workers/{made[1]}").status_code == 200
    rest = _page(api, limit=2, cursor=first["nextCursor"])
    assert [worker["id"] for worker in first["workers"] + rest["workers"]] == made[::-1]


def test_twenty_are_listed_when_nobody_says_how_many(
    new_organization: Callable[[str], Api], scripts: Scripts
):
    api = new_organization("many")
    quick = scripts(Step(text="x"))
    for _ in range(21):
        api.start(quick)
    page = _page(api)
    assert len(page["workers"]) == 20
    assert len(_page(api, cursor=page["nextCursor"])["workers"]) == 1


def test_an_organization_without_workers_has_an_empty_list(
    new_organization: Callable[[str], Api],
):
    assert _page(new_organization("empty")) == {"workers": [], "nextCursor": None}


def test_workers_are_listed_by_status(narrow_api: Api, scripts: Scripts):
    """On a server that runs one turn at a time."""
    ended = worker_in(narrow_api.create(scripts(Step(text="x"))))["id"]
    holding = scripts.held()
    running = narrow_api.start(holding)["id"]
    holding.wait_for(1)
    waiting = narrow_api.start(scripts(Step(text="x")))["id"]

    def listed(status: str) -> list[str]:
        page = _page(narrow_api, status=status, limit=100)
        assert {worker["status"] for worker in page["workers"]} <= {status}
        return [worker["id"] for worker in page["workers"]]

    assert listed("running") == [running]
    assert listed("pending") == [waiting]
    assert ended in listed("completed")
    assert not {running, waiting} & set(listed("completed"))
    holding.open()
    narrow_api.wait_until_idle(waiting)
    assert {ended, running, waiting} <= set(listed("completed"))
    assert listed("running") == []


def test_filtered_pages_go_on_where_they_stopped(lister: Api, ids: list[str]):
    first = _page(lister, status="completed", limit=3)
    rest = _page(lister, status="completed", limit=3, cursor=first["nextCursor"])
    assert [worker["id"] for worker in first["workers"] + rest["workers"]] == ids[::-1]
    assert rest["nextCursor"] is None


# Deleting


def _traces(database: psycopg.Connection, *words: str) -> dict[str, int]:
    """In which tables, of ours and of the engine's, any row says any of these words."""
    tables = database.execute(
        "SELECT table_name FROM information_schema.tables"
        " WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
    ).fetchall()
    found: dict[str, int] = {}
    for (table,) in tables:
        row = database.execute(
            f'SELECT count(*) FROM "{table}" AS t WHERE t::text LIKE ANY(%s)'.encode(),
            [[f"%{word}%" for word in words]],
        ).fetchone()
        assert row is not None
        if row[0]:
            found[table] = row[0]
    return found


def _blobs(api: Api, worker_id: str) -> list[str]:
    return [str(path) for path in (api.server.data_dir / "blobs").rglob(f"{worker_id}*")]


def test_deleting_truly_removes_everything_of_a_worker(
    api: Api, scripts: Scripts, database: psycopg.Connection
):
    write = ToolCall("write_file", {"path": "a.txt", "content": "zebra-content"})
    instruction = scripts(Step(text="zebra-answer", tool_calls=[write]), Step(text="done"))
    body = {"input": f"{instruction.input} zebra-input", "metadata": {"zebra": "zebra-metadata"}}
    created = api.client.post("/api/workers", json=body, headers={"Idempotency-Key": "zebra-key"})
    worker = worker_in(created)
    worker_id, turn_id = worker["id"], created.headers["x-handinger-turn-id"]
    words = (worker_id, turn_id, "zebra")
    traces = _traces(database, *words)
    assert {"workers", "tasks", "turns", "messages", "files", "requests"} <= set(traces)
    assert _blobs(api, worker_id)

    response = api.client.delete(f"/api/workers/{worker_id}")
    assert (response.status_code, response.json()) == (200, {"deleted": True})
    assert _traces(database, *words) == {}
    assert _blobs(api, worker_id) == []
    for answer in (
        api.client.get(f"/api/workers/{worker_id}"),
        api.client.delete(f"/api/workers/{worker_id}"),
        api.client.get(f"/api/workers/{worker_id}/turns/{turn_id}"),
        api.client.get(f"/api/workers/{worker_id}/files/a.txt"),
        api.go_on(worker_id, instruction),
    ):
        error_in(answer, 404, "not_found")
    assert worker_id not in {w["id"] for w in _page(api, limit=100)["workers"]}


def test_deleting_leaves_the_same_file_of_another_worker_alone(api: Api, scripts: Scripts):
    write = ToolCall("write_file", {"path": "a.txt", "content": "the very same"})
    first, second = (
        worker_in(api.create(scripts(Step(tool_calls=[write]), Step(text="x")))) for _ in range(2)
    )
    assert api.client.delete(f"/api/workers/{first['id']}").status_code == 200
    assert api.client.get(second["files"][0]["url"]).text == "the very same"


def test_deleting_stops_what_runs_and_what_waits(
    api: Api, scripts: Scripts, database: psycopg.Connection
):
    holding, waiting = scripts.held(), scripts(Step(text="never"))
    answer = api.beside(api.create, holding)
    holding.wait_for(1)
    worker_id = api.client.get("/api/workers?limit=1").json()["workers"][0]["id"]
    turn_ids = [api.turns(worker_id)[0]["id"], api.queue(worker_id, waiting)]
    assert api.client.delete(f"/api/workers/{worker_id}").json() == {"deleted": True}
    error_in(api.client.get(f"/api/workers/{worker_id}"), 404)
    # Who waited for the turn hears that it was cancelled, or that the worker is gone.
    blocked: httpx2.Response = answer.result()
    assert blocked.status_code in (200, 404)
    # The job that ran it ends by itself.
    wait_until(lambda: not _traces(database, worker_id, *turn_ids))
    assert waiting.requests == []


def test_deleting_many_times_at_once_succeeds_once(api: Api, scripts: Scripts):
    worker_id = worker_in(api.create(scripts(Step(text="x"))))["id"]
    answers = [api.beside(api.client.delete, f"/api/workers/{worker_id}") for _ in range(5)]
    assert sorted(answer.result().status_code for answer in answers) == [200, 404, 404, 404, 404]
