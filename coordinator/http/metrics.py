"""What a replica can be watched by, in the text format of Prometheus (exposition format 0.0.4).

Everything is read when it is asked for, but the stuck transactions, which were counted at the last look: transactions
pay nothing for it but the one count that the supervisor keeps.
"""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from coordinator.driver.replica import Replica
from coordinator.http.context import CONTEXT
from coordinator.protocols.stuck import Kind
from raftlog.port import Role

__all__ = ["metrics"]


async def metrics(request: web.Request) -> web.Response:
    """The metrics of this replica."""
    registry = CollectorRegistry()
    registry.register(_Replica(request.app[CONTEXT].replica))
    return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


class _Replica(Collector):
    """One replica at this moment."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def collect(self) -> Iterator[Metric]:
        supervisor, status = self._replica.supervisor, self._replica.log.status()
        decided = CounterMetricFamily(
            "commitd_transactions_decided",
            "Transactions that were decided while this replica led them.",
            labels=["path", "outcome"],
        )
        for (path, decision), count in sorted(supervisor.decided.items()):
            decided.add_metric([path.value, decision.value], count)
        yield decided
        for name, meaning, value in (
            ("undecided_transactions", "Undecided transactions that this replica drives.", supervisor.in_flight),
            ("open_transactions", "Transactions driven here, until every branch has confirmed.", supervisor.open),
            ("broken_transactions", "Transactions whose driver failed here; its log says why.", supervisor.broken),
            ("recorded_transactions", "Transactions in the ledger.", len(self._replica.ledger)),
            ("waiting_callers", "Callers who wait here for an outcome.", len(self._replica.waiters)),
            ("listeners", "Callers who listen here to transactions.", self._replica.waiters.listening),
            ("leads", "1 if this replica leads.", int(status.leadership.role is Role.LEADER)),
            ("term", "The term of the log.", status.leadership.term),
            ("commit_index", "The last entry that is surely on the disks of a majority.", status.commit_index),
            ("applied_index", "The last entry that this replica has applied.", status.applied_index),
            ("journal_bytes", "The size of the journal.", status.journal_bytes),
        ):
            yield GaugeMetricFamily(f"commitd_{name}", meaning, value=value)
        stuck = GaugeMetricFamily(
            "commitd_stuck_transactions", "Open transactions that a person should look at.", labels=["kind"]
        )
        for kind in Kind:
            stuck.add_metric([kind.value], self._replica.watch.counts[kind])
        yield stuck
        events = CounterMetricFamily(
            "commitd_log_events", "What the log has counted since its start.", labels=["event"]
        )
        for event, count in sorted(status.counters.items()):
            events.add_metric([event], count)
        yield events
