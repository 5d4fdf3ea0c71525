"""The section `[notify]` of the configuration: whether applications are told of their transactions, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr, TypeAdapter, field_validator, model_validator

from coordinator.webhooks import secret_of
from coordinator.wire_queries import NotifyUrl

__all__ = ["Notify"]

_URL: TypeAdapter[str] = TypeAdapter(NotifyUrl)


def _prefix(text: str) -> str:
    if "?" in text:
        raise ValueError("leave the query out of the URL: what is below its path is allowed with any")
    return _URL.validate_python(text)


class Notify(BaseModel):
    """`allow`: URLs below which applications may be notified; none: `notify` is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: tuple[Annotated[str, AfterValidator(_prefix)], ...] = ()
    secret: SecretStr | None = None
    secret_file: Path | None = None

    @field_validator("secret")
    @classmethod
    def _is_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            secret_of(secret.get_secret_value())
        return secret

    @model_validator(mode="after")
    def _one_secret(self) -> Notify:
        given = [key for key in ("secret", "secret_file") if getattr(self, key) is not None]
        if len(given) > 1 or (self.allow and not given):
            raise ValueError(
                f"with allow, give exactly one of secret and secret_file (there is {len(given) or 'none'})"
            )
        return self
