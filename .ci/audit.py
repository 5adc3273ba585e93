"""Run pip-audit on the pins of constraints.txt. Exit 1 for a known vulnerability; offline say so and exit 0.

A service that cannot be reached, or a mirror without advisories, has audited nothing. pip-audit then reports "No known
vulnerabilities found". This script says that it skipped.
"""

import json
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).parents[1] / "constraints.txt"


def main() -> int:
    command = [sys.executable, "-m", "pip_audit", "-r", str(PINS), "--no-deps", "--disable-pip"]
    done = subprocess.run(
        [*command, "--progress-spinner", "off", "--format", "json"], capture_output=True, text=True
    )
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = (done.stderr.strip().splitlines() or ["pip-audit printed nothing"])[-1]
        print(f"audit: skipped, the advisories cannot be reached ({reason[:200]})")
        return 0
    return told(found)


def told(found: list[dict]) -> int:
    """Print the findings of an audit and return the exit code."""
    audited = [one for one in found if "skip_reason" not in one]
    if not audited:
        print(f"audit: skipped, the service knows none of the {len(found)} pins")
        return 0
    bad = [(one, advisory) for one in audited for advisory in one["vulns"]]
    for one, advisory in bad:
        fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
        print(f"{one['name']} {one['version']}: {advisory['id']}, fixed in {fixed}")
    unknown = [one["name"] for one in found if "skip_reason" in one]
    print(
        f"audit: {len(bad)} known vulnerabilities in {len(audited)} pins"
        + (f"; not audited: {', '.join(unknown)}" if unknown else "")
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
