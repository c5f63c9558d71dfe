"""Known vulnerabilities of the packages in a file of requirements, by pip-audit.

Use: ``python .ci/audit.py PIP_AUDIT REQUIREMENTS``. Fails where there are any. pip-audit asks PyPI;
where that does not answer, or is a mirror without this data, the answer is that nothing is known of
these packages, and not that they have no vulnerability.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

UNREACHABLE = ("ConnectionError", "Could not connect", "Timeout", "NameResolutionError")


def run(pip_audit: str, requirements: str) -> list[dict[str, Any]] | None:
    """What pip-audit says of each package; None where its data cannot be reached.

    Raises:
        SystemExit: it failed for another reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = subprocess.run(
            [
                *(pip_audit, "--requirement", requirements, "--disable-pip"),
                *("--progress-spinner", "off", "--format", "json", "--output", str(report)),
            ],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if report.exists():
            return list(json.loads(report.read_text("utf-8"))["dependencies"])
    if any(word in done.stdout for word in UNREACHABLE):
        return None
    sys.exit(f"pip-audit failed:\n{done.stdout}")


def main(pip_audit: str, requirements: str) -> None:
    packages = run(pip_audit, requirements)
    asked = [package for package in packages or [] if "vulns" in package]
    if packages is None or not asked:
        print(f"{requirements}: not audited, the data about vulnerabilities cannot be reached")
        return
    for package in packages:
        if "vulns" not in package:
            print(f"{package['name']}: not audited: {package['skip_reason']}")
    lines = [
        f"{package['name']} {package['version']}: {vulnerability['id']}, "
        f"repaired in {', '.join(vulnerability['fix_versions']) or 'no version'}"
        for package in asked
        for vulnerability in package["vulns"]
    ]
    if lines:
        sys.exit("\n".join(lines))
    print(f"{requirements}: no known vulnerability in {len(asked)} packages")


if __name__ == "__main__":
    main(*sys.argv[1:])
