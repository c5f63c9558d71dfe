"""``glance-resolver index export`` and ``index import``: the index as a file."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import select
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

import click

from resolver.cli.gateway_client import TIMEOUT, Gateway, GatewayError, gateway_options, refusal
from resolver.errors import ResolverError

PIECE = 128 * 1024
"""Bytes read and written at a time."""

TAIL = 2048
"""Bytes of a stream's end that are kept to see its last line."""

GZIP = b"\x1f\x8b"


class FileError(ResolverError):
    """The file cannot be read or written."""


class Channel:
    """One streamed request to a gateway."""

    def __init__(self, url: str, token: str | None) -> None:
        Gateway(url, token)  # it says what is wrong with a URL
        parts = urlsplit(url.rstrip("/"))
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._url, self._path = url.rstrip("/"), parts.path
        self._connection = kind(parts.netloc.rpartition("@")[2], timeout=TIMEOUT)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def get(self, path: str) -> Iterator[bytes]:
        """The answer as it comes. It may end early: look at what came last.

        Raises:
            GatewayError: with the gateway's own words, or why there were none.
        """
        with closing(self._connection) as connection:
            with self._failures():
                connection.request("GET", self._path + path, headers=self._headers)
                response = connection.getresponse()
                if response.status != 200:
                    self._decoded(response)
            try:
                while data := response.read(PIECE):
                    yield data
            except http.client.IncompleteRead as error:
                yield error.partial
            except (OSError, http.client.HTTPException):
                pass

    def post(self, path: str, body: Iterable[bytes]) -> Any:
        """Sends a body piece by piece; the decoded answer, which may come before the body's end.

        Raises:
            GatewayError: likewise.
        """
        with closing(self._connection) as connection, self._failures():
            connection.putrequest("POST", self._path + path)
            headers = {"Content-Type": "text/plain", "Transfer-Encoding": "chunked"}
            for name, value in {**headers, **self._headers}.items():
                connection.putheader(name, value)
            connection.endheaders()
            try:
                for data in body:
                    if self._answered():
                        break
                    connection.send(b"%x\r\n%b\r\n" % (len(data), data))
                else:
                    connection.send(b"0\r\n\r\n")
            except (BrokenPipeError, ConnectionResetError):
                pass  # it may have said why
            return self._decoded(connection.getresponse())

    def _answered(self) -> bool:
        """Whether the gateway says something already: it refuses. TLS may talk of its own accord,
        and is not asked."""
        if isinstance(self._connection, http.client.HTTPSConnection):
            return False
        return bool(select.select([self._connection.sock], [], [], 0)[0])

    @staticmethod
    def _decoded(response: http.client.HTTPResponse) -> Any:
        try:
            document = json.loads(response.read())
        except ValueError:
            document = None
        if response.status == 200 and document is not None:
            return document
        raise refusal(response.status, document)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise GatewayError(
                f"cannot reach the gateway at {self._url}: {error or type(error).__name__} (is it "
                "running? give --url or RESOLVER_URL)"
            ) from error


@contextmanager
def _file_errors(name: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise FileError(f"{name}: {why}") from error


@contextmanager
def written(name: str) -> Iterator[IO[bytes]]:
    """A file that has its name only once it is whole; ``-`` is standard output.

    Raises:
        FileError: it cannot be written.
    """
    path = Path(os.path.realpath(name))
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    plain = not path.exists() or path.is_file()  # else a pipe or a device, which stays what it is
    part = path.with_name(f"{path.name}.{os.getpid()}.part") if plain else path
    with _file_errors(name):
        try:
            with part.open("wb") as raw:
                if name.endswith(".gz"):
                    with gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed:
                        yield cast(IO[bytes], packed)
                else:
                    yield raw
                raw.flush()
                if plain:
                    os.fsync(raw.fileno())
            if plain:
                part.replace(path)
        finally:
            if plain:
                part.unlink(missing_ok=True)


@contextmanager
def opened(name: str) -> Iterator[IO[bytes]]:
    """A file to read, unpacked if need be; ``-`` is standard input.

    Raises:
        FileError: it cannot be read.
    """
    with _file_errors(name), ExitStack() as stack:
        raw = cast(BufferedReader, sys.stdin.buffer)
        if name != "-":
            raw = stack.enter_context(Path(name).open("rb"))
        if raw.peek(2)[:2] == GZIP:
            yield cast(IO[bytes], stack.enter_context(gzip.GzipFile("", "rb", fileobj=raw)))
        else:
            yield raw


class Meter:
    """How far a stream is. Images come in order of their ids, so an id tells."""

    def __init__(self, what: str) -> None:
        from rich.console import Console  # noqa: PLC0415 - only where it is shown
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

        console = Console(stderr=True)
        self.progress = Progress(
            TextColumn(what),
            BarColumn(),
            TextColumn("{task.fields[images]:,} images, {task.fields[rate]:,.0f} a second"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self.progress.add_task("", total=1 << 16, images=0, rate=0.0)
        self._begun = time.monotonic()
        self._images = 0

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self._begun, 0.001)

    def of(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The same pieces, looked at as they pass."""
        with self.progress:
            for data in pieces:
                yield data
                self._images += data.count(b"\n") - data.count(b"\nsum ")
                start = data.rfind(b"\n", 0, -5) + 1
                try:
                    far = int(data[start : start + 4], 16)
                except ValueError:
                    continue
                rate = self._images / self.seconds
                self.progress.update(self._task, completed=far, images=self._images, rate=rate)


@click.command("export")
@click.argument("file")
@gateway_options
def export(file: str, url: str, token: str | None) -> None:
    """Write all locations and claims to FILE.

    FILE is compressed if its name ends in .gz; - is standard output. It holds no secrets.
    """
    meter, tail = Meter("export"), b""
    with written(file) as out:
        for data in meter.of(Channel(url, token).get("/index/export")):
            out.write(data)
            tail = (tail + data)[-TAIL:]
        last = tail.rstrip(b"\n").rpartition(b"\n")[2].decode("ascii", "replace")
        if not last.startswith("end "):
            said = last.removeprefix("error ") if last.startswith("error ") else "it broke off"
            raise GatewayError(f"the export is not whole: {said}")
    _, images, claims, _ = last.split()
    click.echo(
        f"exported {int(images):,} images with {int(claims):,} claims in {meter.seconds:.1f} s",
        err=True,
    )


@click.command("import")
@click.argument("file")
@gateway_options
def import_(file: str, url: str, token: str | None) -> None:
    """Add the locations and claims of FILE, as an export wrote it, to those that are there.

    - is standard input. Importing a file again changes nothing.
    """
    meter = Meter("import")
    faults: list[FileError] = []
    with opened(file) as source:
        try:
            done = Channel(url, token).post(
                "/index/import", meter.of(_pieces(source, file, faults))
            )
        except GatewayError as error:
            if faults:  # what the gateway says of the end is then for that reason
                raise FileError(f"{faults[0].detail}; {error.detail}") from error
            raise
    if faults:
        raise faults[0]
    names = ", ".join(done["registered"])
    click.echo(
        f"imported {done['images']:,} images with {done['claims']:,} claims, {done['new']:,} of "
        f"them new, in {meter.seconds:.1f} s; {done['locations']} locations, registered: "
        f"{names or 'none'}"
    )


def _pieces(source: IO[bytes], name: str, faults: list[FileError]) -> Iterator[bytes]:
    """A file piece by piece. Where it cannot be read it ends, so that the gateway tells what it
    made of what came before."""
    try:
        with _file_errors(name):
            while data := source.read(PIECE):
                yield data
    except FileError as error:
        faults.append(error)
