"""Assembles the server, runs it, and takes it down without losing anything."""

import asyncio
import contextlib
import functools
import gc
import logging
import signal
import socket
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING

import uvicorn
import uvloop
from fastapi import FastAPI
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from handinger import dashboard, ids, jobs, keys, metrics, prices
from handinger._version import __version__
from handinger.agent import model as models
from handinger.agent import runner as runners
from handinger.agent.conversation import Conversations
from handinger.agent.mcp import McpServers, McpTools
from handinger.api import budgets as budget_routes
from handinger.api import description
from handinger.api import email_settings as email_settings_routes
from handinger.api import emails as email_routes
from handinger.api import errors as api_errors
from handinger.api import files as file_routes
from handinger.api import health as health_routes
from handinger.api import inbound_email as inbound_email_routes
from handinger.api import schedules as schedule_routes
from handinger.api import turns as turn_routes
from handinger.api import usage as usage_routes
from handinger.api import workers as worker_routes
from handinger.api.deps import RateLimiter, Services
from handinger.api.middleware import Measured, RefuseWhileDraining, RequestId, request_id
from handinger.email.sending import Sending
from handinger.engine import Engine
from handinger.errors import ConfigurationError
from handinger.live import Hub
from handinger.sandbox.survey import open_sandboxes
from handinger.schedules.firing import Alarm
from handinger.settings import Settings
from handinger.storage.blobs import open_blobs
from handinger.storage.database import Database, open_database
from handinger.storage.embedded import EmbeddedPostgres
from handinger.turns import reading
from handinger.turns.claiming import Claims
from handinger.turns.deliveries import Deliveries
from handinger.turns.housekeeping import Housekeeping
from handinger.web.fetching import Fetcher
from handinger.web.reading import Reader

if TYPE_CHECKING:
    from handinger.email.inbound import Inbound

logger = logging.getLogger(__name__)

# After the engine has stopped, so long may answers that are under way take to end.
_CONNECTION_GRACE_S = 2

# So many more objects are there before garbage is looked for; a turn makes some tens of thousands.
_COLLECT_AFTER_OBJECTS = 10_000


