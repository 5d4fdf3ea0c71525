"""The stock participant: the bank, composed from a configuration. What `commitd participant` runs."""

from __future__ import annotations

from participant.bank import bank_on_sqlite
from participant.config import ParticipantConfig
from participant.kit import Participant

__all__ = ["run_stock", "stock"]


def stock(config: ParticipantConfig) -> Participant:
    """The participant that `config` describes, not yet running."""
    return bank_on_sqlite(
        config.name,
        config.data,
        resource_limits=config.resource_limits,
        service_limits=config.service_limits,
        recovery=config.recovery,
    )


def run_stock(config: ParticipantConfig) -> None:
    """Serve until SIGINT or SIGTERM. Raises as `Participant.run` does."""
    stock(config).run(host=config.host, port=config.port, replicas=config.replicas)
