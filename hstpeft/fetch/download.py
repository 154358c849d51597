"""Downloads over https, compared with a sha256 before anything may use them."""

import hashlib
import http.client
import os
import ssl
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, BinaryIO

from hstpeft.errors import UserError

MAX_BYTES = 16 * 2**30
_CHUNK = 2**20


def download(
    url: str,
    folder: str | os.PathLike,
    sha256: str | None,
    *,
    name: str | None = None,
    max_bytes: int = MAX_BYTES,
    timeout: float = 60,
    context: ssl.SSLContext | None = None,
) -> Path:
    """Download a file, unless it is there already.

    The file appears under its name only when it is complete and has been checked. A file of that name
    with other content is replaced.

    Args:
        url: An ``https://`` address. Redirects may only lead to others.
        folder: Where to; made if need be.
        sha256: Of the content. None takes a file that is there as it is, and trusts the server for a
            new one.
        name: File name; default: the last part of the address. The server cannot choose it.
        max_bytes: Larger files are refused, whatever size the server announces.
        timeout: Seconds that the server may be silent.
        context: TLS settings; default: those of the system, which verify the server.

    Returns:
        The path of the file.

    Raises:
        UserError: The address is not https, the name no plain file name, the server cannot be
            reached, or the file is too large, incomplete or another one than expected.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != 'https' or not parts.hostname:
        raise UserError(f'download {url} is refused: only https:// addresses are fetched')
    if sha256 is not None:
        sha256 = check_sha256(sha256)
    path = Path(folder, check_file_name(name or urllib.parse.unquote(parts.path.split('/')[-1])))
    if path.is_file() and sha256 in (None, sha256_of(path)):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent)
    try:
        with os.fdopen(handle, 'wb') as file:
            found = _fetch(url, file, max_bytes, timeout, context)
        if sha256 not in (None, found):
            raise UserError(
                f'download {url} is not the file that is expected and was deleted: its sha256 is '
                f'{found}, not {sha256}'
            )
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def check_file_name(name: str) -> str:
    """Return a file name of a server or a manifest if it is one, and no path.

    Raises:
        UserError: It is empty, begins with a dot, or has a separator or a control character.
    """
    is_plain = name and not name.startswith('.') and not set(name) & set('/\\:')
    if not is_plain or not name.isprintable():
        raise UserError(
            f'file name {name!r} is refused: it must be a plain name without /, \\ and :, and must '
            'not begin with a dot'
        )
    return name


def check_sha256(text: str) -> str:
    """Return a sha256 in lower case.

    Raises:
        UserError: It is not 64 hexadecimal digits.
    """
    digest = text.lower()
    if len(digest) != 64 or set(digest) - set('0123456789abcdef'):
        raise UserError(f'sha256 {text!r} must be 64 hexadecimal digits, as sha256sum prints them')
    return digest


def sha256_of(path: str | os.PathLike) -> str:
    """Return the sha256 of a file's content."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follow no redirect that leaves https."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str):
        if urllib.parse.urlsplit(newurl).scheme != 'https':
            raise UserError(f'download {req.full_url} is refused: it leads to {newurl}, no https')
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(
    url: str, file: BinaryIO, max_bytes: int, timeout: float, context: ssl.SSLContext | None
) -> str:
    """Write what a server sends into a file; returns its sha256."""
    opener = urllib.request.build_opener(
        _HttpsOnly, urllib.request.HTTPSHandler(context=context or ssl.create_default_context())
    )
    request = urllib.request.Request(url, headers={'User-Agent': 'hstpeft'})
    too_large = UserError(f'download {url} is refused: it is larger than {max_bytes:,} bytes')
    digest, size = hashlib.sha256(), 0
    try:
        with opener.open(request, timeout=timeout) as response:
            announced = response.headers.get('Content-Length')
            if announced is not None and int(announced) > max_bytes:
                raise too_large
            while chunk := response.read(_CHUNK):
                size += len(chunk)
                if size > max_bytes:
                    raise too_large
                digest.update(chunk)
                file.write(chunk)
    except UserError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, 'reason', None) or error
        raise UserError(
            f'download {url} failed: {reason}: check the address and the network'
        ) from error
    if announced is not None and size != int(announced):
        raise UserError(f'download {url} broke off after {size:,} of {announced} bytes: try again')
    return digest.hexdigest()
