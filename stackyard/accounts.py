"""A user added to a system's files, as ``useradd --create-home --user-group`` does it.

Only bytes are handled here: those of the base image's files in, those of ours out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from stackyard.image import File, User

__all__ = ["FILES", "SKELETON", "add_user"]

#: What has to be known of a base.
FILES = ("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow")
#: What new homes begin with.
SKELETON = "etc/skel/"


def add_user(base: Mapping[str, File], user: User) -> tuple[File, ...]:
    """What changes. ``base`` are the files of ``FILES`` that there are, and those of the skeleton.

    Another user with the same number goes, with its group, its home, and its place in other groups:
    some bases bring one.
    Passwords are locked. A base that has the user stays as it is.
    """
    passwd = _lines(base, "etc/passwd")
    if any(line.startswith(f"{user.name}:") for line in passwd):
        return ()
    others = [line for line in passwd if _is_other(line, user)]
    gone = {line.split(":")[0] for line in others}
    number = str(user.number)
    added = {
        "etc/passwd": f"{user.name}:x:{number}:{number}::{user.home}:{user.shell}",
        "etc/group": f"{user.name}:x:{number}:",
        "etc/shadow": f"{user.name}:!::0:99999:7:::",
        "etc/gshadow": f"{user.name}:!::",
    }
    files = [
        _file(base, path, [*_without(path, _lines(base, path), gone, user.name), line])
        for path, line in added.items()
        if path in base or path in FILES[:2]
    ]
    homes = {line.split(":")[5].strip("/") for line in others if line.count(":") >= 6}
    removed = [
        File(f"{folder}/.wh.{name}", b"")
        for folder, _, name in (home.rpartition("/") for home in sorted(homes))
        if folder == "home"
    ]
    owner, home = (user.number, user.number), user.home.strip("/")
    own = [
        file._replace(path=f"{home}/{path[len(SKELETON) :]}", owner=owner)
        for path, file in sorted(base.items())
        if path.startswith(SKELETON)
    ]
    return (*files, *removed, File(home, None, 0o755, owner), *own)


def _is_other(line: str, user: User) -> bool:
    parts = line.split(":")
    return len(parts) > 2 and parts[2] == str(user.number) and parts[0] != user.name


def _lines(base: Mapping[str, File], path: str) -> list[str]:
    content = base[path].content if path in base else b""
    text = content.decode("utf-8", "surrogateescape") if isinstance(content, bytes) else ""
    return [line for line in text.splitlines() if line]


def _without(path: str, lines: Sequence[str], gone: Collection[str], name: str) -> list[str]:
    """The lines of others, which name nobody who is gone."""
    left = [line for line in lines if line.split(":")[0] not in {*gone, name}]
    if path not in ("etc/group", "etc/gshadow"):
        return left
    parted = (line.rpartition(":") for line in left)
    return [
        f"{before}:{','.join(one for one in members.split(',') if one not in gone)}"
        for before, _, members in parted
    ]


def _file(base: Mapping[str, File], path: str, lines: Sequence[str]) -> File:
    data = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    return base[path]._replace(content=data) if path in base else File(path, data)
