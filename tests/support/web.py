"""Servers on this machine, with and without TLS."""

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest


class Site(NamedTuple):
    """A running server: its address, and the paths that were asked for."""

    address: str
    asked: list[str]


def make_certificate(folder: Path) -> Path:
    """Make a certificate for 127.0.0.1, with its key in the same file."""
    openssl = shutil.which('openssl')
    if openssl is None:
        pytest.skip('needs the openssl command to make a certificate')
    path = folder / 'certificate.pem'
    subprocess.run(
        [openssl, 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1',
         '-nodes', '-days', '2', '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1',
         '-keyout', path.with_suffix('.key'), '-out', path],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_text(path.read_text() + path.with_suffix('.key').read_text())
    return path


@contextmanager
def serve(
    pages: Mapping[str, bytes | str], certificate: Path | None = None, cut: bool = False
) -> Iterator[Site]:
    """Serve pages.

    Args:
        pages: Path -> content, or the address to which it leads.
        certificate: For https; None for http.
        cut: Whether to announce more than is sent.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            page = pages.get(self.path)
            if isinstance(page, str):
                self.send_response(302)
                self.send_header('Location', page)
                self.end_headers()
                return
            self.send_response(404 if page is None else 200)
            self.send_header('Content-Length', str(len(page or b'') + cut))
            self.end_headers()
            self.wfile.write(page or b'')

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    scheme = 'http' if certificate is None else 'https'
    try:
        yield Site(f'{scheme}://127.0.0.1:{server.server_port}', asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
