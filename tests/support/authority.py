"""An authority for a test, by the real `openssl`: certificates of servers and clients, and revocation lists."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

_CONFIG = """
[ca]
default_ca = authority
[authority]
database = {0}/index.txt
serial = {0}/serial
new_certs_dir = {0}
certificate = {0}/ca.pem
private_key = {0}/ca.key
default_md = sha256
default_days = 2
default_crl_days = 2
unique_subject = no
policy = anything
copy_extensions = copy
x509_extensions = issued
[issued]
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[anything]
commonName = optional
organizationName = optional
"""
_SIGNS = "critical,keyCertSign,cRLSign"


class Authority:
    """Issues certificates into its directory."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "index.txt").touch()
        (directory / "serial").write_text("1000\n")
        self._config = directory / "openssl.cnf"
        self._config.write_text(_CONFIG.format(directory))
        self.ca = directory / "ca.pem"
        self.crl = directory / "crl.pem"
        self._openssl(
            *("req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}", "-out", self.ca),
            *("-addext", f"keyUsage={_SIGNS}"),
            *_new_key(directory / "ca.key"),
        )

    def subordinate(self, name: str) -> "Authority":
        """An authority whose certificate this one has issued."""
        made = Authority(self.directory / name, name)
        certificate, key = self.issue(name, extensions=("basicConstraints=critical,CA:TRUE", f"keyUsage={_SIGNS}"))
        certificate.replace(made.ca)
        key.replace(made.directory / "ca.key")
        return made

    def issue(
        self,
        name: str,
        subject: str | None = None,
        san: str = "IP:127.0.0.1,DNS:localhost",
        extensions: Sequence[str] = (),
    ) -> tuple[Path, Path]:
        """The files of a new certificate and its key. `subject` as openssl writes it: "/O=works/CN=sensor"."""
        certificate, key, request = (self.directory / f"{name}.{kind}" for kind in ("pem", "key", "csr"))
        self._openssl(
            *("req", "-nodes", "-subj", subject or f"/CN={name}", "-out", request),
            *(word for extension in (f"subjectAltName={san}", *extensions) for word in ("-addext", extension)),
            *_new_key(key),
        )
        self._openssl("ca", "-batch", "-notext", "-in", request, "-out", certificate, "-config", self._config)
        return certificate, key

    def revoke(self, *certificates: Path) -> Path:
        """Revokes certificates; the file of the new list, which may have none."""
        for certificate in certificates:
            self._openssl("ca", "-revoke", certificate, "-config", self._config)
        made = self.crl.with_suffix(".new")
        self._openssl("ca", "-gencrl", "-out", made, "-config", self._config)
        made.replace(self.crl)
        return self.crl

    def _openssl(self, *arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


def _new_key(path: Path) -> tuple[str | Path, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout", path)


def fingerprint(certificate: Path) -> str:
    """The SHA-256 of a certificate, as openssl writes it: "AB:CD:..."."""
    command = ["openssl", "x509", "-in", certificate, "-noout", "-fingerprint", "-sha256"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return shown.strip().partition("=")[2]
