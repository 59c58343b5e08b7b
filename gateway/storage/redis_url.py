"""From a URL to a client: one Redis, a Cluster, or a master that Sentinels name; with TLS and ACL.

    redis://user:password@host:port/db               rediss:// with TLS, unix:///path
    redis+sentinel://user:password@host:port,host:port/service[/db]       rediss+sentinel://
    redis+cluster://user:password@host:port,host:port                     rediss+cluster://

Options follow after `?`: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_check_hostname`, `ssl_cert_reqs`; for
Sentinels their own `sentinel_username` and `sentinel_password`. Must never put a URL into a message.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from gateway.errors import StoreError

_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL = ("sentinel_username", "sentinel_password")
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


@dataclass(frozen=True, slots=True)
class Address:
    """Where several servers are, and how to be let in."""

    kind: str  # cluster, sentinel
    hosts: tuple[tuple[str, int], ...]
    service: str = ""
    db: int = 0
    tls: bool = False
    credentials: dict[str, str] = field(default_factory=dict, repr=False)
    options: dict[str, Any] = field(default_factory=dict, repr=False)  # of TLS
    sentinel: dict[str, str] = field(default_factory=dict, repr=False)  # the Sentinels' own credentials


def parse(url: str) -> Address | None:
    """The address of a cluster or of Sentinels; None for URLs of one server.

    Raises:
        ValueError: it cannot be read. The message does not quote it.
    """
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if not kind:
        return None
    if scheme not in ("redis", "rediss") or kind not in ("cluster", "sentinel"):
        raise ValueError("unknown scheme")
    given, at, hosts = parts.netloc.rpartition("@")
    user, _, password = given.partition(":")
    credentials = {"username": unquote(user), "password": unquote(password)} if at else {}
    path = [unquote(part) for part in parts.path.split("/") if part]
    if (kind == "sentinel" and not 1 <= len(path) <= 2) or (kind == "cluster" and path not in ([], ["0"])):
        raise ValueError("sentinel URLs end in /service or /service/db, cluster URLs in nothing")
    options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    unknown = options.keys() - {*_TLS, *(_SENTINEL if kind == "sentinel" else ())}
    if unknown:
        raise ValueError("unknown options")
    return Address(
        kind,
        tuple(_host(host) for host in hosts.split(",")),
        service=path[0] if kind == "sentinel" else "",
        db=int(path[1]) if len(path) == 2 else 0,
        tls=scheme == "rediss",
        credentials={name: value for name, value in credentials.items() if value},
        options={name: _option(name, value) for name, value in options.items() if name in _TLS},
        sentinel={name.removeprefix("sentinel_"): options[name] for name in _SENTINEL if name in options},
    )


def client(url: str, *, timeout: float, connections: int) -> Any:
    """A `redis.asyncio` client that connects when it is first used. `timeout`: seconds, of connecting and of each read.

    Raises:
        StoreError: the URL cannot be read, or the package is not installed.
    """
    try:
        from redis.asyncio import Redis, RedisCluster
        from redis.asyncio.cluster import ClusterNode
        from redis.asyncio.connection import ConnectionPool
        from redis.asyncio.retry import Retry
        from redis.asyncio.sentinel import Sentinel
        from redis.backoff import NoBackoff
        from redis.exceptions import ConnectionError
    except ImportError as error:
        raise StoreError("redis: not installed; pip install 'semantic-gateway[redis]'") from error
    common: dict[str, Any] = {
        "max_connections": connections,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "health_check_interval": 30,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 1),  # a connection that went stale while idle is replaced, once
        "retry_on_error": [ConnectionError],
    }
    try:
        address = parse(url)
        if address is None:
            return Redis(connection_pool=ConnectionPool.from_url(url, **common))
        allowed = {**common, **address.credentials}
        if address.tls:
            allowed |= {"ssl": True, **address.options}
        if address.kind == "cluster":
            nodes = [ClusterNode(host, port) for host, port in address.hosts]
            return RedisCluster(startup_nodes=nodes, **allowed)
        asked = {name: value for name, value in allowed.items() if name.startswith(("socket_", "ssl"))}
        asked |= {"protocol": 2, "retry": Retry(NoBackoff(), 0)}  # the next one is asked instead
        named: Any = Sentinel  # not annotated
        sentinels = named(address.hosts, sentinel_kwargs={**asked, **address.sentinel}, **allowed)
        return sentinels.master_for(address.service, db=address.db)
    except Exception:
        # The parser's message may quote the URL, password and all.
        raise StoreError("redis: the URL cannot be read") from None


async def close(client: Any) -> None:
    """Disconnect, from the Sentinels too: the client itself leaves those to nobody."""
    pool = getattr(client, "connection_pool", None)  # a cluster has one for each node, and closes them
    await client.aclose()
    if pool is not None:
        await pool.disconnect()
    for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
        await sentinel.aclose()
        await sentinel.connection_pool.disconnect()


def _host(text: str) -> tuple[str, int]:
    """`host`, `host:port` or `[address]:port`."""
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host is missing")
    return parts.hostname, parts.port or 6379


def _option(name: str, value: str) -> Any:
    if name != "ssl_check_hostname":
        return value
    if value.lower() not in (*_TRUE, *_FALSE):
        raise ValueError("ssl_check_hostname is true or false")
    return value.lower() in _TRUE
