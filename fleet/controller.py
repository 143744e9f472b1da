"""The controller: makes the parts, connects them, starts and stops them in order.

start: database → what is known → broker (for a trial) → lists of who is revoked → HTTPS ∥ link → intake ∥ rollouts
stop:  HTTPS → schedules → gateway → cloud → intake ∥ rollouts → offline → link → broker → database
"""

import asyncio
import fcntl
import resource
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from fleet.child_broker import ChildBroker
from fleet.cloud.lending import Lending
from fleet.database.store import Database, open_database
from fleet.enrolment import Enrolment
from fleet.errors import ControllerError, FleetError, FolderError
from fleet.folder import Folder
from fleet.forgetting import Forgetting
from fleet.gateway import Gateway
from fleet.gateway_login import renew_gateway
from fleet.intake import Intake
from fleet.inventory import Inventory
from fleet.listening import Listening
from fleet.logs import describe
from fleet.mosquitto import complete_rights
from fleet.operators import Operators
from fleet.presence import Attendance
from fleet.readings import Readings
from fleet.releases.opening import Publishing, open_publishing
from fleet.retention import Retention
from fleet.rollouts import Rollouts
from fleet.steering import Steering
from fleet.web.api import Parts, all_endpoints
from fleet.web.app import make_app
from fleet.web.enrolment import make_routes
from fleet.web.release_files import release_files
from fleet.web.server import WebServer, make_server

log = structlog.get_logger()

UPKEEP_S = 3600
TEND_S = 300  # old rows are deleted in small bites, and documents renewed a few hundred at a time


async def serve(folder: Folder, *, embedded_broker: bool) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        FolderError: the folder, the database, a port or the broker's program cannot be used.
        ControllerError: a part of the controller has failed.
    """
    _allow_many_connections()
    with _only_one(folder):
        database = open_database(folder.database_url)
        broker = ChildBroker(folder)
        try:
            if complete_rights(folder):
                log.info("rights at the broker are those of this version now", folder=str(folder.broker))
            if embedded_broker:
                await broker.begin()
            await _serve(folder, database, broker)
        finally:
            await broker.end()
            database.close()


async def _serve(folder: Folder, database: Database, broker: ChildBroker) -> None:
    gateway = Gateway(folder)
    attendance = Attendance(folder, now_ms)
    inventory = Inventory(database, now_ms, folder.revision_floor)
    inventory.load()
    publishing = await asyncio.to_thread(open_publishing, folder, database, now_ms)
    keys, approves = folder.signing_keys(), publishing.catalogue.approves
    steering = Steering(database, inventory, keys, attendance.post, now_ms, approves)
    rollouts = Rollouts(database, inventory, steering, attendance.post, now_ms, approves)
    enrolment = Enrolment(folder, database, now_ms)
    lending = Lending(folder, database, attendance.post, now_ms)
    listener = Listening(Intake(database, inventory, steering, now_ms, lending.desk.take), inventory, steering, now_ms)
    ended = threading.Event()

    async def listen() -> None:
        link = await attendance.begin()
        await asyncio.to_thread(listener.run, link, ended)

    def health() -> dict[str, bool]:
        return {"database": _answers(database), "broker": attendance.connected}

    async def upkeep() -> None:
        try:
            if await asyncio.to_thread(renew_gateway, folder, database, now_ms()):
                gateway.use_new_certificate()
            await asyncio.to_thread(enrolment.sync_lists)
            await asyncio.to_thread(enrolment.forget_expired)
        except (FleetError, SQLAlchemyError) as error:
            log.error("upkeep failed", **describe(error))

    parts = Parts(
        folder,
        database,
        enrolment,
        Operators(database, now_ms),
        gateway,
        inventory,
        steering,
        rollouts,
        Forgetting(database, inventory, steering, attendance.post, now_ms),
        Readings(database, now_ms),
        publishing,
        now_ms,
    )
    devices = [*make_routes(enrolment, folder.root_pem), release_files(folder.releases), *lending.routes]
    server = make_server(folder, make_app(all_endpoints(parts), parts.operators.authenticate, devices, health))
    _end_on_signals(server)
    await upkeep()
    await _tend_releases(publishing)
    scheduler = _start_schedules(upkeep, publishing, steering, Retention(database, now_ms, ended.is_set))
    listening, rolling, watching = (
        asyncio.create_task(_run_beside(server, part, work))
        for part, work in (
            ("link", listen()),
            ("rollouts", asyncio.to_thread(rollouts.run, ended)),
            ("broker", broker.watch()),
        )
    )
    log.info("serving", fleet=folder.fleet, url=folder.url, folder=str(folder.path))
    try:
        await server.serve()
    except SystemExit:  # uvicorn's way to say that it cannot listen
        raise FolderError(
            f"cannot listen on port {folder.settings.https.port}: it is taken or not allowed; set [https] port"
        ) from None
    finally:
        scheduler.shutdown(wait=False)
        await gateway.end()
        await lending.end()
        ended.set()
        watching.cancel()
        if not attendance.has_begun:
            listening.cancel()
        outcomes = await asyncio.gather(listening, rolling, watching, return_exceptions=True)
        await attendance.end()
    log.info("stopped")
    _raise_failure(outcomes)


def _start_schedules(
    upkeep: Callable[[], Awaitable[None]], publishing: Publishing, steering: Steering, retention: Retention
) -> AsyncIOScheduler:
    # A machine that slept runs what was due once, late, and says nothing of it.
    scheduler = AsyncIOScheduler(job_defaults={"misfire_grace_time": None, "coalesce": True})
    scheduler.add_job(upkeep, "interval", seconds=UPKEEP_S)
    scheduler.add_job(_tend_releases, "interval", (publishing,), seconds=UPKEEP_S)
    scheduler.add_job(_tend, "interval", (steering, retention), seconds=TEND_S)
    scheduler.start()
    return scheduler


def _end_on_signals(server: WebServer) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setattr, server, "should_exit", True)


def _raise_failure(outcomes: Iterable[BaseException | None]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, FleetError):
            raise outcome


async def _run_beside(server: WebServer, part: str, work: Awaitable[None]) -> None:
    """Runs a part of the controller. When it fails the server ends: it would go on as if all were well.

    Raises:
        FleetError: it has failed.
    """
    try:
        await work
    except Exception as error:
        log.critical("cannot go on; ending", part=part, **describe(error))
        server.should_exit = True
        if isinstance(error, FleetError):
            raise
        raise ControllerError(f"cannot go on: a fault of the controller in its {part}; its log says where") from error


async def _tend_releases(publishing: Publishing) -> None:
    try:
        await asyncio.to_thread(publishing.tend)
    except FleetError as error:
        log.error("releases cannot be renewed", **describe(error))


async def _tend(steering: Steering, retention: Retention) -> None:
    try:
        await asyncio.to_thread(steering.renew)
        await asyncio.to_thread(retention.tidy)
    except (FleetError, SQLAlchemyError) as error:
        log.error("tending failed", **describe(error))


def now_ms() -> int:
    """The controller's clock, ms since 1970."""
    return time.time_ns() // 1_000_000


def _answers(database: Database) -> bool:
    try:
        with database.read() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError:
        return False
    return True


@contextmanager
def _only_one(folder: Folder) -> Iterator[None]:
    """Makes sure that one controller alone uses a folder; the lock ends with the process."""
    with (folder.path / "serve.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderError(f"cannot serve: another controller uses {folder.path}; stop it first") from error
        yield


def _allow_many_connections() -> None:
    """Raises the number of open files as far as allowed: the usual 1024 are soon taken by idle connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
