"""``openstack image locate``: which locations have these images."""

from __future__ import annotations

import argparse
import os
import ssl
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from uuid import UUID

from keystoneauth1.exceptions import EndpointNotFound
from osc_lib import exceptions
from osc_lib.command import command

from glance_resolver_client.answers import Absent, Answer, Found, Unknown
from glance_resolver_client.errors import ClientError, GatewayError
from glance_resolver_client.gateway_calls import Choice
from glance_resolver_client.sync_client import Client

SERVICE_TYPE = "image-resolver"
URL_VARIABLE = "OS_IMAGE_RESOLVER_URL"
COLUMNS = ("Image", "ID", "Outcome", "Location", "Region", "Status", "URL")
UNAUTHORIZED = 401
EXIT_STATUSES = {"found": 0, "absent": 3, "no match": 3, "unknown": 4}

Row = tuple[str | None, ...]


class LocateImage(command.Lister):
    """Show which locations have images, a row for each, the best first.

    Exits 0 if all were found, 3 if one is absent or no image has a name, 4 if of one it cannot be
    known now.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument(
            "images",
            nargs="+",
            metavar="<image>",
            help="Image ID or name. Names are looked up at every location, with your token",
        )
        parser.add_argument(
            "--prefer-region", metavar="<region>", help="Show owners in this region first"
        )
        parser.add_argument(
            "--exclude",
            action="append",
            default=[],
            metavar="<location>",
            help="Leave out a location (repeat for more)",
        )
        parser.add_argument(
            "--fresh", action="store_true", help="Ask the owners whether they still have the image"
        )
        parser.add_argument(
            "--resolver-url",
            metavar="<url>",
            default=os.environ.get(URL_VARIABLE),
            help=f"URL of the gateway, in place of that of the service type {SERVICE_TYPE} in the "
            f"catalog (Env: {URL_VARIABLE})",
        )
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Returns the exit status."""
        self._outcomes = {"found"}
        super().run(parsed_args)
        return max(EXIT_STATUSES[outcome] for outcome in self._outcomes)

    def take_action(self, parsed_args: argparse.Namespace) -> tuple[tuple[str, ...], list[Row]]:
        choice = Choice(parsed_args.prefer_region, parsed_args.exclude, parsed_args.fresh)
        manager = self.app.client_manager
        try:
            url = parsed_args.resolver_url or self._url_in_catalog(manager)
            with Client(url, tls=_tls(manager.verify, manager.cert)) as client:
                rows = [
                    row for image in parsed_args.images for row in self._rows(client, image, choice)
                ]
        except (ClientError, ValueError, OSError) as error:
            raise exceptions.CommandError(_printable(str(error))) from error
        self._outcomes |= {str(row[2]) for row in rows}
        return COLUMNS, rows

    def _url_in_catalog(self, manager: Any) -> str:
        try:
            url: str | None = manager.get_endpoint_for_service_type(
                SERVICE_TYPE, region_name=manager.region_name, interface=manager.interface
            )
        except EndpointNotFound:
            url = None
        if not url:
            raise exceptions.CommandError(
                f"the catalog has no service of type {SERVICE_TYPE}: give --resolver-url or "
                f"{URL_VARIABLE}"
            )
        return url

    def _rows(self, client: Client, image: str, choice: Choice) -> Iterator[Row]:
        if _is_id(image):
            answers = [self._resolve(client, image, choice)]
        else:
            answers = list(client.lookup(name=image, token=self._token(), **asdict(choice)))
        if not answers:
            yield (image, None, "no match", None, None, None, None)
        for answer in answers:
            yield from _answer_rows(image, answer)

    def _resolve(self, client: Client, image: str, choice: Choice) -> Answer:
        """The answer about an id. The token is sent only to a gateway that asks for one."""
        try:
            return client.resolve(image, **asdict(choice))
        except GatewayError as error:
            if error.status != UNAUTHORIZED:
                raise
        return client.resolve(image, token=self._token(), **asdict(choice))

    def _token(self) -> str:
        """The user's token, for the gateway that the user or the catalog names."""
        return str(self.app.client_manager.session.get_token())


def _answer_rows(image: str, answer: Answer) -> Iterator[Row]:
    match answer:
        case Found(id=image_id, owners=owners):
            for owner in owners:
                where = (owner.location, owner.region, owner.status, owner.url)
                yield (image, _printable(image_id), "found", *map(_printable, where))
        case Absent(id=image_id):
            yield (image, _printable(image_id), "absent", None, None, None, None)
        case Unknown(id=image_id):
            yield (image, _printable(image_id), "unknown", None, None, None, None)


def _printable(value: object) -> str | None:
    """Text of others, without what a terminal would obey."""
    return None if value is None else "".join(c if c.isprintable() else "?" for c in str(value))


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _tls(verify: bool | str, cert: str | tuple[str, str] | None) -> ssl.SSLContext | None:
    """From --os-cacert, --insecure, --os-cert and --os-key; None where none of them is given."""
    if verify is True and not cert:
        return None
    context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert:
        context.load_cert_chain(*([cert] if isinstance(cert, str) else cert))
    return context
