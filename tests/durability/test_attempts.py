"""A turn that takes its process down with it every time is given up, and the next one works."""

import pytest

from tests.durability.stand import Stand, accept, post
from tests.support.model_server import Step


def test_a_turn_that_kills_its_process_as_often_as_it_may_ends_with_an_error(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stand.server.environment, "HANDINGER_MAX_ATTEMPTS", "2")
    kill_and_give_up(stand, attempts=2)


@pytest.mark.slow
def test_by_default_it_may_five_times(stand: Stand) -> None:
    kill_and_give_up(stand, attempts=5)


def kill_and_give_up(stand: Stand, *, attempts: int) -> None:
    stand.model.script("deadly", [Step(text="Never told.", gate="never")])
    worker_id = accept(stand.server, "", "[[script:deadly]] Go.").json()["id"]
    for attempt in range(1, attempts + 1):
        stand.model.wait_for_requests("deadly", attempt)
        assert stand.get(worker_id).json()["status"] == "running"
        stand.kill()
        stand.start()
    stand.observer.wait_until_idle()

    worker = stand.get(worker_id).json()
    assert (worker["status"], worker["output_text"]) == ("completed", "")
    assert worker["error"]["code"] == "internal_error"
    assert f"died {attempts} times" in worker["error"]["message"]
    assert len(stand.model.requests("deadly")) == attempts

    stand.model.script("next", [Step(text="Still here.")])
    following = post(stand.server, f"/{worker_id}", "[[script:next]] And now?").json()
    assert (following["error"], following["output_text"]) == (None, "Still here.")
    # The next test's server has an environment of its own again.
    stand.kill()
