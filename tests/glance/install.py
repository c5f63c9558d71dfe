"""Installs Glance and its clients once, into a cache outside the tree that later runs share."""

from __future__ import annotations

import fcntl
import grp
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.support.process import ServerUnavailableError, log_tail

Auth = Literal["fake", "none", "keystone"]
"""``fake``: tokens that tests/glance/serve_glance.py reads. ``none``: every caller is an admin.
``keystone``: a Keystone's tokens."""

GLANCE_VERSION = "33.0.0"
KEYSTONE_VERSION = "30.0.0"
OPENSTACKCLIENT_VERSION = "10.5.0"
HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
KEYSTONE_REQUIREMENTS = HERE / "requirements-keystone.txt"
OPENSTACKCLIENT_REQUIREMENTS = HERE / "requirements-openstackclient.txt"
TEMPLATES = HERE / "etc"
INSTALL_TIMEOUT = 900.0
"""Seconds for one step; pip takes about 30 where the network is good."""
LIMIT = 1000
"""Glance's default for the most images on a page, ``api_limit_max``."""

AUTH_FILTERS = {"fake": "fakeauth context", "none": "nobody", "keystone": "authtoken context"}
# Without tokens the caller is an admin who has no role, and the default policy asks for the role.
POLICY = {"fake": "{}\n", "none": '"context_is_admin": ""\n', "keystone": "{}\n"}


def default_cache(what: str) -> Path:
    if chosen := os.environ.get("GLANCE_RESOLVER_TEST_CACHE"):
        return Path(chosen).expanduser().absolute() / what
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "glance-resolver" / what


@dataclass(frozen=True)
class Home:
    """A virtual environment of its own, outside the tree."""

    path: Path

    def bin(self, name: str) -> Path:
        return self.path / "venv" / "bin" / name


@dataclass(frozen=True)
class GlanceHome(Home):
    """An installed Glance with its clients, and a migrated database to copy."""

    @property
    def template(self) -> Path:
        return self.path / "template.sqlite"


@dataclass(frozen=True)
class KeystoneHome(Home):
    """An installed Keystone, and what ``keystone-manage`` makes of an empty directory: keys, and a
    database with the first admin."""

    @property
    def template(self) -> Path:
        return self.path / "bootstrapped"


def install(path: Path | None = None) -> GlanceHome:
    """The installation at `path`, made first where it is missing or has other pins.

    Raises:
        ServerUnavailableError: when pip or the migration fails.
    """
    home = GlanceHome(path or default_cache(f"glance-{GLANCE_VERSION}"))
    _made(home, REQUIREMENTS, lambda log: _migrate(home, log))
    return home


def install_keystone() -> KeystoneHome:
    """The same for Keystone."""
    home = KeystoneHome(default_cache(f"keystone-{KEYSTONE_VERSION}"))
    _made(home, KEYSTONE_REQUIREMENTS, lambda log: None)
    with _locked(home.path / ".lock"):
        if not home.template.exists():
            _bootstrap_keystone(home, home.path / "bootstrap.log")
    return home


def install_openstackclient() -> Home:
    """The same for the OpenStack client, without any server."""
    what = f"openstackclient-{OPENSTACKCLIENT_VERSION}"
    return install_packages(what, OPENSTACKCLIENT_REQUIREMENTS)


def install_packages(what: str, requirements: Path) -> Home:
    """A virtual environment with the packages of a requirements file. ``what`` names it.

    Raises:
        ServerUnavailableError: when pip fails.
    """
    home = Home(default_cache(what))
    _made(home, requirements, lambda log: None)
    return home


def install_clients(name: str) -> Home:
    """The same for the clients in requirements-NAME.txt, without any server."""
    home = Home(default_cache(f"clients-{name}"))
    _made(home, HERE / f"requirements-{name}.txt", lambda log: None)
    return home


