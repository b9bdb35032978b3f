"""A turn that takes its process down with it every time is given up, and the next one works."""

from tests.durability.stand import Stand, accept, post
from tests.support.model_server import Step

ATTEMPTS = 5


def test_a_turn_whose_process_dies_five_times_ends_with_an_error(stand: Stand) -> None:
    stand.model.script("deadly", [Step(text="Never told.", gate="never")])
    worker_id = accept(stand.server, "", "[[script:deadly]] Go.").json()["id"]
    for attempt in range(1, ATTEMPTS + 1):
        stand.model.wait_for_requests("deadly", attempt)
        assert stand.get(worker_id).json()["status"] == "running"
        stand.kill()
        stand.start()
    stand.observer.wait_until_idle()

    worker = stand.get(worker_id).json()
    assert (worker["status"], worker["output_text"]) == ("completed", "")
    assert worker["error"]["code"] == "internal_error"
    assert f"died {ATTEMPTS} times" in worker["error"]["message"]
    assert len(stand.model.requests("deadly")) == ATTEMPTS

    stand.model.script("next", [Step(text="Still here.")])
    following = post(stand.server, f"/{worker_id}", "[[script:next]] And now?").json()
    assert (following["error"], following["output_text"]) == (None, "Still here.")