def serve(
    settings: Settings,
    postgres: Future[EmbeddedPostgres] | None,
    told_to_stop: list[int],
) -> None:
    """Run the server until SIGTERM or SIGINT. Raises HandingerServerError if it cannot start.

    `postgres` is the embedded one, where there is no other; the caller holds its data directory,
    and notes the signals to stop that came before.
    """
    configure_logging(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(_serve(settings, postgres, told_to_stop))
        except asyncio.CancelledError:
            if not told_to_stop:
                raise


def configure_logging(settings: Settings) -> None:
    """Log to standard error, each line with the id of the request that it belongs to."""
    handler = logging.StreamHandler()
    handler.addFilter(_add_request_id)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    if settings.log_level != "debug":
        # They report every request and every job.
        for name in (
            "alembic",
            "fastmcp",
            "httpx",
            "httpx2",
            "mcp",
            "procrastinate",
            "uvicorn",
        ):
            logging.getLogger(name).setLevel(logging.WARNING)
        # It also quotes what strangers say that is no SMTP, as often as they like.
        logging.getLogger("mail.log").setLevel(logging.ERROR)


def _add_request_id(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get()
    return True


async def _serve(
    settings: Settings,
    postgres: Future[EmbeddedPostgres] | None,
    told_to_stop: list[int],
) -> None:
    starting = asyncio.current_task()
    assert starting is not None

    def stop(number: int) -> None:
        told_to_stop.append(number)
        starting.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    if told_to_stop:
        return
    model = models.build(settings)
    blobs = open_blobs(settings)
    if settings.dkim_key_file is not None:
        from handinger.email import composing  # noqa: PLC0415 # Only loaded where it signs.

        composing.require_key(settings)
    async with contextlib.AsyncExitStack() as stack:
        sock = stack.enter_context(_listening(settings))
        sandboxes = await stack.enter_async_context(open_sandboxes(settings))
        settings = settings.model_copy(update={"port": sock.getsockname()[1]})
        database = await stack.enter_async_context(open_database(settings, postgres))
        await _ensure_keys(settings, database)
        if prices.of(settings) is None:
            logger.warning("%s", prices.unknown(settings))
        hub = Hub(
            database,
            refresh=functools.partial(reading.refresh, database),
            moved=functools.partial(reading.moved, database),
        )
        mcp = McpServers(database, settings)
        reader = Reader()
        stack.push_async_callback(reader.close)
        tools = runners.all_tools(settings, reader, with_commands=sandboxes is not None)
        stopping = asyncio.Event()
        claims = Claims(database, settings, node=hub.node)
        runner = runners.Runner(
            database=database,
            blobs=blobs,
            settings=settings,
            hub=hub,
            agent=runners.make_agent(model, settings, tools=tools, toolsets=[McpTools(mcp)]),
            model=model,
            stopping=stopping,
            conversations=Conversations(),
            sandboxes=sandboxes,
            metering=runners.make_metering(model, settings, tools=tools),
            claims=claims,
            mcp=mcp,
        )
        housekeeping = Housekeeping(
            database,
            blobs,
            max_queued_turns=settings.max_queued_turns,
            blob_grace_s=settings.blob_grace_s,
        )
        alarm = Alarm(database, settings)

        async def sweep() -> None:
            await housekeeping.sweep()
            await alarm.keep_set()

        engine = Engine(
            database=database,
            handlers=jobs.handlers(runner, alarm, Sending(database, blobs, settings)),
            concurrency=settings.max_concurrent_turns,
            queue_cap=settings.max_concurrent_turns_per_organization,
            sweep=sweep,
            stopping=stopping,
        )
        metrics.observe(
            turns_running=lambda: hub.executing_count,
            turns_waiting=lambda: housekeeping.waiting,
            stream_readers=lambda: hub.reader_count,
        )
        deliveries = Deliveries(database)

        @functools.cache
        def inbound() -> "Inbound":
            # Loaded with the first need: what reads and checks mails takes 40 MB.
            from handinger.email.inbound import Inbound  # noqa: PLC0415

            taken = Inbound(
                database, blobs, settings, queue_is_full=lambda: housekeeping.queue_is_full
            )
            stack.callback(taken.close)
            return taken

        services = Services(
            settings=settings,
            database=database,
            blobs=blobs,
            fetcher=Fetcher.of(settings),
            hub=hub,
            deliveries=deliveries,
            engine_runs=lambda: engine.is_running,
            seat=engine.seat,
            claims=claims,
            queue_is_full=lambda: housekeeping.queue_is_full,
            inbound=inbound,
            rate_limiter=RateLimiter(settings.rate_limit) if settings.rate_limit else None,
        )
        await stack.enter_async_context(hub.running())
        await stack.enter_async_context(deliveries.running())
        await _run(settings, services, engine, sock)


async def _ensure_keys(settings: Settings, database: Database) -> None:
    await keys.first_organization(database)
    if settings.bootstrap_api_key is not None:
        await keys.ensure_bootstrap_key(database, settings.bootstrap_api_key.get_secret_value())


@contextlib.contextmanager
def _listening(settings: Settings) -> Generator[socket.socket]:
    """The socket, bound before anything else is started. Raises ConfigurationError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((settings.host, settings.port))
        except OSError as error:
            raise ConfigurationError(
                f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}. "
                "Choose another --host or --port."
            ) from error
        yield sock
    finally:
        sock.close()


def describe_app() -> FastAPI:
    """Every route and what it answers; enough to describe the API, not to serve it."""
    app = FastAPI(
        title="Handinger",
        version=__version__,
        summary="Agent workers on your own machine.",
        description="Send an instruction, and an agent with tools carries it out. Every endpoint "
        "under /api takes `Authorization: Bearer hdg_live_...`.",
        separate_input_output_schemas=False,
        # A redirect would send the caller, and its key, wherever the Host header says.
        redirect_slashes=False,
    )
    for router in (
        worker_routes.router,
        turn_routes.router,
        schedule_routes.router,
        budget_routes.router,
        file_routes.router,
        email_routes.router,
        email_routes.files_router,
        email_settings_routes.router,
        inbound_email_routes.router,
        usage_routes.router,
        health_routes.router,
    ):
        app.include_router(router)
    api_errors.install(app)
    description.install(app)
    return app


def create_app(services: Services) -> ASGIApp:
    """The whole HTTP surface: a request passes the middleware from left to right."""
    app = describe_app()
    app.include_router(dashboard.make_router(services.settings))
    app.state.services = services
    return RequestId(Measured(RefuseWhileDraining(app, services)))


@contextlib.asynccontextmanager
async def _taking_mail(settings: Settings, services: Services) -> AsyncGenerator[None]:
    """Listen for mail within this block, if the settings say where."""
    if settings.smtp_listen is None:
        yield
        return
    from handinger.email import smtp  # noqa: PLC0415 # Only loaded where it listens.

    async with smtp.listening(settings, services.inbound()):
        yield


class _Http(HttpToolsProtocol):
    """Refuses in the API's own form what is no HTTP; such a request reaches no middleware."""

    def send_400_response(self, msg: str) -> None:
        body = b'{"error": "The request is not valid HTTP.", "code": "malformed_http"}'
        head = (
            "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nX-Request-Id: {ids.new('req')}\r\n"
            "Connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


class _Server(uvicorn.Server):
    """Leaves the signals to us: a shutdown has more to do than to close connections."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def _run(settings: Settings, services: Services, engine: Engine, sock: socket.socket) -> None:
    config = uvicorn.Config(
        create_app(services),
        loop="none",
        http=_Http,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_CONNECTION_GRACE_S,
    )
    server = _Server(config)
    stop = _stop_on_signals()
    # Nobody else serves an embedded PostgreSQL, so every job that runs there is a dead one's.
    alone = settings.database_url is None
    async with (
        engine.running(grace_s=settings.shutdown_grace_s, rescue_all=alone),
        _taking_mail(settings, services),
    ):
        _spare_collections()
        serving = asyncio.create_task(server.serve(sockets=[sock]), name="http")
        logger.info("Serving on %s with the model %s", settings.base_url, settings.model_id)
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        logger.info("Shutting down: running turns go on to their next safe point")
        services.draining.set()
    server.should_exit = True
    await serving
    logger.info("Stopped")


def _spare_collections() -> None:
    """Look for garbage less often, and not in what was loaded, which would hold up every turn.

    That all of it is looked through takes a tenth of a second and more.
    """
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER_OBJECTS, 10, 10)


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
