"""The SDK: `Client`, what it takes and what it answers. Errors are in `coordinator.errors`."""

from __future__ import annotations

from coordinator.client.client import Client
from coordinator.client.declaration import OWN, DeadAfter, Included, Retry
from coordinator.client.message import Message, Prepared
from coordinator.client.notices import verify
from coordinator.client.outcomes import Aborted, Branch, Committed, Deciding, Ended
from coordinator.client.saga import Saga, Tcc
from coordinator.client.transaction import InteractiveTransaction
from coordinator.client.worker import Worker
from coordinator.client.workflow import Run, Tx, Workflow, workflow
from coordinator.wire import CommitProtocol

__all__ = [
    "OWN",
    "Aborted",
    "Branch",
    "Client",
    "CommitProtocol",
    "Committed",
    "DeadAfter",
    "Deciding",
    "Ended",
    "Included",
    "InteractiveTransaction",
    "Message",
    "Prepared",
    "Retry",
    "Run",
    "Saga",
    "Tcc",
    "Tx",
    "Worker",
    "Workflow",
    "verify",
    "workflow",
]
