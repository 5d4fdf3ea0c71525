"""The configuration of a participant: TOML, each key also as an environment variable `COMMITD_PARTICIPANT_…`.

Frozen and validated once. The environment goes before the file. Only `load` reads either.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from yarl import URL

from participant.errors import ConfigError
from participant.ids import is_branch_id
from participant.proof import SECRET_BYTES_MIN
from participant.recovery import RecoverySettings
from participant.resource import ResourceLimits
from participant.service import ServiceLimits

__all__ = ["ENV_PREFIX", "MARIADB_SCHEMES", "POSTGRES_SCHEMES", "RETENTION_S_MIN", "ParticipantConfig", "load"]

ENV_PREFIX = "COMMITD_PARTICIPANT_"
POSTGRES_SCHEMES = ("postgresql", "postgres")
MARIADB_SCHEMES = ("mariadb", "mysql")


def _name(value: str) -> str:
    if not is_branch_id(value):
        raise ValueError("must be 1 to 64 of A-Z a-z 0-9 _ . : -")
    return value


def _replica(value: str) -> str:
    url = URL(value)
    if url.scheme not in ("http", "https") or not url.host or url.path not in ("", "/") or url.query_string:
        raise ValueError(f"must be http://host:port, not {value!r}")
    return value.rstrip("/")


def _database(value: SecretStr) -> SecretStr:
    """What is wrong is said without the text: it holds a password."""
    try:
        url = URL(value.get_secret_value())
        is_whole = url.host and url.user and len(url.path) > 1 and url.explicit_port != 0
    except ValueError:  # e.g. a password with a / or #, so that a part of it stands where the port should
        is_whole = False
    if not is_whole or url.scheme not in POSTGRES_SCHEMES + MARIADB_SCHEMES:
        raise ValueError(
            "must be postgresql://user:password@host:port/database, or the same with mariadb:// or mysql://; "
            "what is special in a URL is written with a percent sign (/ is %2F, # is %23, @ is %40)"
        )
    return value


def _only_place(value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    if "data" in info.data and (info.data["data"] is None) is (value is None):
        raise ValueError("give either it, the URL of a database on a server, or data, an SQLite file")
    return value


def _long_enough(value: SecretStr | None) -> SecretStr | None:
    if value is not None and len(value.get_secret_value().encode()) < SECRET_BYTES_MIN:
        raise ValueError(f"must be at least {SECRET_BYTES_MIN} bytes, the same as the coordinators'")
    return value


RETENTION_S_MIN = 7_200.0  # twice the longest deadline: a late request must still find what became of its branch

_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1)]


class ParticipantConfig(BaseSettings):
    """One participant. Its accounts are in the SQLite file `data`, relative to the file's directory, or in the server's
    `database`. `port = 0` lets the system choose.
    """

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    name: Annotated[str, AfterValidator(_name)]
    data: Path | None = None
    database: Annotated[
        Annotated[SecretStr, AfterValidator(_database)] | None,
        AfterValidator(_only_place),
        Field(validate_default=True),
    ] = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 0
    replicas: tuple[Annotated[str, AfterValidator(_replica)], ...] = ()

    body_bytes_max: _Count = 65_536
    operations_max: _Count = 256
    in_flight_max: _Count = 2_048
    branches_max: _Count = 10_000
    lock_wait_s: _Seconds = 3.0
    deadlock_wait_s: _Seconds = 0.5
    unprepared_limit_s: _Seconds = 60.0
    retention_s: Annotated[float, Field(ge=RETENTION_S_MIN, allow_inf_nan=False)] = 86_400.0
    recovery_grace_s: _Seconds = 5.0
    recovery_interval_s: _Seconds = 1.0
    recovery_interval_max_s: _Seconds = 15.0
    recovery_peers_after_s: _Seconds = 5.0
    proof_secret: Annotated[SecretStr | None, AfterValidator(_long_enough)] = None

    @model_validator(mode="after")
    def _check_intervals(self) -> Self:
        if self.recovery_interval_max_s < self.recovery_interval_s:
            raise ValueError("recovery_interval_max_s: must not be less than recovery_interval_s")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is the base class's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment first, then what `load` read from the file."""
        return env_settings, init_settings

    @property
    def service_limits(self) -> ServiceLimits:
        return ServiceLimits(self.body_bytes_max, self.operations_max, self.in_flight_max)

    @property
    def resource_limits(self) -> ResourceLimits:
        return ResourceLimits(
            self.lock_wait_s, self.unprepared_limit_s, self.retention_s, self.branches_max, self.deadlock_wait_s
        )

    @property
    def recovery(self) -> RecoverySettings:
        return RecoverySettings(
            self.recovery_grace_s, self.recovery_interval_s, self.recovery_interval_max_s, self.recovery_peers_after_s
        )


def load(path: Path) -> ParticipantConfig:
    """Read and validate a file. Raises ConfigError with one line for each mistake, each naming its key."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    mistakes = _unknown_variables(os.environ)
    try:
        config = ParticipantConfig(**content)
    except ValidationError as error:
        mistakes += [_mistake(item) for item in error.errors()]
    except ValueError as error:  # pydantic-settings, for a variable that is not JSON where it must be
        mistakes.append(f"the environment: {error}")
    if mistakes:
        raise ConfigError("\n".join(f"{path}: {mistake}" for mistake in mistakes))
    return config if config.data is None else config.model_copy(update={"data": path.parent / config.data})


def _unknown_variables(environment: Mapping[str, str]) -> list[str]:
    known = {ENV_PREFIX + name.upper() for name in ParticipantConfig.model_fields}
    given = sorted(name for name in environment if name.upper().startswith(ENV_PREFIX))
    return [f"{name}: no such environment variable" for name in given if name.upper() not in known]


def _mistake(item: Any) -> str:
    """One line for one of pydantic's errors."""
    key = ".".join(str(part) for part in item["loc"])
    match item["type"]:
        case "extra_forbidden":
            why = f"no such key; known are {', '.join(ParticipantConfig.model_fields)}"
        case "missing":
            why = "is missing"
        case _:
            why = str(item["msg"]).removeprefix("Value error, ")
    return f"{key}: {why}" if key else why
