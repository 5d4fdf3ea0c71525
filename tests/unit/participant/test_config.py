"""The configuration: TOML, the environment before it, and every mistake named with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from participant.config import load
from participant.errors import ConfigError

MINIMAL = 'name = "bank-a"\ndata = "bank.db"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bank.toml"


def test_two_keys_are_enough(file: Path) -> None:
    file.write_text(MINIMAL)
    config = load(file)
    assert (config.name, config.host, config.replicas) == ("bank-a", "127.0.0.1", ())
    assert config.data == file.parent / "bank.db", "relative to the file, not to where the command was typed"
    assert config.resource_limits.lock_wait_s == 3.0


def test_every_key_reaches_where_it_matters(file: Path) -> None:
    file.write_text(
        MINIMAL
        + """
        port = 8081
        replicas = ["http://127.0.0.1:9001/", "http://127.0.0.1:9002"]
        body_bytes_max = 1
        operations_max = 2
        in_flight_max = 3
        branches_max = 4
        lock_wait_s = 5
        unprepared_limit_s = 6
        retention_s = 7300
        recovery_grace_s = 8
        recovery_interval_s = 9
        recovery_interval_max_s = 10
        """
    )
    config = load(file)
    assert config.replicas == ("http://127.0.0.1:9001", "http://127.0.0.1:9002")
    service, resource, recovery = config.service_limits, config.resource_limits, config.recovery
    assert (service.body_bytes_max, service.operations_max, service.in_flight_max) == (1, 2, 3)
    assert (resource.branches_max, resource.lock_wait_s) == (4, 5)
    assert (resource.unprepared_limit_s, resource.retention_s) == (6, 7300)
    assert (recovery.grace_s, recovery.interval_s, recovery.interval_max_s) == (8, 9, 10)


def test_the_environment_goes_before_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(MINIMAL + "port = 1\n")
    monkeypatch.setenv("COMMITD_PARTICIPANT_PORT", "8081")
    monkeypatch.setenv("COMMITD_PARTICIPANT_REPLICAS", '["http://127.0.0.1:9001"]')
    assert (load(file).port, load(file).replicas) == (8081, ("http://127.0.0.1:9001",))


SERVER = 'name = "bank-a"\ndatabase = "postgresql://bank:s3cret@db.example:5433/bank"\n'


def test_a_server_may_stand_in_the_place_of_a_file(file: Path) -> None:
    """And its password is shown to nobody who prints the configuration."""
    file.write_text(SERVER)
    config = load(file)
    assert config.data is None
    assert config.database is not None
    assert config.database.get_secret_value() == "postgresql://bank:s3cret@db.example:5433/bank"
    assert "s3cret" not in repr(config)


def test_a_password_may_come_from_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('name = "bank-a"\n')
    monkeypatch.setenv("COMMITD_PARTICIPANT_DATABASE", "mysql://bank:s3cret@db.example/bank")
    config = load(file)
    assert config.database is not None
    assert config.database.get_secret_value() == "mysql://bank:s3cret@db.example/bank"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://bank:s3cret@/bank",
        "postgresql://:s3cret@db.example/bank",
        "postgresql://bank:s3cret@db.example",
        "postgresql://bank:s3cret@db.example/",
        "oracle://bank:s3cret@db.example/bank",
        "mysql://bank:s3cret/with-a-slash@db.example/bank",
        "mysql://bank:s3cret#with-a-hash@db.example/bank",
        "mysql://bank:s3cret@db.example:port/bank",
        "s3cret",
    ],
)
def test_a_url_that_is_none_is_refused_without_a_word_of_its_password(file: Path, url: str) -> None:
    """A / or # in a password makes another URL of it; what is wrong is said with what to write instead."""
    file.write_text(f'name = "bank-a"\ndatabase = "{url}"\n')
    with pytest.raises(ConfigError) as error:
        load(file)
    assert f"{file}: database: must be postgresql://user:password@host:port/database" in str(error.value)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("text", ['name = "bank-a"', SERVER + 'data = "bank.db"'])
def test_there_is_one_place_for_the_accounts(file: Path, text: str) -> None:
    """Goal: with neither or both, a person would have to guess where the money is."""
    file.write_text(text)
    with pytest.raises(
        ConfigError, match=r"database: give either it, the URL of a database on a server, or data, an S"
    ):
        load(file)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ('data = "x"', "name: is missing"),
        (MINIMAL + "prot = 1", "prot: no such key; known are name, data, database, host, port"),
        (MINIMAL + "port = 70000", "port: Input should be less than or equal to 65535"),
        (MINIMAL + "lock_wait_s = 0", "lock_wait_s: Input should be greater than 0"),
        (MINIMAL + "lock_wait_s = nan", "lock_wait_s: Input should be"),
        (MINIMAL + 'replicas = ["127.0.0.1:9001"]', "replicas.0: must be http://host:port"),
        (MINIMAL + 'replicas = ["http://h/path"]', "replicas.0: must be http://host:port"),
        ('name = "a b"\ndata = "x"', "name: must be 1 to 64 of"),
        (MINIMAL + "recovery_interval_s = 60", "recovery_interval_max_s: must not be less"),
        ("name = ", "bank.toml: Invalid value"),
    ],
)
def test_a_mistake_is_named_with_its_key(file: Path, text: str, mistake: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(file)
    assert mistake in str(error.value)
    assert str(file) in str(error.value)


def test_all_mistakes_are_reported_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("port = -1\nbranches_max = 0\n")
    monkeypatch.setenv("COMMITD_PARTICIPANT_PROT", "1")
    with pytest.raises(ConfigError) as error:
        load(file)
    lines = str(error.value).splitlines()
    assert len(lines) == 5
    for key in ("name", "database", "port", "branches_max", "COMMITD_PARTICIPANT_PROT"):
        assert any(f"{file}: {key}: " in line for line in lines), key


def test_a_variable_that_is_not_json_is_a_clear_mistake(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(MINIMAL)
    monkeypatch.setenv("COMMITD_PARTICIPANT_REPLICAS", "http://127.0.0.1:9001")
    with pytest.raises(ConfigError, match="replicas"):
        load(file)


def test_an_absent_file_is_a_clear_mistake(file: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(file)