def _made(home: Home, requirements: Path, then: Callable[[Path], None]) -> None:
    """Makes an installation where there is none with these pins. A second run waits for the
    first."""
    done, wanted = home.path / ".done", requirements.read_text()
    home.path.mkdir(parents=True, exist_ok=True)
    with _locked(home.path / ".lock"):
        if done.exists() and done.read_text() == wanted:
            return
        done.unlink(missing_ok=True)
        shutil.rmtree(home.path / "venv", ignore_errors=True)
        log = home.path / "install.log"
        log.unlink(missing_ok=True)
        _run([sys.executable, "-m", "venv", home.path / "venv"], log)
        _run([home.bin("python"), "-m", "pip", "install", "-r", requirements], log)
        then(log)
        done.write_text(wanted)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: list[str | Path], log: Path) -> None:
    try:
        with log.open("a") as out:
            subprocess.run(command, stdout=out, stderr=out, check=True, timeout=INSTALL_TIMEOUT)
    except (subprocess.SubprocessError, OSError) as error:
        raise ServerUnavailableError(f"{error}\n{log_tail(log)}") from error


def _migrate(home: GlanceHome, log: Path) -> None:
    scratch = home.path / "migration"
    shutil.rmtree(scratch, ignore_errors=True)
    write_config(scratch, "fake")
    conf = scratch / "etc" / "glance-api.conf"
    _run([home.bin("glance-manage"), "--config-file", conf, "db", "sync"], log)
    # Allows readers during a write. The mode is kept in the file, so every copy has it.
    wal = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('pragma journal_mode=wal')"
    _run([home.bin("python"), "-c", wal, scratch / "glance.sqlite"], log)
    (scratch / "glance.sqlite").replace(home.template)
    shutil.rmtree(scratch)


NOTIFICATIONS = """
[oslo_messaging_notifications]
driver = messagingv2
transport_url = {broker}
"""

KEYSTONE_CONF = """[database]
connection = sqlite:///{directory}/keystone.sqlite?timeout=30
[fernet_tokens]
key_repository = {directory}/fernet
[fernet_receipts]
key_repository = {directory}/fernet
[credential]
key_repository = {directory}/credential
[identity]
# Each login would take a third of a second of the processor.
password_hash_rounds = 4
[cache]
enabled = true
backend = oslo_cache.dict
"""

KEYSTONE_PASSWORD = "keystone-admin-secret"
"""Password of Keystone's first admin."""


def write_keystone_config(directory: Path) -> Path:
    """Writes the configuration for the files in `directory`. Returns its path."""
    conf = directory / "etc" / "keystone.conf"
    conf.parent.mkdir(parents=True, exist_ok=True)
    conf.write_text(KEYSTONE_CONF.format(directory=directory))
    return conf


def _bootstrap_keystone(home: KeystoneHome, log: Path) -> None:
    scratch = home.path / "bootstrap"
    shutil.rmtree(scratch, ignore_errors=True)
    conf = write_keystone_config(scratch)
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    owner = ["--keystone-user", user, "--keystone-group", group]
    for command in (
        ["db_sync"],
        ["fernet_setup", *owner],
        ["credential_setup", *owner],
        ["bootstrap", "--bootstrap-password", KEYSTONE_PASSWORD, "--bootstrap-region-id", "one"],
    ):
        _run([home.bin("keystone-manage"), "--config-file", conf, *command], log)
    scratch.rename(home.template)


def write_config(
    directory: Path, auth: Auth, limit: int = LIMIT, *, keystone: str = "", broker: str = ""
) -> None:
    """Fills the templates of etc/ in, and makes the directories they name.

    ``broker``: URL of a RabbitMQ that notifications go to; none without one, as by default.
    """
    for name in ("etc", "store", "staging", "tasks"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    values = {
        "auth": AUTH_FILTERS[auth],
        "directory": directory,
        "limit": limit,
        "keystone": keystone,
    }
    for template in TEMPLATES.iterdir():
        (directory / "etc" / template.name).write_text(template.read_text().format(**values))
    if broker:
        with (directory / "etc" / "glance-api.conf").open("a") as config:
            config.write(NOTIFICATIONS.format(broker=broker))
    (directory / "etc" / "policy.yaml").write_text(POLICY[auth])
