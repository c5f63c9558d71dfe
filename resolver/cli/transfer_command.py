"""``glance-resolver index export`` and ``index import``: the index as a file."""

from __future__ import annotations

import gzip
import os
import re
import secrets
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, cast

import click

from resolver.cli.answer_shapes import IMPORT_RESULT
from resolver.cli.completing import files
from resolver.cli.gateway_client import GatewayError, gateway_options, no_gateway_error
from resolver.cli.printable import REPLACEMENT
from resolver.cli.stream_client import CHUNK_BYTES, StreamRequest
from resolver.cli.transfer_progress import TransferProgress
from resolver.errors import ResolverError

TAIL_BYTES = 2048
"""End of a stream that is kept to read its last line."""

LAST_LINE = re.compile(r"end ([0-9]{1,18}) ([0-9]{1,18}) [!-~]+", re.ASCII)
"""Of an export: its images, its claims and a checksum."""

PRINTABLE = bytes(b if 0x20 <= b < 0x7F or b == 0x0A else ord(REPLACEMENT) for b in range(256))
"""For a terminal, which would obey escape sequences. An export is lines of printable ASCII."""

GZIP_MAGIC = b"\x1f\x8b"


class FileError(ResolverError):
    """The file cannot be read or written."""


@click.command("export")
@click.argument("file", shell_complete=files)
@gateway_options
def export(file: str, url: str, token: str | None) -> None:
    """Write all locations and claims to FILE.

    FILE is compressed if its name ends in .gz; - is standard output. It contains no secrets.
    """
    from resolver.registry.export_format import FORMAT_NAME  # noqa: PLC0415

    progress, start, tail = TransferProgress("export"), b"", b""
    is_terminal = file == "-" and sys.stdout.isatty()
    with open_output(file) as output:
        for data in progress.watch(StreamRequest(url, token).get("/index/export")):
            start = (start + data)[: len(FORMAT_NAME)]
            if not FORMAT_NAME.startswith(start):
                raise no_gateway_error(url, "it sent no export")
            output.write(data.translate(PRINTABLE) if is_terminal else data)
            tail = (tail + data)[-TAIL_BYTES:]
        last = tail.rstrip(b"\n").rpartition(b"\n")[2].decode("ascii", "replace")
        end = LAST_LINE.fullmatch(last)
        if end is None:
            reason = last.removeprefix("error ") if last.startswith("error ") else "it broke off"
            raise GatewayError(f"the export is incomplete: {reason}")
    click.echo(
        f"exported {int(end[1]):,} images with {int(end[2]):,} claims in {progress.seconds:.1f} s",
        err=True,
    )


@click.command("import")
@click.argument("file", shell_complete=files)
@click.option(
    "--with-auth",
    is_flag=True,
    help="Locations get the credentials that FILE names. They are sent to the servers that FILE "
    "names, so trust who wrote it.",
)
@click.option(
    "--update-locations",
    is_flag=True,
    help="Give locations that are registered the region and the other fields of FILE, too.",
)
@gateway_options
def import_(
    file: str, with_auth: bool, update_locations: bool, url: str, token: str | None
) -> None:
    """Add the locations and claims of an exported FILE to the index.

    - is standard input. Importing a file again changes nothing.
    """
    progress = TransferProgress("import")
    options = {"with_auth": with_auth, "update_locations": update_locations}
    query = "&".join(f"{name}=1" for name, is_wanted in options.items() if is_wanted)
    path = f"/index/import{'?' * bool(query)}{query}"
    errors: list[FileError] = []
    with open_input(file) as source:
        chunks = progress.watch(_read_chunks(source, file, errors))
        try:
            result = StreamRequest(url, token).post(path, chunks, IMPORT_RESULT)
        except GatewayError as error:
            if errors:  # the gateway's error is then a consequence
                raise FileError(f"{errors[0].detail}; {error.detail}") from error
            raise
    if errors:
        raise errors[0]
    names = ", ".join(result["registered"])
    new = "an unknown number" if result["new"] is None else f"{result['new']:,}"
    click.echo(
        f"imported {result['images']:,} images with {result['claims']:,} claims, "
        f"{new} of them new, in {progress.seconds:.1f} s; {result['locations']} "
        f"locations, registered: {names or 'none'}"
        + (f", updated: {', '.join(result['updated'])}" if result["updated"] else "")
    )
    if left_out := result.get("without_auth"):
        click.echo(
            f"without the credentials that the file names: {', '.join(left_out)}. Set them with "
            "`locations set NAME`, or import with --with-auth",
            err=True,
        )
    if result["different"]:
        click.echo(
            f"registered with other fields than in {file}, and left so: "
            f"{', '.join(result['different'])} (--update-locations changes them)",
            err=True,
        )


@contextmanager
def open_output(name: str) -> Iterator[IO[bytes]]:
    """Opens a file to write, compressed if its name ends in ``.gz``; ``-`` is standard output.

    The file gets its name when it is complete, so an older one stays if this fails. A pipe or a
    device is written to directly. A link is followed if this user or root has made it: in a folder
    that others can write into, it could lead to any file of this user.

    Raises:
        FileError: it cannot be written.
    """
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if os.path.islink(name) and os.lstat(name).st_uid not in (0, os.geteuid()):
        raise FileError(f"{name}: it is a link that another user has made")
    path = Path(os.path.realpath(name))
    is_regular = not path.exists() or path.is_file()
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part") if is_regular else path
    with _translate_errors(name):
        try:
            with open(part, "wb", opener=_create if is_regular else None) as file:
                if name.endswith(".gz"):
                    with gzip.GzipFile("", "wb", 1, file, mtime=0) as compressed:
                        yield cast(IO[bytes], compressed)
                else:
                    yield file
                file.flush()
                if is_regular:
                    os.fsync(file.fileno())
            if is_regular:
                part.replace(path)
        finally:
            if is_regular:
                part.unlink(missing_ok=True)


def _create(path: str, flags: int) -> int:
    """An opener that makes a new file, and never writes through a link that somebody put there."""
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)


@contextmanager
def open_input(name: str) -> Iterator[IO[bytes]]:
    """Opens a file to read, and decompresses it if it is gzip; ``-`` is standard input.

    Raises:
        FileError: it cannot be read.
    """
    with _translate_errors(name), ExitStack() as stack:
        file = cast(BufferedReader, sys.stdin.buffer)
        if name != "-":
            file = stack.enter_context(Path(name).open("rb"))
        if file.peek(2)[:2] == GZIP_MAGIC:
            yield cast(IO[bytes], stack.enter_context(gzip.GzipFile("", "rb", fileobj=file)))
        else:
            yield file


def _read_chunks(source: IO[bytes], name: str, errors: list[FileError]) -> Iterator[bytes]:
    """Yields a file chunk by chunk. An error ends it and is added to ``errors``, so that the
    gateway still reports what it did with the chunks before."""
    try:
        with _translate_errors(name):
            while data := source.read(CHUNK_BYTES):
                yield data
    except FileError as error:
        errors.append(error)


@contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    """Turns an error about the file into one line that names it."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"{name}: {reason}") from error
