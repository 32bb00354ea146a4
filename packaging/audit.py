"""Report known vulnerabilities of the pinned packages: ``python audit.py LOCK…``, with pip-audit.

The exit code is 1 if there are any. If the vulnerability data cannot be reached, a message is
printed and the exit code is 0, so that builds do not depend on it.
"""

from __future__ import annotations

import json
import subprocess
import sys


def main() -> int:
    """Run pip-audit on the lock files; it reads versions from them and installs nothing."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes"]
    command += ["--progress-spinner", "off", "--timeout", "20", "--format", "json"]
    for lock in sys.argv[1:]:
        command += ["--requirement", lock]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        packages = []
    audited = {one["name"]: one["vulns"] for one in packages if "vulns" in one}
    if not audited:
        reasons = [one["skip_reason"] for one in packages] or done.stderr.strip().splitlines()[-1:]
        print(
            "Cannot look for vulnerabilities: the data of the Python Package Index cannot be"
            f" reached ({', '.join(reasons[:1])}). Run 'make audit' on another machine.",
            file=sys.stderr,
        )
        return 0
    for one in packages:
        if "vulns" not in one:
            print(f"{one['name']} was not checked: {one['skip_reason']}", file=sys.stderr)
        for found in one.get("vulns", ()):
            fixed = ", ".join(found["fix_versions"]) or "no version"
            print(f"{one['name']} {one['version']}: {found['id']}, fixed in {fixed}")
    print(f"{len(audited)} packages checked, {sum(map(bool, audited.values()))} vulnerable")
    return int(any(audited.values()))


if __name__ == "__main__":
    sys.exit(main())
