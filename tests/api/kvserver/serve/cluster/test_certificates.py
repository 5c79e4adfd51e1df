"""Certificates that other machines would take, and those that they would refuse."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kvserver.serve.cluster.certificates import BadCertificate, check_certificates
from tests.cluster.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def test_a_good_one(authority: Authority) -> None:
    tls = authority.sign("good")
    check_certificates(tls, "127.0.0.1")
    check_certificates(tls, None)


def test_one_for_another_name(authority: Authority) -> None:
    tls = authority.sign("elsewhere", "127.0.0.2")
    with pytest.raises(BadCertificate, match=r"not valid for '127\.0\.0\.1'.* and for the name 127\.0\.0\.1"):
        check_certificates(tls, "127.0.0.1")
    check_certificates(tls, "127.0.0.2")


@pytest.mark.parametrize(
    ("days", "usage", "told"),
    [
        (-1, "serverAuth,clientAuth", "certificate has expired"),
        (2, "serverAuth", "unsuitable certificate purpose"),
        (2, "clientAuth", "unsuitable certificate purpose"),
    ],
)
def test_one_that_is_not_good_now_or_for_this(authority: Authority, days: int, usage: str, told: str) -> None:
    tls = authority.sign("other", days=days, usage=usage)
    with pytest.raises(BadCertificate, match=f"which other machines would refuse: {told}.*for server and client"):
        check_certificates(tls, "127.0.0.1")


def test_one_of_another_authority(authority: Authority, tmp_path: Path) -> None:
    tls = replace(Authority(tmp_path).sign("foreign"), ca=authority.file)
    with pytest.raises(BadCertificate, match=r"unable to get local issuer certificate.*signed by --cluster-tls-ca"):
        check_certificates(tls, "127.0.0.1")


def test_files_that_are_something_else(authority: Authority, tmp_path: Path) -> None:
    tls, nothing = authority.sign("mine"), tmp_path / "nothing"
    nothing.write_text("nothing")
    with pytest.raises(BadCertificate, match="no certificate and its key in PEM, without a password: KEY_VALUES"):
        check_certificates(replace(tls, key=authority.sign("second").key), "127.0.0.1")
    with pytest.raises(BadCertificate, match=r"--cluster-tls-ca is .*nothing, which holds no certificate in PEM"):
        check_certificates(replace(tls, ca=nothing), None)
    with pytest.raises(BadCertificate, match=r"--cluster-tls-cert is .*nothing"):
        check_certificates(replace(tls, cert=nothing), None)
    locked = tmp_path / "locked"
    command = ["openssl", "ec", "-in", str(tls.key), "-aes256", "-passout", "pass:secret", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(BadCertificate, match="without a password"):
        check_certificates(replace(tls, key=locked), None)
