"""Reads clouds.yaml as every OpenStack client does. Every function here blocks.

openstacksdk reads the file with ``secure.yaml`` and vendor profiles, and brings keystoneauth with
its plugins (password, application credential, token, none and others). Both are the optional extra
``keystone``; they are imported when the first cloud is used.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
from pathlib import Path
from typing import Any, NamedTuple

from resolver.errors import LocationUnavailable, ResolverError, installing
from resolver.models import Location
from resolver.text_files import MAX_PEM_BYTES, read_bytes

MAX_REASON_CHARACTERS = 300


class CloudRef(NamedTuple):
    """A cloud of clouds.yaml, or one region of it."""

    name: str
    region: str = ""
    """The region that must be in the file; empty for none in particular."""
    preferred_region: str = ""
    """The region to use where the file lists it and ``region`` is empty."""


def cloud_of(location: Location) -> CloudRef | None:
    """The cloud of clouds.yaml that a location's credential comes from; None for another kind."""
    auth = location.auth or {}
    if "cloud" not in auth:
        return None
    return CloudRef(auth["cloud"], auth.get("region", ""), location.region)


def read_cloud(cloud: CloudRef) -> Any:
    """The configuration of a cloud as clouds.yaml has it now: openstacksdk's ``CloudRegion``.

    Raises:
        LocationUnavailable: there is no such cloud or region, or the extra is not installed. The
            cloud that openstacksdk makes of ``OS_*`` variables is refused: they are secrets of this
            host, which nobody put into clouds.yaml for a location.
    """
    try:
        from openstack.config import OpenStackConfig  # noqa: PLC0415 - the optional extra
    except ImportError as error:
        raise LocationUnavailable(
            f'auth {{"cloud": …}} needs openstacksdk: {installing("keystone")}',
            code="no-credential",
        ) from error
    # `_unreadable_file` reports the same in one line.
    logging.getLogger("openstack.config").setLevel(logging.ERROR)
    try:
        config = OpenStackConfig(pw_func=None)
    except Exception as error:
        raise cloud_error(cloud, f": {_unreadable_file() or reason_of(error)}") from error
    if cloud.name == config.envvar_key:
        raise cloud_error(cloud, ": this name is for OS_* variables, which no location may use")
    try:
        region = cloud.region
        if not region and cloud.preferred_region in _region_names(config, cloud.name):
            region = cloud.preferred_region
        chosen: dict[str, Any] = {"region_name": region} if region else {}
        return config.get_one(cloud=cloud.name, **chosen)
    except Exception as error:
        raise cloud_error(cloud, f": {_unreadable_file() or reason_of(error)}") from error


def cloud_names() -> list[str]:
    """The clouds of clouds.yaml; empty where it cannot be read."""
    try:
        from openstack.config import OpenStackConfig  # noqa: PLC0415 - the optional extra

        logging.getLogger("openstack.config").setLevel(logging.ERROR)
        config = OpenStackConfig(pw_func=None)
        return [name for name in config.get_cloud_names() if name != config.envvar_key]
    except Exception:
        return []


def regions_of(name: str) -> list[str]:
    """The regions that clouds.yaml lists for a cloud; empty where it lists none.

    Raises:
        LocationUnavailable: there is no such cloud.
    """
    read_cloud(CloudRef(name))
    from openstack.config import OpenStackConfig  # noqa: PLC0415 - as above

    return _region_names(OpenStackConfig(pw_func=None), name)


def _region_names(config: Any, name: str) -> list[str]:
    regions = (config.cloud_config["clouds"].get(name) or {}).get("regions") or []
    return [region["name"] if isinstance(region, dict) else str(region) for region in regions]


def read_tls(cloud: CloudRef) -> ssl.SSLContext | None:
    """How clouds.yaml says to speak TLS with the servers of a cloud: ``cacert``, ``verify`` or
    ``insecure``, ``cert`` and ``key``. None where it says nothing.

    Raises:
        LocationUnavailable: there is no such cloud, or (code ``bad-tls``) one of the files cannot
            be used.
    """
    return tls_context(cloud, read_cloud(cloud))


