"""The composition root: builds every room from the configuration, starts and stops them in order.

Only this file and `gateway.build` name concrete adapters. Everything else receives what it needs.
"""

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import random
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, web

from gateway import build, readings
from gateway import log as logs
from gateway.admin.console import Told
from gateway.admin.operators import Operators
from gateway.admin.server import AdminServer
from gateway.admin.transfer import routes as transfer_routes
from gateway.asking import Asker
from gateway.audit import Audit
from gateway.cache.cache import Cache
from gateway.cache.catalog import Catalog
from gateway.cache.flight import Flights
from gateway.cache.guard import CHECKS
from gateway.cache.quota import Ledger
from gateway.classify.prototypes import Prototypes
from gateway.config import (
    Config,
    ConfigFault,
    Priority,
)
from gateway.errors import EmbedderBusy, EmbedderFailed, GatewayError, Invalid, StoreError
from gateway.exchange import UNLOADED, Load, Usage
from gateway.feedback import Feedback
from gateway.index.partitions import Partitions
from gateway.interfaces import Verifier
from gateway.judge import Judge
from gateway.labels import seed
from gateway.metrics import Metrics, Reading
from gateway.pipeline import Pipeline, keeps
from gateway.policy.live import LivePolicy
from gateway.policy.load import Adaptation
from gateway.policy.policy import Policy
from gateway.policy.shipped import shipped
from gateway.record import Receipts, Recorder
from gateway.rehearsal import Rehearsal
from gateway.replica import Replica
from gateway.routing.dispatch import Dispatch
from gateway.routing.fleet import Fleet
from gateway.routing.health import Prober
from gateway.routing.mirror import Mirror
from gateway.routing.scrape import LIMIT, Figures, Scraper
from gateway.routing.signals import Report
from gateway.routing.strategies import strategy
from gateway.sampling import Sampling
from gateway.savings import Savings
from gateway.server import HttpServer, Server
from gateway.storage.hot import Hot
from gateway.storage.writer import Writer
from gateway.tenant import Tenants
from gateway.tracing.trace import SpanExport
from gateway.traffic import Traffic
from gateway.transfer.room import Transfer
from gateway.trust.negatives import Negatives

log = logging.getLogger("gateway")
SECRET = "tenant-secret"
_EMBEDDER = "embedder"
_SWEEP_SECONDS = 1.0
_RETAIN_SWEEPS = 60
_SAMPLE_SECONDS = 1.0
_WARM_RETRY_SECONDS = 5.0
_CUT_SECONDS = 0.5  # for what outlives the drain


@dataclass(frozen=True, slots=True)
class Ports:
    """What a worker is given by its parent: the listening socket's descriptor, where its admin port is to be, and who it is (its pid)."""

    data: int
    admin: Path
    parent: int


