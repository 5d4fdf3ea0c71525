"""Errors know how they are told: code, status, and whether to come again."""

from __future__ import annotations

import pytest

from coordinator import errors
from coordinator.errors import Internal, Invalid, OutcomeUnknown, RequestError, request_error

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RequestError)]
TOLD = [kind for kind in KINDS if kind is not RequestError]


def test_every_code_stands_for_one_error() -> None:
    assert len(TOLD) > 10
    assert len({kind.code for kind in TOLD}) == len(TOLD)


@pytest.mark.parametrize("kind", TOLD, ids=lambda kind: kind.code)
def test_an_error_survives_its_way_to_the_client(kind: type[RequestError]) -> None:
    problem: dict[str, object] = {"code": kind.code, "detail": "why", "retry_after_s": 2.0}
    problem["errors"] = [{"field": "gid", "detail": "bad"}]
    back = request_error(problem)
    assert type(back) is kind
    assert (back.detail, back.retry_after_s) == ("why", 2.0)
    assert [(wrong.field, wrong.detail) for wrong in back.fields] == [("gid", "bad")]


def test_only_a_server_that_is_short_of_something_may_be_asked_again() -> None:
    retry_safe = {kind for kind in TOLD if kind.retry_safe}
    assert {kind.code for kind in retry_safe} == {"overloaded", "unreachable", "no-leader", "undetermined"}
    assert {kind.status for kind in retry_safe} == {503}


def test_a_code_of_a_later_version_is_an_internal_error_with_its_own_words() -> None:
    back = request_error({"code": "from-the-future", "title": "What now?"})
    assert (type(back), back.detail) == (Internal, "What now?")


def test_the_text_of_a_wrong_field_names_it() -> None:
    assert str(Invalid.field("branches.1.branch", "is taken")) == "branches.1.branch: is taken"


def test_an_unknown_outcome_says_where_to_ask_again() -> None:
    error = OutcomeUnknown("g", "/v1/transactions/g", "nobody answered")
    assert "/v1/transactions/g" in str(error)
    assert "abort" not in str(error)
