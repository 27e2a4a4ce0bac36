"""A CDash in this process that takes what is documented of submissions, and nothing else.

A group is made, then reports are put into it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree import ElementTree as ET

from fake_service import Handler, RefusedError, Service, running

__all__ = ["PROJECT", "FakeCDash", "fake_cdash"]

PROJECT = "Tiny Stacks"


class FakeCDash(Service):
    def __init__(self, token: str, group: str) -> None:
        super().__init__(_Handler)
        self.token = token
        self.group = group


@contextmanager
def fake_cdash(token: str, group: str) -> Iterator[FakeCDash]:
    server = FakeCDash(token, group)
    with running(server):
        yield server


class _Handler(Handler):
    server: FakeCDash

    def route(self) -> None:
        asked = self.asked
        if asked.headers.get("Authorization") != f"Bearer {self.server.token}":
            raise RefusedError(401, {}, "no token")
        if (asked.method, asked.path) == ("POST", "/api/v1/buildgroup.php"):
            wanted = {"newbuildgroup": self.server.group, "project": PROJECT, "type": "Daily"}
            if json.loads(asked.body) != wanted:
                raise RefusedError(422, {}, "not a build group")
            self.json(200, {"id": 5})
        elif (asked.method, asked.path) == ("PUT", "/submit.php"):
            given = asked.parameters
            if set(given) != {"project", "build", "site", "stamp", "MD5"}:
                raise RefusedError(400, {}, "not these parameters")
            if hashlib.md5(asked.body, usedforsecurity=False).hexdigest() != given["MD5"]:
                raise RefusedError(400, {}, "another checksum")
            ET.fromstring(asked.body)  # noqa: S314 - what Spack wrote just now
            self.answer(200, b"<cdash><status>OK</status><buildId>9</buildId></cdash>", {})
        else:
            raise RefusedError(404, {}, "no such page")