class App:
    """A gateway: built from a configuration, started and stopped as one."""

    def __init__(
        self, config: Config, *, reread: Callable[[], Config] | None = None, ports: Ports | None = None
    ) -> None:
        self.config = config
        self._given = ports
        self._reread = reread
        self._background: set[asyncio.Task[None]] = set()
        self._runners: list[web.BaseRunner] = []
        self._lines: logs.Lines | None = None
        self.ports: dict[str, int] = {}
        self.index_loaded = False
        self.store_open = False
        self.vectors_since = 0.0  # unix seconds; vectors of older entries are another embedder's

    # ── start ───────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Build the rooms and listen; the index loads behind the open port, and `/readyz` tells when."""
        await self.furnish()
        config = self.config
        self.server = self._data_server()
        await self._listen_data()
        await self._listen_admin()
        self._spawn(self._warm())
        self._spawn(self._sweep())
        self._spawn(self.offloading.run())
        if config.store.kind != "memory":
            self._spawn(self.offloading.follow())
        self._spawn(self.replica.run())
        self._spawn(self.audit.run())
        self._spawn(self.savings.run())
        self._spawn(self.counts.run())
        self._spawn(self.rehearsal.run())
        self._spawn(self.sampling.run())
        if config.store.kind != "memory":
            self._spawn(self.sampling.follow())
        self._watch()

    async def furnish(self) -> None:
        """Every room, able to decide once `learn` has returned. Nothing listens, asks an engine or runs by itself."""
        config = self.config
        self.store = build.store(config.store)
        await self._open_store()
        self.partitions = Partitions()
        self.worker = build.worker(config.embedder, self.partitions)
        self.worker.start()
        self.verifier: Verifier | None = None
        self.policy = LivePolicy(
            config.policies or shipped(),
            self.store,
            self.worker,
            frozenset(CHECKS),
            lambda book: build.policy(book, self.verifier),
            Prototypes.fit,
            self._policy_changed,
            authority=config.book.authority,
            keep=config.book.versions,
        )
        self.audit = Audit(self.store, keep=config.book.audit)
        ledger = Ledger(config.cache.max_bytes, *build.quotas(self.policy.current, config.cache.max_bytes))
        self.writer = Writer(self.store)
        self.hot = Hot(config.cache.hot_bytes)
        self.cache = Cache(Catalog(ledger), self.store, self.writer, self.hot, self.worker)
        self.trust = build.trust(config)
        self.offloading = build.offloading(config, self.worker, self.store, lambda: self.fleet)
        self.replica = Replica(
            self.store,
            self.cache,
            self.offloading.library,
            policies=self.policy.follow,
            since=self._vectors_since,
            answer=lambda asked: self.feedback.answer(asked),
            forget=lambda criteria: self.recorder.forget(criteria),
        )
        self.writer.follow(self.replica)
        await self.policy.restore()
        self.fleet = Fleet(build.models(config), strategy(config.routing.strategy, random.Random()))
        self.upstream = build.upstream(config.limits)
        self.metrics = Metrics(self._readings)
        self.dispatch = Dispatch(
            self.fleet,
            self.upstream,
            build.dispatch_terms(config, lambda: self.tenants.open),
            Mirror(),
            self._priority,
            observe=self.metrics.called,
        )
        self.adaptation = Adaptation(build.load_terms(config.adapt), lambda: self.trust.conditions)
        self.flights = Flights()
        self.receipts = Receipts(config.limits.feedback_ids)
        self.traffic = Traffic()
        self.savings = Savings(self.store)
        self._lines = (
            logs.Lines(redact=logs.Redaction(config.secrets()))
            if config.log.level in ("debug", "info")
            else None
        )
        self.exporter = self._exporter()
        self.recorder = Recorder(
            self.metrics,
            self.traffic,
            self._lines.add if self._lines else None,
            self.savings,
            self.receipts,
            self._price,
            prompts=config.log.prompts,
            tenants=config.log.tenants,
        )
        self.tenants = Tenants(build.keys(config), await self._secret())
        self.tenants.keep(*build.privacies(config))
        self._priorities = build.priorities(config)
        self.counts = build.counts(config.store, self.store)
        await self.counts.open()
        self.limits = build.limits(self.counts, lambda: self.fleet)
        self.limits.configure(build.limit_terms(config))
        self.asker = Asker(
            self.fleet,
            self.dispatch,
            self.metrics,
            lambda: self.tenants.open,
            config.cache.shared_stream_bytes,
        )
        self.judge = Judge(self.asker, self.worker, config.judge.model)
        self.rehearsal = Rehearsal(
            self.offloading, self.asker, self.judge, build.rehearsal_terms(config.offload), keeps
        )
        self.trust.configure(build.trust_terms(self.policy.current))
        self.sampling = Sampling(
            self.trust,
            Negatives(),
            self.cache,
            self.worker,
            self.store,
            self.asker,
            self.judge,
            build.sampling_terms(config.trust),
            load=lambda name: self.fleet.model(name).pressure(time.monotonic()),
            found=lambda category, wrong: self.adaptation.judged(category, wrong=wrong),
        )
        self.replica.also("pairs", self.sampling)
        self.pipeline = Pipeline(
            self.cache,
            self.flights,
            self.worker,
            lambda: self.policy.current,
            self._load_on,
            self.fleet,
            self.dispatch,
            self.metrics,
            self.offloading,
            self.asker,
            self.sampling,
            build.settings(config, lambda: self.tenants.open, self.tenants.privacy),
            compare=self.rehearsal.compare,
            spared=self.recorder.offloaded,
        )
        self.transfer = Transfer(
            self.cache,
            self.pipeline,
            self.worker,
            lambda: self.policy.current,
            self.tenants,
            vectors_since=lambda: self.vectors_since,
            max_entry_bytes=config.cache.max_entry_bytes,
        )
        alone = config.store.kind == "memory"
        self.feedback = Feedback(
            self.receipts,
            self.cache,
            self.sampling,
            self.offloading,
            self.savings,
            None if alone else self.replica.ask,
        )

    def _watch(self) -> None:
        """Look at backends beside the traffic: those that are ejected, and what engines say of themselves."""
        routing = self.config.routing
        prober = Prober(
            lambda: self.fleet.backends,
            self.upstream.look,
            seconds=routing.probe_seconds,
            clock=time.monotonic,
        )
        scraper = Scraper(
            lambda: {b.metrics for b in self.fleet.backends if b.metrics},
            lambda url: self.upstream.fetch_text(url, limit=LIMIT, seconds=routing.scrape_seconds),
            self._reported,
            seconds=routing.scrape_seconds,
        )
        self._spawn(self._sample())
        self._spawn(prober.run())
        self._spawn(scraper.run())

    def _reported(self, url: str, figures: Figures) -> None:
        running, waiting = int(figures.running or 0), int(figures.waiting or 0)
        report = Report(running, waiting, figures.cache, time.monotonic(), figures.places)
        for backend in self.fleet.backends:
            if backend.metrics == url:
                backend.signals.reported(report)

    async def _sample(self) -> None:
        """Once a second: what each model's answers take, and who waits; cache policies follow."""
        while True:
            await asyncio.sleep(_SAMPLE_SECONDS)
            now = time.monotonic()
            for model in self.fleet.models:
                if (usual := model.latency.quantile(0.5, now)) is not None:
                    self.savings.seconds[model.name] = usual
                self.adaptation.sample(model.name, model.latency.quantile(0.95, now), model.waiting(now), now)
            self.offloading.sample(now)

    def _load_on(self, model: str) -> Load:
        """What the cache policies of a request for this model are under."""
        entry = self.fleet.find(model)
        return UNLOADED if entry is None else self.adaptation.of(entry.name)

    def _price(self, model: str, usage: Usage) -> float:
        entry = self.fleet.find(model)
        return 0.0 if entry is None else entry.cost(usage)

    def _exporter(self) -> SpanExport | None:
        try:
            return build.exporter(self.config.otel)
        except ImportError as error:
            log.error('no traces are sent, install "semantic-gateway[otel]": %s', error)
            return None

    def _priority(self, tenant: str) -> Priority:
        """The class of a tenant's requests that name none."""
        return self._priorities.get(tenant.removeprefix("t:"), "standard")

    def _data_server(self) -> Server:
        limits = self.config.limits
        return Server(
            self.pipeline,
            self.tenants,
            self.fleet,
            self.dispatch,
            self.recorder,
            self.receipts,
            self.limits,
            feedback=self.feedback.take,
            readiness=self.readiness,
            max_body=limits.body,
            body_seconds=limits.body_seconds,
            write_seconds=limits.client_write_seconds,
            max_in_flight=limits.in_flight,
            honour_cache_control=self.config.cache.cache_control,
            tracer=build.tracer(self.config.otel, self.exporter),
        )

    async def _listen_data(self) -> None:
        limits, listen = self.config.limits, self.config.listen
        http = HttpServer(self.server.handle, max_body=limits.body, idle=limits.idle_seconds)
        # `stop` has waited for requests in progress when this timeout begins.
        runner = web.ServerRunner(http, handle_signals=False, shutdown_timeout=_CUT_SECONDS)
        if self._given is None:
            self.ports["data"] = await self._site(runner, listen.host, listen.port)
            return
        await runner.setup()
        self._runners.append(runner)
        await web.SockSite(runner, socket.socket(fileno=self._given.data), backlog=1024).start()
        self._spawn(self._orphaned(self._given.parent))

    async def _listen_admin(self) -> None:
        admin = self.config.admin
        self.operators = Operators(build.operators(self.config))
        application = AdminServer(
            operators=self.operators,
            open_metrics=admin.open_metrics,
            hosts=frozenset({*admin.hosts, admin.host}),
            policy=self.policy,
            pipeline=self.pipeline,
            cache=self.cache,
            fleet=self.fleet,
            receipts=self.receipts,
            offloading=self.offloading,
            sampling=self.sampling,
            savings=self.savings,
            replica=self.replica,
            audit=self.audit,
            published=self.metrics,
            status=self.status,
            readiness=self.readiness,
            traffic=self.traffic,
            tenants=self.tenants,
            ask=self._ask_self,
            compiled=lambda book: build.policy(book, self.verifier),
            usage=lambda: readings.tenants(self.tenants, self.limits, self._priority),
            further=transfer_routes(self.transfer, lambda: self.index_loaded),
        ).application()
        runner = web.AppRunner(
            application, handle_signals=False, access_log=None, shutdown_timeout=_CUT_SECONDS
        )
        if self._given is None:
            self.ports["admin"] = await self._site(runner, admin.host, admin.port)
            return
        await runner.setup()
        self._runners.append(runner)
        await web.UnixSite(runner, str(self._given.admin)).start()

    async def _orphaned(self, parent: int) -> None:
        """A worker does not outlive the process that would start it again, or tell it to stop."""
        while os.getppid() == parent:
            await asyncio.sleep(1.0)
        log.error("the parent is gone")
        os.kill(os.getpid(), signal.SIGTERM)

    async def _ask_self(self, path: str, body: bytes, headers: Mapping[str, str]) -> Told:
        """One request through the data port, as an application would send it."""
        host = self.config.listen.host
        host = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
        url = f"http://[{host}]" if ":" in host else f"http://{host}"
        kind = {"Content-Type": "application/json"}
        async with (
            ClientSession() as session,
            session.post(f"{url}:{self.ports['data']}{path}", data=body, headers={**headers, **kind}) as got,
        ):
            return Told(got.status, got.headers, await got.read())

    async def _site(self, runner: web.BaseRunner, host: str, port: int) -> int:
        await runner.setup()
        self._runners.append(runner)
        site = web.TCPSite(runner, host, port, backlog=1024)
        await site.start()
        address = runner.addresses[0]
        return int(address[1])

    async def _open_store(self) -> None:
        """A store that cannot be opened is a store that fails: requests go on, and it is tried again."""
        try:
            await build.open_store(self.store, self.config.store)
            self.store_open = True
        except StoreError as error:
            log.error("the store cannot be opened, answers are not remembered: %s", error)

    async def _secret(self) -> bytes:
        try:
            return await self.store.claim_meta(SECRET, secrets.token_bytes(32))
        except StoreError as error:
            log.warning("open-mode tenants will not survive a restart: %s", error)
            return secrets.token_bytes(32)

    async def learn(self) -> None:
        """Once the embedder runs: the categories, and the verifier if one is configured."""
        await self.worker.ready.wait()
        await self.policy.learn()
        await self._load_verifier()

    async def _warm(self) -> None:
        """Learn, and rebuild the index from stored vectors."""
        await self.learn()
        while not self.store_open:
            await asyncio.sleep(_WARM_RETRY_SECONDS)
            await self._open_store()
            if self.store_open:
                await self.policy.restore()
                await self.policy.learn()
                self.tenants.rekey(await self._secret())
        while not self.index_loaded:
            try:
                self.vectors_since = await self._vectors_since()
                await self.replica.load()
                await self.offloading.restore()
                await self.sampling.restore()
                self._policy_changed(self.policy.current)  # the book may have changed since they were stored
                self._retain(entries=True)
                self.index_loaded = True
            except StoreError as error:
                log.error("the index cannot be loaded yet: %s", error)
                await asyncio.sleep(_WARM_RETRY_SECONDS)
        if self.config.trust.labels is not None:
            self._spawn(self._seed(self.config.trust.labels))
        gc.collect()
        gc.set_threshold(20_000, 20, 50)  # most of what a request allocates dies with it, without cycles
        gc.freeze()  # what lives as long as the process need not be walked by the collector again
        log.info("ready", extra={"fields": {"entries": len(self.cache.catalog), "ports": self.ports}})

    async def _seed(self, labels: Path) -> None:
        try:
            await seed(self.trust, self.policy.current, self.worker, self.verifier, labels)
        except (GatewayError, EmbedderBusy, EmbedderFailed, Invalid, OSError) as error:
            log.error("the labelled pairs cannot be used: %s", error)

    async def _load_verifier(self) -> None:
        """The verifier of the configured folder, in use at once; one that cannot be read leaves things as they are."""
        path, embedder = self.config.verifier.path, self.worker.embedder
        if path is None or embedder is None:
            return
        try:
            verifier = await asyncio.to_thread(build.verifier, path, embedder.name)
        except GatewayError as error:
            log.error("the verifier cannot be used: %s", error)
            return
        self.worker.set_verifier(verifier)
        self.verifier = verifier
        await self.policy.recompile()

    async def _vectors_since(self) -> float:
        """When the embedder in use first came to this store, in unix seconds; 0 if it was the first.

        Vectors of two models or runtimes are not comparable: older entries serve exact hits only.
        """
        if self.worker.embedder is None:
            return 0.0  # nothing will be compared
        name = self.worker.embedder.name
        stored = (await self.store.get_meta(_EMBEDDER) or b"").decode()
        known, _, since = stored.partition("\n")
        if known == name:
            return float(since or 0)
        now = time.time() if known else 0.0
        await self.store.put_meta(_EMBEDDER, f"{name}\n{now}".encode())
        if known:
            log.warning("the embedder changed from %s to %s: stored vectors are not used", known, name)
        return now

    async def _sweep(self) -> None:
        for second in itertools.count():
            await asyncio.sleep(_SWEEP_SECONDS)
            self.cache.sweep()
            if self.index_loaded and second % _RETAIN_SWEEPS == 0:
                self._retain(entries=False)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("background work failed", exc_info=task.exception())

    # ── stop and reload ─────────────────────────────────────────────────────────────────────────────────

    async def stop(self) -> None:
        """Drain: refuse readiness, stop listening, let requests in progress end, write what is queued."""
        limit = self.config.limits.drain_seconds
        self.server.draining = True
        for runner in self._runners:
            for site in list(runner.sites):
                await site.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while self.server.in_flight:
                    await asyncio.sleep(0.02)
        for runner in self._runners:
            await runner.cleanup()
        await self.pipeline.drain(2.0)
        await self.close()

    async def close(self) -> None:
        """End what was furnished; what is queued is written."""
        for task in list(self._background):
            task.cancel()
        await self.rehearsal.close()
        await self.sampling.close()
        await self.dispatch.close()
        await self.upstream.close()
        if self.offloading.ready:
            await self.offloading.save_all()
        await self.savings.save()
        await self.counts.close()
        await self.writer.close()
        await self.worker.close()
        await self.store.close()
        if self.exporter is not None:
            await asyncio.to_thread(self.exporter.close)
        if self._lines:
            self._lines.close()

    async def reload(self) -> None:
        """SIGHUP: read configuration and policies again; what is not valid leaves the old in force."""
        try:
            config = None if self._reread is None else await asyncio.to_thread(self._reread)
            await self._load_verifier()
            await self.policy.reload()
            if config is not None:  # last, as it cannot fail: all is adopted, or nothing
                self.fleet.replace(build.models(config))
                self.tenants.replace(build.keys(config))
                self.tenants.keep(*build.privacies(config))
                self._retain(entries=True)
                self.operators.replace(build.operators(config))
                self._priorities = build.priorities(config)
                self.limits.configure(build.limit_terms(config))
                self.offloading.configure(build.pairs(config), build.offload_tenants(config))
            log.info("reloaded")
        except (ConfigFault, GatewayError) as error:
            log.error("reload refused, the old configuration stays in force: %s", error)

    def _retain(self, *, entries: bool) -> None:
        """Nothing is kept beyond its tenant's retention.

        entries: they expire by themselves, so only where it may be shorter now than when they were stored.
        """
        now, privacy = time.time(), self.tenants.privacy
        self.offloading.library.purge(lambda e: e.created < now - privacy(e.tenant).retention)
        self.sampling.forget(lambda pair: pair.at < now - privacy(pair.tenant).retention)
        if entries:
            old = self.cache.matching(lambda entry: entry.created < now - privacy(entry.tenant).retention)
            self.cache.forget(old)

    def _policy_changed(self, policy: Policy) -> None:
        """Quotas follow the book, and what may not be kept any more is not kept a moment longer."""
        self.trust.configure(build.trust_terms(policy))
        self.cache.catalog.ledger.govern(*build.quotas(policy, self.config.cache.max_bytes))
        self.cache.forget(
            self.cache.matching(lambda entry: policy.category(entry.category).cache.mode == "none")
        )
        self.offloading.library.purge(lambda example: policy.category(example.category).cache.mode == "none")

    # ── what it tells ───────────────────────────────────────────────────────────────────────────────────

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Ready when the index is loaded and the embedder runs, or has failed and is bypassed."""
        detail = {
            "embedder": self.worker.state,
            "index": "loaded" if self.index_loaded else "loading",
            "store": "unavailable" if not self.store_open else "failing" if self.writer.failing else "ok",
        }
        if self.worker.failure:
            detail["embedder_failure"] = self.worker.failure
        waiting = self.worker.state == "starting" or (self.store_open and not self.index_loaded)
        return not waiting, detail

    def status(self) -> dict[str, Any]:
        """The figures of `GET /cache`."""
        return {
            **readings.status(self.cache, self.policy),
            "flights": len(self.flights),
            "index": asdict(self.partitions.stats()),
            "skipped": self.pipeline.skipped,
            "vetoes": self.pipeline.vetoes,
            "load": self.adaptation.factors,
            "frozen": sorted(self.adaptation.frozen),
            "trust": self.sampling.state()["categories"],
        }

    def _readings(self) -> Iterator[Reading]:
        yield from readings.cached(self.cache, self.writer)
        yield from readings.walked(self.pipeline, self.worker, self.server)
        yield from readings.routed(self.fleet, self.dispatch)
        yield from readings.adapted(self.adaptation, self.policy, self.fleet)
        yield from readings.offloaded(self.offloading, self.rehearsal)
        yield from readings.trusted(self.sampling)
        yield from readings.told(self.exporter, self.savings, up=self.store_open and not self.writer.failing)
        yield from readings.limited(self.limits)


async def serve(
    config: Config, *, reread: Callable[[], Config] | None = None, ports: Ports | None = None
) -> int:
    """Run until SIGTERM or SIGINT, then drain. Returns the exit code."""
    redact = logs.Redaction(config.secrets())
    listener = logs.start(config.log.level, redact=redact, tenants=config.log.tenants)
    app, stop = App(config, reread=reread, ports=ports), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: app._spawn(app.reload()))
    try:
        await app.start()
        log.info("listening", extra={"fields": app.ports})
        await stop.wait()
        await app.stop()
    finally:
        listener.stop()
    return 0
