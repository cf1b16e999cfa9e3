"""The settings of the broker that joins several hubs. `config.Settings` has them with all others."""

import re
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,3}", re.ASCII)
MOST_SERVERS = 16


class BrokerSettings(BaseSettings):
    """How this hub reaches NATS, and what it is called among other hubs."""

    nats_url: SecretStr | None = Field(
        None,
        description="NATS server that joins several hubs on one database, as `nats://` or `tls://` URL with user and password"
        " or token; several are separated by commas. Empty: this hub is alone",
    )
    nats_prefix: str = Field("tracking", description="First part of the subjects on the NATS server")
    nats_credentials: str = Field("", description="File with the JWT and the seed of a NATS user (`.creds`)")
    nats_ca: str = Field("", description="File with the certificates that the NATS server's must come from. It demands TLS")
    nats_certificate: str = Field("", description="File with this hub's certificate for the NATS server. It demands TLS")
    nats_key: str = Field("", description="File with the key of that certificate")
    node_name: str = Field(
        "", max_length=100, description="Name of this hub in logs and for other hubs; empty: the host's name"
    )

    @field_validator("nats_url")
    @classmethod
    def _servers(cls, url: SecretStr | None) -> SecretStr | None:
        # No message repeats the URL, because it may hold a password.
        servers = split_servers(url)
        if not servers:
            return None
        if len(servers) > MOST_SERVERS:
            raise ValueError(f"names {len(servers)} servers: give at most {MOST_SERVERS}")
        for server in servers:
            try:
                parts = urlsplit(server)
                usable = parts.scheme in ("nats", "tls") and parts.hostname and parts.port != 0
            except ValueError:
                usable = False
            if not usable or parts.path not in ("", "/") or parts.query or parts.fragment:
                raise ValueError(
                    "must be written nats://host:port or tls://host:port, with user:password@ or token@ before the host if"
                    " the server asks for it; a sign such as / or @ in a password is written %2F or %40"
                )
        return url

    @field_validator("nats_prefix")
    @classmethod
    def _subject(cls, prefix: str) -> str:
        if PREFIX.fullmatch(prefix) is None:
            raise ValueError("must be one to four words of letters, digits, _ and -, separated by dots, as acme.tracking")
        return prefix


def split_servers(url: SecretStr | None) -> list[str]:
    text = "" if url is None else url.get_secret_value()
    return [server.strip() for server in text.split(",") if server.strip()]
