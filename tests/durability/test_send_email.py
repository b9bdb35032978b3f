"""kill -9 around a call of `send_email`: the mail goes out, and goes out once."""

from collections.abc import Iterator

import pytest

from tests.durability.holding import Write
from tests.durability.stand import Stand, accept, killed_in
from tests.email.sink import Sink
from tests.support.model_server import ModelServer, Step, ToolCall

_FRIEND = "friend@elsewhere.example"


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


@pytest.fixture(scope="module")
def writing_stand(
    running_model: ModelServer, sink: Sink, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stand]:
    """A server whose workers may write to one person."""
    stand = Stand(
        tmp_path_factory.mktemp("writing"),
        running_model,
        environment={
            "HANDINGER_SMTP_URL": f"smtp://127.0.0.1:{sink.port}",
            "HANDINGER_EMAIL_ALLOW": _FRIEND,
        },
    )
    yield stand
    stand.close()


# A turn's row is written by its claim, by each response and by each result of a tool. The mail is
# written with the result, and its job with the mail.
@pytest.mark.parametrize(
    "write",
    [
        pytest.param(
            Write("turns", "UPDATE", 2, committed=True), id="called", marks=pytest.mark.slow
        ),
        pytest.param(Write("outbound_emails", "INSERT"), id="written, not committed"),
        pytest.param(
            Write("turns", "UPDATE", 3), id="its result, not committed", marks=pytest.mark.slow
        ),
        pytest.param(Write("outbound_emails", "INSERT", committed=True), id="committed"),
    ],
)
def test_a_mail_of_an_agent_whose_process_dies_goes_out_once(
    writing_stand: Stand,
    model: ModelServer,
    sink: Sink,
    write: Write,
    request: pytest.FixtureRequest,
) -> None:
    stand, subject = writing_stand, request.node.callspec.id
    mail = ToolCall("send_email", {"to": _FRIEND, "subject": subject, "body": "Hello."})
    model.script("mailing", [Step(tool_calls=[mail]), Step(text="It is sent.")])
    with killed_in(stand, write):
        worker_id = accept(stand.server, "", "[[script:mailing]] Go.").json()["id"]
    stand.start()
    stand.observer.wait_until_idle(timeout_s=60)
    sink.wait_for(_FRIEND)
    worker = stand.get(worker_id).json()
    assert (worker["status"], worker["output_text"]) == ("completed", "It is sent.")
    emails = stand.get(f"{worker_id}/emails").json()["emails"]
    assert [(email["subject"], email["status"]) for email in emails] == [(subject, "delivered")]
    assert [message["Subject"] for message in sink.to(_FRIEND)].count(subject) == 1
