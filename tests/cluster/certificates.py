"""Certificates for machines, made by openssl: good ones, and of every kind that others refuse."""

from __future__ import annotations

import subprocess
from pathlib import Path

from kvserver.serve.cluster.engine_config import Tls


class Authority:
    """One that signs certificates; its files are in `place`."""

    def __init__(self, place: Path, name: str = "ca") -> None:
        self._place, self._name = place, name
        self.file = place / f"{name}.pem"
        self._new("-x509", "-days", "2", "-out", str(self.file), "-keyout", str(self._key))

    @property
    def _key(self) -> Path:
        return self._place / f"{self._name}.key"

    def sign(self, name: str, host: str = "127.0.0.1", *, days: int = 2, usage: str = "serverAuth,clientAuth") -> Tls:
        """Make a certificate for an address, and its key. It ends in `days`, which may have passed."""
        cert, key, request, extensions = (self._place / f"{name}.{end}" for end in ("pem", "key", "csr", "ext"))
        extensions.write_text(f"subjectAltName = IP:{host}\nextendedKeyUsage = {usage}\n")
        self._new("-out", str(request), "-keyout", str(key))
        signed = ["openssl", "x509", "-req", "-days", str(days), "-CA", str(self.file), "-CAkey", str(self._key)]
        files = ["-CAcreateserial", "-in", str(request), "-out", str(cert), "-extfile", str(extensions)]
        subprocess.run([*signed, *files], check=True, capture_output=True)
        return Tls(cert, key, self.file)

    def _new(self, *options: str) -> None:
        new = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj"
        subprocess.run([*new.split(), f"/CN={self._name}", *options], check=True, capture_output=True)


def settings_of(tls: Tls) -> dict[str, Path]:
    """The settings of a machine that name its files."""
    return {"cluster_tls_cert": tls.cert, "cluster_tls_key": tls.key, "cluster_tls_ca": tls.ca}