def tls_context(cloud: CloudRef, config: Any) -> ssl.SSLContext | None:
    """The same for a configuration that was read already."""
    verify, cert = config.get_requests_verify_args()
    if verify in (True, None) and not cert:
        return None
    authorities = verify if isinstance(verify, str) else ""
    cert_file, key_file = cert if isinstance(cert, tuple) else (cert, None)
    for name, path in (("cacert", authorities), ("cert", cert_file), ("key", key_file)):
        if path:
            _check_file(cloud, name, path)
    try:
        is_folder = os.path.isdir(authorities)
        context = ssl.create_default_context(
            cafile=None if is_folder else authorities or None,
            capath=authorities if is_folder else None,
        )
    except (OSError, ValueError) as error:
        raise _bad_file(cloud, "cacert", authorities, "it has no PEM certificate") from error
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_file:
        try:
            # Without `password`, an encrypted key would make OpenSSL ask on the terminal.
            context.load_cert_chain(cert_file, key_file, password="")
        except (OSError, ValueError) as error:
            why = "it has no PEM certificate with its key (without a passphrase)"
            raise _bad_file(cloud, "cert", cert_file, why) from error
    return context


def _check_file(cloud: CloudRef, name: str, path: str) -> None:
    try:
        os.listdir(path) if os.path.isdir(path) else read_bytes(Path(path), MAX_PEM_BYTES)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not a path"
        raise _bad_file(cloud, name, path, why) from error


def _bad_file(cloud: CloudRef, name: str, path: str, why: str) -> LocationUnavailable:
    return cloud_error(cloud, f": `{name}` {path}: {why}", code="bad-tls")


def cloud_error(cloud: CloudRef, what: str, code: str = "no-credential") -> LocationUnavailable:
    """An error about a cloud. ``what`` follows its name."""
    region = f", region {cloud.region!r}" if cloud.region else ""
    text = _printable(f"cloud {cloud.name!r}{region} of clouds.yaml{what}")
    return LocationUnavailable(text[: 2 * MAX_REASON_CHARACTERS], code=code)


def _unreadable_file() -> str:
    """Which configuration file is not YAML, and where; empty if none is.

    openstacksdk only logs that it skips such a file, and then reports that there is no such cloud.
    """
    import yaml  # noqa: PLC0415 - most gateways read no such file
    from openstack.config.loader import CONFIG_FILES, SECURE_FILES  # noqa: PLC0415 - as above

    named = [os.environ.get(f"OS_CLIENT_{what}_FILE", "") for what in ("CONFIG", "SECURE")]
    for path in [*named, *CONFIG_FILES, *SECURE_FILES]:
        try:
            with open(path, encoding="utf-8") as file:
                yaml.safe_load(file)
        except OSError:
            continue
        except Exception as error:  # PyYAML's own, and those of tags such as !!timestamp
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or "it is not YAML text"
            return _printable(f"{path}{where}: {problem}")[:MAX_REASON_CHARACTERS]
    return ""


def reason_of(error: Exception) -> str:
    """Why clouds.yaml or Keystone failed, in one line without passwords.

    Texts of keystoneauth and openstacksdk are meant for users; of other errors, such as a KeyError,
    only the type is shown.
    """
    if isinstance(error, ResolverError):
        line = error.detail
    elif type(error).__module__.partition(".")[0] in ("keystoneauth1", "openstack"):
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
    else:
        line = (
            "it cannot be read as one: it must be `clouds:`, under it the cloud's name, and under "
            f"that `auth:` with `auth_url:` and the login ({type(error).__name__})"
        )
    # A URL in it may hold a user and a password.
    return re.sub(r"//[^/@\s]*@", "//***@", _printable(line))[:MAX_REASON_CHARACTERS]


def _printable(text: str) -> str:
    return "".join(filter(str.isprintable, text))
