"""A git repository that looks like Spack, for tests that need only its ways: small and quick.

Its ``concretize`` takes ``answer.lock`` of the environment for what a solver would find.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["spack_files"]

_PROGRAM = '''#!/usr/bin/env python3
"""Knows: --version, location --repo NAME, [-C SCOPE] [-e ENV] concretize --force."""
import json, os, subprocess, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
arguments = sys.argv[1:]
scope = environment = None
while arguments and arguments[0] in ("-C", "-e"):
    option, value, *arguments = arguments
    scope, environment = (value, environment) if option == "-C" else (scope, Path(value))
git = ["git", "-C", str(root), "rev-parse", "HEAD"]
commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
if arguments == ["--version"]:
    print(f"1.1.0 ({commit})" if commit else "1.1.0")
elif arguments[:2] == ["location", "--repo"]:
    print(root / ".pinned" / "packages" / "repos")
elif arguments == ["concretize", "--force"]:
    print("==> Concretizing with", sorted(k for k in os.environ if k.startswith("SPACK_")))
    print("==> Scope:", (Path(scope) / "config.yaml").read_text() if scope else None)
    lines = (environment / "script").read_text() if (environment / "script").exists() else ""
    exec(lines)
    lock = json.loads((environment / "answer.lock").read_text())
    lock["spack"] = {"version": "1.1.0", "type": "git", "commit": commit}
    (environment / "spack.lock").write_text(json.dumps(lock))
else:
    sys.exit(f"==> Error: no such command: {arguments}")
'''

_SETUP = """# A shell that stops at unset variables would stop here, as in the real file.
if [ -n "$NOBODY_SETS_THIS" ]; then return 1; fi
PATH="$SPACK_ROOT/bin:$PATH"
export PATH
spack() { command spack "$@"; }
"""


def spack_files(packages: str = "", ref: str = "main", **others: str) -> Mapping[str, str]:
    """Contents by path; ``packages`` is the repository that its own defaults name."""
    files = {
        "bin/spack": _PROGRAM,
        "share/spack/setup-env.sh": _SETUP,
        ".gitignore": "__pycache__/\n/opt\n",
        "lib/text": "as it should be\n",
        **others,
    }
    if packages:
        text = f"repos:\n  builtin:\n    git: {packages}\n    branch: {ref}\n"
        files["etc/spack/defaults/base/repos.yaml"] = text
    return files
