"""Push a commit to a repository elsewhere, with a token that nobody sees, or as ssh knows how."""

from __future__ import annotations

import signal
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

from stackyard.edges.process import Output, run
from stackyard.edges.settings import conceal
from stackyard.errors import ConfigError, ToolError
from stackyard.url import split_url

__all__ = ["commit_of", "has_ref", "push"]

_LONGEST_S = 1800.0
_TRIES = 3
#: GitLab takes any user beside an access token (its "Clone using a token").
_USER = "oauth2"
_HINTS = (
    (
        "shallow",
        "the clone lacks history: fetch all of it (actions/checkout: fetch-depth: 0)",
    ),
    (
        "protected branch",
        "GitLab protects the branch: allow the token's user to push, or name another with --ref",
    ),
    ("non-fast-forward", "GitLab has commits that are not here; --force replaces them"),
    ("fetch first", "GitLab has commits that are not here; --force replaces them"),
    (
        "Authentication failed",
        "is the token one of this server, with the scope write_repository (or api)?",
    ),
    (
        "could not read Username",
        "GitLab wants a token, or another one: GITLAB_TOKEN, with the scope write_repository",
    ),
    ("Permission denied (publickey", "load the key into ssh-agent, or set GITLAB_TOKEN"),
    ("Host key verification failed", "put the server's key into ~/.ssh/known_hosts"),
    ("push options", "the server takes no push options, and GitLab does: is --remote right?"),
)


def has_ref(folder: Path, ref: str) -> bool:
    """Whether there is this full ref: ``refs/tags/v1``."""
    return run(["git", "-C", str(folder), "show-ref", "--verify", "--quiet", ref]).code == 0


def commit_of(folder: Path, revision: str) -> str:
    """The commit of a revision. Raises ConfigError if there is none."""
    output = run(
        [
            *("git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "--end-of-options"),
            f"{revision}^{{commit}}",
        ]
    )
    if output.code:
        raise ConfigError(
            f"git knows no revision {revision!r}",
            where="--commit",
            hint="run this in a clone of the repository, and fetch the revision first",
        )
    return output.stdout.decode().strip()


def push(  # noqa: PLR0913 - passed by name
    folder: Path,
    *,
    source: str,
    remote: str,
    ref: str,
    token: str,
    force: bool,
    env: Mapping[str, str],
) -> None:
    """Make a full ref on the remote this commit, or this tag; no pipeline starts from the push.

    The token goes to http(s) remotes by git's configuration in the environment of git alone.
    Raises ToolError saying what the server answered.
    """
    place = split_url(remote)
    web = place.scheme in ("http", "https")
    if web and "@" in place.netloc:
        raise ConfigError(
            "a URL may hold no password: others see it in the list of processes",
            where="--remote",
            hint="set GITLAB_TOKEN",
        )
    lease = ["--force"] if force else []
    argv = ["git", "-C", str(folder), "push", "--no-verify", *lease, "--push-option=ci.skip"]
    settings = {"http.followRedirects": "false"}
    if token and web:
        word = b64encode(f"{_USER}:{token}".encode()).decode()
        conceal(token, word)
        settings |= {
            # Nobody else is asked for a password, and nobody keeps this one.
            "credential.helper": "",
            f"http.{place.scheme}://{place.netloc}/.extraHeader": f"Authorization: Basic {word}",
        }
    output = _pushed(
        [*argv, "--", remote, f"{source}:{ref}"],
        {**env, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", **_settings(settings, env)},
    )
    if output.code:
        lines = [line for line in output.stderr.splitlines() if line.strip()]
        hints = (hint for mark, hint in _HINTS if mark.lower() in output.stderr.lower())
        raise ToolError(
            "git push failed: " + " | ".join(line.strip() for line in lines[-6:]),
            where=remote,
            hint=next(hints, ""),
        )


def _pushed(argv: Sequence[str], env: Mapping[str, str]) -> Output:
    """What git said. Now and then it writes to a server that has hung up, and ends without a word.

    The same push again changes nothing that the first one did.
    """
    output = run(argv, env=env, timeout_s=_LONGEST_S)
    for _ in range(_TRIES):
        if output.code != -signal.SIGPIPE:
            break
        output = run(argv, env=env, timeout_s=_LONGEST_S)
    return output


def _settings(settings: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """Git's configuration in the environment, after what is there already."""
    count = env.get("GIT_CONFIG_COUNT", "")
    first = int(count) if count.isdecimal() else 0
    made = {"GIT_CONFIG_COUNT": str(first + len(settings))}
    for number, (key, value) in enumerate(settings.items(), first):
        made |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return made
