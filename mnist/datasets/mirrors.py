"""Fetch files of MNIST from mirrors."""

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

from mnist.datasets.archives import Archive, largest, md5
from mnist.datasets.splits import DatasetError, NoAnswerError, Notify

SECONDS_TO_ANSWER = 8.0  # a mirror that has not answered by then, name look-up and all, is passed over
SLOWEST = 16_000  # bytes per second; a mirror that is slower than this on average is passed over


class Mirrors:
    """The places to ask for an archive, in order. One that fails to answer is not asked again."""

    def __init__(self, own: str | None, notify: Notify) -> None:
        self._own = own
        self._silent: set[str] = set()
        self._notify = notify

    def fetch(self, archive: Archive) -> bytearray:
        """The archive from the first place that has it intact.

        Raises:
            NoAnswerError: none has.
        """
        for place in self._places():
            if place in self._silent:
                continue
            self._notify(f"fetching {archive.name} from {place}")
            try:
                packed = _read_url(urllib.parse.urljoin(place, archive.name), limit=largest(archive))
            except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: no such URL can be
                self._silent.add(place)
                self._notify(f"{place} did not deliver it: {error}")
                continue
            if md5(packed) == archive.md5:
                return packed
            self._notify(f"{place} delivered a damaged {archive.name}")
        raise NoAnswerError(
            f"{archive.name} is not to be had from any mirror (connect to the network, or set MNIST_MIRROR to a URL or "
            "a folder that holds the four .gz)"
        )

    def _places(self) -> Iterator[str]:
        if self._own:
            yield _place(self._own)
        from torchvision.datasets import MNIST as KNOWN  # takes seconds to import: only where it is needed

        yield from KNOWN.mirrors


def _place(mirror: str) -> str:
    """The mirror as a URL that ends with a slash."""
    if mirror.startswith(("http://", "https://", "file://")):
        if "@" in mirror:  # urllib does not support it, and it would be shown in messages
            raise DatasetError("MNIST_MIRROR holds a user name or a password, which is not supported")
        return urllib.parse.quote(mirror.rstrip("/") + "/", safe="/:%?&=[]~")
    if not Path(mirror).is_dir():
        raise DatasetError(f"MNIST_MIRROR={mirror} is neither a URL nor a folder")
    return Path(mirror).resolve().as_uri() + "/"


def _read_url(url: str, limit: int) -> bytearray:
    """The content behind ``url``: in time, or not at all.

    Raises:
        OSError: no answer, an error as the answer, too slow, or more than ``limit`` bytes.
    """
    started = time.monotonic()
    content = bytearray()
    with _open_url(url) as answer:
        while chunk := answer.read1(2**16):  # what has come so far; read would wait for all of it
            content += chunk
            seconds = time.monotonic() - started
            if len(content) > limit:
                raise OSError(f"more than {limit:,} bytes")
            if seconds > SECONDS_TO_ANSWER and len(content) < SLOWEST * seconds:
                raise TimeoutError(f"too slow ({len(content):,} bytes in {seconds:.0f} s)")
    return content


def _open_url(url: str) -> io.BufferedIOBase:
    """``urlopen``, given up after a while even if it hangs in the name look-up, which no socket time-out covers."""
    answers: queue.Queue[io.BufferedIOBase | Exception] = queue.Queue()
    given_up = threading.Event()

    def ask() -> None:
        try:
            # _place let through http, https and file, and nothing else.
            answer = urllib.request.urlopen(url, timeout=SECONDS_TO_ANSWER)  # noqa: S310
        except Exception as error:
            answers.put(error)
        else:
            answers.put(answer)
            if given_up.is_set():
                answer.close()

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=SECONDS_TO_ANSWER)
    except queue.Empty:
        given_up.set()
        raise TimeoutError(f"no answer within {SECONDS_TO_ANSWER:.0f} s") from None
    if isinstance(answer, urllib.error.HTTPError):
        answer.close()
    if isinstance(answer, Exception):
        raise answer
    return answer
