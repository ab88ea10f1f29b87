"""``datastream-ws``: authorities and client certificates, by the names that curl has."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from datastream_ws.testing import StreamServer
from kit.cli import environment, run
from kit.http import free_port
from kit.rawserver import RawServer, Respond, Stall, Upgrade

CA = trustme.CA()
OTHER_CA = trustme.CA()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """The paths of what is written here, by name."""
    ours, theirs = CA.issue_cert("client.example"), OTHER_CA.issue_cert("client.example")
    passphrase = serialization.BestAvailableEncryption(b"hunter2")
    key = serialization.load_pem_private_key(ours.private_key_pem.bytes(), None)
    kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, passphrase
    content = {
        "ca": CA.cert_pem.bytes(),
        "both": ours.private_key_and_cert_chain_pem.bytes(),
        "cert": ours.cert_chain_pems[0].bytes(),
        "key": ours.private_key_pem.bytes(),
        "locked": key.private_bytes(*kind),
        "foreign": theirs.private_key_and_cert_chain_pem.bytes(),
        "foreign_key": theirs.private_key_pem.bytes(),
        "text": b"not PEM",
    }
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    return {name: str(tmp_path / name) for name in [*content, "nowhere"]}


def serving() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("127.0.0.1").configure_cert(context)
    return context


def asking() -> ssl.SSLContext:
    """For a server that requires a client certificate of CA."""
    context = serving()
    CA.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def server() -> Iterator[StreamServer]:
    with StreamServer(ssl=asking(), on_connect=lambda c: c.send("hello")) as server:
        yield server


@pytest.mark.parametrize(
    "options", [["--cert", "both"], ["--cert", "cert", "--key", "key"]], ids=["one", "two"]
)
def test_a_client_certificate(
    options: list[str], files: dict[str, str], server: StreamServer
) -> None:
    given = ["--cacert", files["ca"], *(files.get(each, each) for each in options)]
    checked = run("check", server.url, *given)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count("✓") == 7
    listened = run("listen", server.url, *given, "--max-messages", "1")
    assert listened.returncode == 0, listened.stderr
    assert '"data":"hello"' in listened.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "the server requires a client certificate"),
        (["--cert", "foreign"], "does not trust the client certificate's authority"),
    ],
)
def test_a_server_that_refuses_the_client_certificate(
    options: list[str], says: str, files: dict[str, str]
) -> None:
    given = ["--cacert", files["ca"], *(files.get(each, each) for each in options)]
    with RawServer([Upgrade(), Stall()], ssl=asking()) as server:
        checked = run("check", server.url, *given)
    assert checked.returncode == 1
    assert "✗  TLS" in checked.stdout
    assert says in checked.stdout
    assert "--cert FILE --key FILE" in checked.stdout


def test_a_server_that_refuses_without_a_word(files: dict[str, str], server: StreamServer) -> None:
    """Servers on asyncio send no alert."""
    checked = run("check", server.url, "--cacert", files["ca"])
    assert checked.returncode == 1
    assert (
        "✗  TLS        the server closed the connection after the TLS handshake" in checked.stdout
    )
    assert "if it requires a client certificate" in checked.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--cacert nowhere", "--cacert: {nowhere}: No such file or directory"),
        ("--cacert text", "--cacert: {text}: contains no PEM certificate"),
        ("--proxy-cacert text", "--proxy-cacert: {text}: contains no PEM certificate"),
        ("--key key", "--key: requires the certificate of the key. Pass --cert FILE."),
        ("--cert nowhere", "--cert: {nowhere}: No such file or directory"),
        ("--cert text", "--cert: {text}: contains no PEM certificate"),
        ("--cert cert", "--cert: {cert}: contains no private key. Pass its file with --key FILE."),
        ("--cert cert --key nowhere", "--key: {nowhere}: No such file or directory"),
        ("--cert cert --key text", "--key: {text}: contains no private key. It must be PEM."),
        ("--cert cert --key foreign_key", "--key: {foreign_key}: the key does not belong to the"),
        ("--cert cert --key locked", "--key: {locked}: the key is encrypted, and there is no"),
    ],
)
@pytest.mark.parametrize("command", ["check", "listen"])
def test_files_that_cannot_be_used(
    command: str, options: str, says: str, files: dict[str, str]
) -> None:
    """One line that names the option; no connection is tried."""
    given = [files.get(each, each) for each in options.split()]
    done = run(command, f"wss://127.0.0.1:{free_port()}", *given, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert done.stdout == ""
    assert says.format(**files) in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_proxys_certificate_is_the_proxys(files: dict[str, str]) -> None:
    with RawServer([Respond(407)], ssl=serving()) as proxy:
        asked = environment(HTTPS_PROXY=f"https://127.0.0.1:{proxy.port}")
        command = ["check", "wss://feed.example/"]
        untrusted = run(*command, "--cacert", files["ca"], env=asked)
        trusted = run(*command, "--proxy-cacert", files["ca"], env=asked)
    assert untrusted.returncode == trusted.returncode == 1
    assert "✗  Handshake  the proxy's certificate is not trusted" in untrusted.stdout
    assert "--proxy-cacert FILE" in untrusted.stdout
    assert "✗  Handshake  the proxy responded with HTTP 407" in trusted.stdout
