"""TLS of the API by a certificate of the operator's own."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import structlog

from hutch.config import Settings
from hutch.errors import HostNotReady

_log = structlog.get_logger()

LOOK_EVERY_S: Final = 10.0
_HINT: Final = "PEM files: the certificate with its chain, and its key without a passphrase."


class Certificate:
    """Open it with ``Certificate.of``."""

    def __init__(self, cert: Path, key: Path) -> None:
        self.cert = cert
        self.key = key
        self._seen = self._stamp()
        # How other processes of this service know each other: by this very certificate.
        self.pinned = pinned(cert)

    @classmethod
    def of(cls, settings: Settings) -> Certificate | None:
        """None where no TLS is wanted. Raises ``HostNotReady`` if it cannot be had."""
        if settings.tls_cert is None and settings.tls_key is None:
            return None
        if settings.tls_cert is None or settings.tls_key is None:
            raise HostNotReady("HUTCH_TLS_CERT and HUTCH_TLS_KEY go together.", hint=_HINT)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                settings.tls_cert, settings.tls_key, password=_no_passphrase
            )
            return cls(settings.tls_cert, settings.tls_key)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise HostNotReady(
                f"HUTCH_TLS_CERT and HUTCH_TLS_KEY cannot be used: {_reason(error)}", hint=_HINT
            ) from None

    def renew(self, serving: ssl.SSLContext) -> None:
        """If the files have changed: connections from now on see the new certificate."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            # One that is half written must not get into the context that serves.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                self.cert, self.key, password=_no_passphrase
            )
            serving.load_cert_chain(self.cert, self.key, password=_no_passphrase)
            self.pinned.load_verify_locations(self.cert)
            _log.info("tls.renewed")
        except (OSError, ValueError) as error:
            _log.error("tls.not_renewed", reason=_reason(error))

    def _stamp(self) -> tuple[object, ...]:
        try:
            files = [path.stat() for path in (self.cert, self.key)]
        except OSError:  # being replaced
            return ()
        return tuple((file.st_mtime_ns, file.st_size, file.st_ino) for file in files)


def pinned(cert: Path) -> ssl.SSLContext:
    """For a client on this machine: takes this certificate and no other, under whatever name it is
    reached.
    """
    context = ssl.create_default_context(cafile=cert)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase")


def _reason(error: Exception) -> str:
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return str(text)
