"""Whether this machine's certificate is good for its cluster, tried before anything is started.

Engines say what is wrong with one only to their log, and try for ever.
"""

from __future__ import annotations

import ssl
from typing import Final

from kvserver.serve.cluster.engine_config import Tls

_ROUNDS: Final = 10  # more than a handshake has


class BadCertificate(Exception):
    """The files cannot be used; the message says which, and why."""


def check_certificates(tls: Tls, host: str | None) -> None:
    """Check that machines which trust the authority take this one's certificate, as server and as client.

    `host`: where the others reach it; None: it is a client of engines that run elsewhere. Raises `BadCertificate`.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.verify_mode = ssl.CERT_REQUIRED
    for context in (server, client):
        try:
            context.load_verify_locations(tls.ca)
        except (ssl.SSLError, OSError) as error:
            raise BadCertificate(f"--cluster-tls-ca is {tls.ca}, which holds no certificate in PEM: {error}") from None
        try:
            context.load_cert_chain(tls.cert, tls.key, password="")
        except (ssl.SSLError, OSError) as error:
            raise BadCertificate(
                f"--cluster-tls-cert is {tls.cert}, and --cluster-tls-key {tls.key}: they are no certificate and its "
                f"key in PEM, without a password: {_reason(error)}"
            ) from None
    if host is None:
        return
    try:
        _shake_hands(server, client, host)
    except ssl.SSLCertVerificationError as error:
        raise BadCertificate(
            f"--cluster-tls-cert is {tls.cert}, which other machines would refuse: {error.verify_message}. It has to "
            f"be signed by --cluster-tls-ca, valid now, for server and client, and for the name {host}, where "
            "--cluster says that this machine is"
        ) from None
    except ssl.SSLError as error:
        raise BadCertificate(f"TLS between the machines fails with {tls.cert}: {_reason(error)}") from None


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> None:
    """Let a server and a client of this machine's certificate meet in memory. Raises `ssl.SSLError`."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(_ROUNDS):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue


def _reason(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
