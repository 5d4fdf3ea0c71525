"""A fuzzer reads the OpenAPI document and finds no 5xx, nothing undocumented, and no answer of another shape."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from coordinator.http import openapi
from tests.support.background import Background, served

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the fuzzer's own dependencies, while they are imported
    import schemathesis
    from schemathesis.specs.openapi.checks import positive_data_acceptance


@schemathesis.serializer("application/msgpack")
def to_msgpack(_: Any, value: Any) -> bytes:
    """What JSON can say, in msgpack; what msgpack cannot say is sent as it is, to be refused."""
    try:
        packed: bytes = msgpack.packb(value)
    except (TypeError, ValueError, OverflowError):
        return json.dumps(value, default=str).encode()
    return packed


def document() -> dict[str, Any]:
    """The document, with the participants of the cluster under test: so that transactions are really begun. A worker
    does not wait for work."""
    made = openapi.document()
    del made["paths"]["/v1/workers"]["post"]["parameters"]
    branch = made["components"]["schemas"]["BranchRequest"]["properties"]
    branch["participant"]["enum"] = ["bank-a", "bank-b"]
    return made


SCHEMA = schemathesis.openapi.from_dict(document())
BEGUN_MIN = 3  # of those for one endpoint, which are drawn the same each time
FUZZED = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def background() -> Iterator[Background]:
    """One cluster for all cases: what one leaves behind is there for the next."""
    with served() as running:
        yield running


@pytest.mark.timeout(60)
@SCHEMA.parametrize()
@FUZZED
def test_no_request_makes_a_5xx_or_an_undocumented_answer(case: schemathesis.Case, background: Background) -> None:
    """Goal: whatever comes in, the answer is one that the document tells of.

    A schema cannot say that two branches must differ, so a request that fits it may still be refused (422); every
    other check of the fuzzer holds. Seen red with a handler that raised, with a status missing in `ENDPOINTS`, and
    with a 405 without its Allow header.
    """
    response = case.call(base_url=background.cluster.urls["n1"], timeout=10.0)
    case.validate_response(response, excluded_checks=[positive_data_acceptance])


def test_the_fuzzer_begins_transactions(background: Background) -> None:
    """Goal: it gets past validation; otherwise the test above would say little."""
    answers = Counter[int]()

    @FUZZED
    @given(case=SCHEMA["/v1/transactions"]["POST"].as_strategy())
    def begin(case: schemathesis.Case) -> None:
        answers[case.call(base_url=background.cluster.urls["n1"], timeout=10.0).status_code] += 1

    begin()
    assert answers[200] + answers[202] >= BEGUN_MIN
