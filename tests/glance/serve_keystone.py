"""Runs inside the Keystone venv: one Keystone under waitress, on loopback.

    OS_KEYSTONE_CONFIG_DIR=DIR/etc python serve_keystone.py PORT

The process ends when its standard input does, so it cannot outlive a test run that was killed.
"""

import importlib
import os
import sys
import threading


def exit_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    port = int(sys.argv.pop())  # Keystone reads what is left of the arguments itself
    api = importlib.import_module("keystone.wsgi.api")
    waitress = importlib.import_module("waitress")
    threading.Thread(target=exit_with_parent, daemon=True).start()
    waitress.serve(api.application, host="127.0.0.1", port=port, threads=8)


if __name__ == "__main__":
    main()
