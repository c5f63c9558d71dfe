"""Runs inside the Glance venv: each client in a fork of this process, which has imported them.

Their imports take a second of the processor; a fork has them already. A line of JSON on standard
input is one command: its arguments, environment and working directory. It writes to the files
``out`` and ``err`` there. The answer on standard output is its exit status, after it has ended.
The process ends when its standard input does.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

SHELLS = {"glance": "glanceclient.shell", "openstack": "openstackclient.shell"}
ALSO_NEEDED = (
    "glanceclient.v2.shell",
    "openstack.image.v2._proxy",
    "openstackclient.image.client",
    "openstackclient.image.v2.image",
)


def become(command: dict[str, Any]) -> None:
    """Takes what a new process would have been given."""
    os.environ.clear()
    os.environ.update(command["environment"])
    os.chdir(command["directory"])
    for number, file, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, "out", os.O_WRONLY | os.O_CREAT),
        (2, "err", os.O_WRONLY | os.O_CREAT),
    ):
        opened = os.open(file, flags)
        os.dup2(opened, number)
        os.close(opened)


def run(name: str, arguments: list[str]) -> object:
    if name == "python":  # python -c CODE ARGUMENT...
        sys.argv = ["-c", *arguments[2:]]
        exec(arguments[1], {"__name__": "__main__"})
        return None
    sys.argv = [name, *arguments]
    return importlib.import_module(SHELLS[name]).main()


def main() -> None:
    for module in (*SHELLS.values(), *ALSO_NEEDED):
        importlib.import_module(module)
    # Unbuffered: a fork would have what was read ahead.
    commands = os.fdopen(0, "rb", buffering=0, closefd=False)
    for line in commands:
        command = json.loads(line)
        child = os.fork()
        if not child:
            become(command)
            sys.exit(run(command["name"], command["arguments"]))
        _, status = os.waitpid(child, 0)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
