"""Download MNIST's archives from mirrors."""

import http.client
import io
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from mnist.datasets.archives import Archive, md5
from mnist.datasets.splits import DatasetError, Notify, UnavailableError

ANSWER_TIMEOUT_SECONDS = 8.0  # maximum time until a mirror's first response, including the name lookup
MIN_BYTES_PER_SECOND = 16_000  # minimum mean speed; a slower download is stopped after the timeout above


class Mirrors:
    """The mirrors of MNIST, in the order in which they are tried. A mirror that fails is not tried again."""

    def __init__(self, custom: str | None, notify: Notify) -> None:
        """Store the user's mirror, if any: a URL or a local folder that is tried before the public mirrors."""
        self._custom = custom
        self._failed: set[str] = set()
        self._notify = notify

    def download(self, archive: Archive) -> bytearray:
        """Return the compressed content of an archive from the first mirror that delivers it intact.

        Raises:
            DatasetError: if the user's mirror is neither a URL nor a folder, or contains a password.
            UnavailableError: if no mirror delivers the archive.
        """
        for mirror in self._urls():
            if mirror in self._failed:
                continue
            self._notify(f"downloading {archive.name} from {mirror}")
            try:
                content = _download(urllib.parse.urljoin(mirror, archive.name), limit=archive.max_compressed_bytes)
            except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: the URL is malformed
                self._failed.add(mirror)
                self._notify(f"download from {mirror} failed: {error}")
                continue
            if md5(content) == archive.md5:
                return content
            self._notify(f"{archive.name} from {mirror} is damaged")
        raise UnavailableError(
            f"could not download {archive.name} from any mirror (check the network, or set MNIST_MIRROR to a URL or "
            "a folder with the four .gz files)"
        )

    def _urls(self) -> Iterator[str]:
        if self._custom:
            yield _mirror_url(self._custom)
        from torchvision.datasets import MNIST as TORCHVISION_MNIST  # the import takes seconds

        yield from TORCHVISION_MNIST.mirrors


def _mirror_url(mirror: str) -> str:
    """Return the URL, with a trailing slash, of a mirror that is given as a URL or as a local folder."""
    if mirror.startswith(("http://", "https://", "file://")):
        if "@" in mirror.split("/")[2]:  # urllib does not support a password in a URL, and messages would show it
            raise DatasetError("MNIST_MIRROR contains a user name or a password, which is not supported (remove it)")
        if "?" in mirror or "#" in mirror:
            raise DatasetError("MNIST_MIRROR must be the URL of a folder, without ? or # (remove this part)")
        return urllib.parse.quote(mirror.rstrip("/") + "/", safe="/:%@[]~")
    if not Path(mirror).is_dir():
        raise DatasetError(f"MNIST_MIRROR={mirror} is neither a URL nor a folder")
    return Path(mirror).resolve().as_uri() + "/"


def _download(url: str, limit: int) -> bytearray:
    """Download the content of a URL.

    Raises:
        OSError: if the server does not answer in time, answers with an error, is too slow, or sends more than ``limit``
            bytes.
    """
    started = time.monotonic()
    content = bytearray()
    with _open_url(url) as response:
        while chunk := response.read1(2**16):  # unlike read, read1 returns as soon as some bytes have arrived
            content += chunk
            seconds = time.monotonic() - started
            if len(content) > limit:
                raise OSError(f"the server sent more than {limit:,} bytes")
            if seconds > ANSWER_TIMEOUT_SECONDS and len(content) < MIN_BYTES_PER_SECOND * seconds:
                raise TimeoutError(f"too slow ({len(content):,} bytes in {seconds:.0f} s)")
    return content


def _open_url(url: str) -> io.BufferedIOBase:
    """Open a URL within a time limit that, unlike the timeout of ``urlopen``, includes the name lookup.

    Raises:
        OSError: if the server does not answer in time, or answers with an error.
    """
    answers: queue.Queue[io.BufferedIOBase | Exception] = queue.Queue()
    given_up = threading.Event()

    def request() -> None:
        try:
            # http, https or file: _mirror_url accepts nothing else, and the public mirrors use https.
            response = urllib.request.urlopen(url, timeout=ANSWER_TIMEOUT_SECONDS)  # noqa: S310
        except Exception as error:
            answers.put(error)
        else:
            answers.put(response)
            if given_up.is_set():
                response.close()

    threading.Thread(target=request, daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER_TIMEOUT_SECONDS)
    except queue.Empty:
        given_up.set()
        raise TimeoutError(f"no answer within {ANSWER_TIMEOUT_SECONDS:.0f} s") from None
    if isinstance(answer, urllib.error.HTTPError):
        answer.close()
    if isinstance(answer, Exception):
        raise answer
    return answer
