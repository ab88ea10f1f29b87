"""TLS contexts for ``--cacert``, ``--cert``, ``--key`` and ``--proxy-cacert``."""

from __future__ import annotations

import argparse
import getpass
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

from .. import ConfigurationError

__all__ = ["proxy_context", "server_context"]


def server_context(wanted: argparse.Namespace) -> ssl.SSLContext | None:
    """
    Return the context for the server, or ``None`` for the default one.

    It prompts for the passphrase of an encrypted key on a terminal.

    Raises:
        ConfigurationError: If a file can't be used. The text names the option and the file.

    """
    if wanted.key and not wanted.cert:
        raise ConfigurationError("--key: requires the certificate of the key. Pass --cert FILE.")
    if not (wanted.cacert or wanted.cert):
        return None
    context = _trusting("--cacert", wanted.cacert)
    if wanted.cert:
        _load_client_certificate(context, wanted.cert, wanted.key)
    return context


def proxy_context(wanted: argparse.Namespace) -> ssl.SSLContext | None:
    """Return the context for an ``https://`` proxy, or ``None`` for the default one."""
    if not wanted.proxy_cacert:
        return None
    return _trusting("--proxy-cacert", wanted.proxy_cacert)


def _trusting(option: str, cacert: str | None) -> ssl.SSLContext:
    if cacert:
        _readable(option, cacert)
    try:
        return ssl.create_default_context(cafile=cacert)
    except ssl.SSLError as error:
        raise ConfigurationError(f"{option}: {cacert}: contains no PEM certificate") from error


def _load_client_certificate(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    _readable("--cert", cert)
    if key:
        _readable("--key", key)
    holder = f"--key: {key}" if key else f"--cert: {cert}"
    try:
        context.load_cert_chain(cert, key, password=_passphrase_of(holder))
    except ssl.SSLError as error:
        raise ConfigurationError(_unusable(cert, key, holder, error)) from error
    except ConfigurationError:
        raise
    except ValueError as error:  # OpenSSL's limit for a passphrase
        raise ConfigurationError(f"{holder}: the passphrase is too long") from error


def _unusable(cert: str, key: str | None, holder: str, error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if reason == "KEY_VALUES_MISMATCH":
        return f"{holder}: the key does not belong to the certificate"
    if "DECRYPT" in reason:
        return f"{holder}: invalid passphrase"
    if b"CERTIFICATE-----" in Path(cert).read_bytes():
        missing = "Pass its file with --key FILE." if key is None else "It must be PEM."
        return f"{holder}: contains no private key. {missing}"
    return f"--cert: {cert}: contains no PEM certificate"


def _readable(option: str, path: str) -> None:
    """Raise ConfigurationError if the file can't be read, because TLS errors don't name it."""
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise ConfigurationError(f"{option}: {path}: {error.strerror}") from error


def _passphrase_of(holder: str) -> Callable[[], str]:
    """Return a callback for encrypted keys, because OpenSSL's own prompt hangs in a script."""

    def ask() -> str:
        if not sys.stdin.isatty():
            raise ConfigurationError(
                f"{holder}: the key is encrypted, and there is no terminal to ask for its "
                "passphrase. Pass a file with the decrypted key."
            )
        return getpass.getpass(f"Passphrase for {holder.partition(': ')[2]}: ")

    return ask
