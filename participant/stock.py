"""The stock participant: the bank, composed from a configuration. What `commitd participant` runs."""

from __future__ import annotations

from participant.bank import bank_on
from participant.books import Books, MariaBooks, PostgresBooks, SQLiteBooks
from participant.config import POSTGRES_SCHEMES, ParticipantConfig
from participant.errors import ConfigError
from participant.kit import Participant

__all__ = ["run_stock", "stock"]


def stock(config: ParticipantConfig) -> Participant:
    """The participant that `config` describes, not yet running. Raises ConfigError if its driver is not installed."""
    secret = config.proof_secret
    return bank_on(
        config.name,
        _books(config),
        service_limits=config.service_limits,
        recovery=config.recovery,
        proof_secret=None if secret is None else secret.get_secret_value().encode(),
    )


def run_stock(config: ParticipantConfig) -> None:
    """Serve until SIGINT or SIGTERM. Raises as `stock` and `Participant.run` do."""
    stock(config).run(host=config.host, port=config.port, replicas=config.replicas)


def _books(config: ParticipantConfig) -> Books:
    limits = config.resource_limits
    if config.data is not None:
        return SQLiteBooks(config.data, limits)
    url = config.database.get_secret_value() if config.database is not None else ""
    is_postgres = url.startswith(POSTGRES_SCHEMES)
    try:
        return PostgresBooks(url, limits) if is_postgres else MariaBooks(url, limits)
    except ModuleNotFoundError as error:
        extra = "postgres" if is_postgres else "mariadb"
        raise ConfigError(f"database: {error.name} is not installed: pip install 'commitd[{extra}]'") from error
