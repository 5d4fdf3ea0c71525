"""What a sweep that goes on can be watched by, for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from participant.errors import ConfigError
from participant.sweep import Swept

__all__ = ["Tally", "serving_metrics"]

OURS, FOREIGN = "ours", "foreign"


class Tally(Collector):
    """The last round, and what all of them have done."""

    def __init__(self) -> None:
        self._last: list[Swept] = []
        self._rounds = 0
        self._finished: Counter[tuple[str, str]] = Counter()
        self._errors: Counter[str] = Counter()

    def note(self, swept: Iterable[Swept]) -> None:
        """A round has ended."""
        self._last = list(swept)
        self._rounds += 1
        for each in self._last:
            self._errors[each.database] += bool(each.error)
            for found in each.found:
                if not found.is_prepared:
                    self._finished[each.database, found.fate] += 1

    def collect(self) -> Iterator[Metric]:
        oldest = GaugeMetricFamily(
            "commitd_prepared_oldest_seconds",
            "How long the oldest transaction that was left prepared has been so; 0 without any. Of a database that "
            "could not be swept, nothing.",
            labels=["database", "owner"],
        )
        count = GaugeMetricFamily(
            "commitd_prepared", "Transactions that were left prepared.", labels=["database", "owner"]
        )
        for each in self._last:
            ours = [found.age_s for found in each.found if found.is_prepared]
            for owner, ages in ((OURS, ours), (FOREIGN, [foreign.age_s for foreign in each.foreign])):
                if not each.error:
                    oldest.add_metric([each.database, owner], max(ages, default=0.0))
                    count.add_metric([each.database, owner], len(ages))
        yield oldest
        yield count
        finished = CounterMetricFamily(
            "commitd_sweep_finished", "Branches that the sweep has ended.", labels=["database", "outcome"]
        )
        for (database, outcome), times in sorted(self._finished.items()):
            finished.add_metric([database, outcome], times)
        yield finished
        errors = CounterMetricFamily(
            "commitd_sweep_errors", "Rounds in which a database could not be swept.", labels=["database"]
        )
        for database, times in sorted(self._errors.items()):
            errors.add_metric([database], times)
        yield errors
        yield CounterMetricFamily("commitd_sweep_rounds", "Rounds that have ended.", value=self._rounds)


@asynccontextmanager
async def serving_metrics(tally: Tally, host: str, port: int) -> AsyncIterator[int]:
    """Serve `/metrics` while the block runs; the port that was bound."""
    registry = CollectorRegistry()
    registry.register(tally)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, reuse_address=True).start()
        except OSError as error:
            raise ConfigError(f"--metrics-port: cannot serve at {host}:{port}: {error.strerror or error}") from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
