"""``mirror.doctor``: prove what a mirror can do for us, in plain words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from stackyard.diagnosis import (
    Finding,
    index_finding,
    key_findings,
    layout_finding,
    root_finding,
    signature_finding,
    signer_finding,
    skew_finding,
)
from stackyard.edges import console
from stackyard.errors import ConfigError, NotFoundError, StackyardError, StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stackyard.binary import Binary
    from stackyard.edges.stores.access import Place
    from stackyard.edges.stores.store import Store
    from stackyard.flow.steps import Project
    from stackyard.flow.trust import Keys
    from stackyard.mirror import Layout

__all__ = ["examine"]

#: So many binaries are looked at for signatures, and so many tarballs for their paths.
_SAMPLE = 32
_TARBALLS = 8

Result = TypeVar("Result")


class _Visit(NamedTuple):
    """A mirror that is being looked at; ``keys`` is what ``--keys`` said."""

    project: Project | None
    place: Place
    store: Store
    keys: str


def examine(
    *, url: str = "", keys: str = "", read_only: bool = False, as_json: bool = False
) -> None:
    """Print the findings. Raises StoreError (6) if one is a problem."""
    from stackyard.flow.places import find_project, named_place

    project = find_project()
    place, unset = named_place(project, url, flag="--url"), ""
    if not read_only:
        try:
            place = named_place(project, url, flag="--url", push=True)
        except ConfigError as error:  # all there is to say of reading is worth saying
            unset = f"{error.where}: {error.message}"
    findings = []
    for finding in _findings(project, place, keys, unset, read_only=read_only):
        findings.append(finding)
        if not as_json:
            console.out(console.printable(finding.line()))
    if as_json:
        import json

        text = json.dumps([finding.as_dict() for finding in findings], indent=2)
        console.out(console.printable(text))
    if problems := sum(finding.state == "problem" for finding in findings):
        raise StoreError(f"{problems} of {len(findings)} checks found a problem", where=place.shown)


def _findings(
    project: Project | None, place: Place, keys: str, unset: str, *, read_only: bool
) -> Iterator[Finding]:
    """All of them; ``unset`` says which credentials for writing are not there."""
    from stackyard.edges.mirrors.probing import credentials
    from stackyard.edges.settings import Environment

    try:
        store = place.open()
        source = credentials(place, Environment.snapshot())
    except StackyardError as error:
        yield _problem("url", error)
        return
    with closing(store):
        yield Finding("url", "ok", _kind(store.url))
        if unset:
            hint = "set it where this runs, never in the file; --read-only does without"
            yield Finding("credentials", "problem", unset, hint)
        else:
            yield Finding("credentials", "ok", source)
        visit = _Visit(project, place, store, keys)
        start = time.monotonic()
        layouts, trouble = _tried("reach", lambda: _layouts(store))
        if layouts is None:
            yield trouble
            return
        yield Finding("reach", "ok", f"answers in {time.monotonic() - start:.2f} s")
        yield layout_finding(layouts)
        for layout in layouts:
            yield from _layout_findings(visit, layout)
        if unset:
            yield Finding("write", "unknown", "not tried without these credentials")
            return
        yield from _write_findings(visit, read_only=read_only)


def _layouts(store: Store) -> tuple[Layout, ...]:
    from stackyard.edges.mirrors.contents import held_layouts

    return held_layouts(store)


def _kind(url: str) -> str:
    scheme = url.partition("://")[0]
    kinds = {
        "file": "a folder",
        "http": "a web server, which can only be read",
        "https": "a web server, which can only be read",
        "s3": "a bucket on S3",
        "gs": "a bucket on Google Cloud Storage",
        "oci": "a repository in a registry",
        "oci+http": "a repository in a registry, without TLS",
    }
    return f"{url}: {kinds[scheme]}"


def _tried(check: str, step: Callable[[], Result]) -> tuple[Result | None, Finding]:
    """The step's result, or else the finding that its error makes."""
    try:
        return step(), Finding(check, "ok", "")
    except StackyardError as error:
        return None, _problem(check, error)


def _problem(check: str, error: StackyardError) -> Finding:
    where = f"{error.where}: " if error.where else ""
    return Finding(check, "problem", f"{where}{error.message}", error.hint)


def _layout_findings(visit: _Visit, layout: Layout) -> Iterator[Finding]:
    from stackyard.edges.mirrors.contents import can_list, manifest_entries
    from stackyard.edges.mirrors.padding import sample_binaries

    store = visit.store
    entries, trouble = _tried("list", lambda: [key for key, _ in manifest_entries(store, layout)])
    if entries is None:
        yield trouble
        return
    listing = can_list(store)
    if listing:
        yield Finding("list", "ok", f"{len(entries)} manifests in {_name(layout)}")
    sample, trouble = _tried("read", lambda: sample_binaries(store, layout, _SAMPLE))
    if sample is None:
        look = "see how much is broken: stackyard mirror.verify"
        yield trouble._replace(hint=trouble.hint or look)
        return
    if sample:
        yield Finding("read", "ok", f"{len(sample)} manifests can be read")
    yield _index(visit, layout, entries if listing else None)
    if not sample:
        return
    signed = [binary.signed for binary in sample]
    yield signature_finding(signed, layout, wanted=visit.place.signed)
    if layout == "oci":
        yield from _image_signers(visit, [one for one in sample if one.signed])
    else:
        yield from _key_findings(visit, layout, [one for one in sample if one.signed])
    yield _padding(store, layout, sample)


def _name(layout: Layout) -> str:
    return "the registry" if layout == "oci" else f"layout {layout}"


def _index(visit: _Visit, layout: Layout, entries: list[str] | None) -> Finding:
    from stackyard.edges.mirrors.indexing import read_index

    def look() -> Finding:
        view = read_index(visit.store, layout)
        if view is None:
            return index_finding(layout, None, entries, "")
        named = [key for key, _, present in view.nodes() if present]
        version = f"nodes of specfile version {view.specfile}"
        return index_finding(layout, named, entries, version)

    finding, trouble = _tried(f"index of {_name(layout)}", look)
    remake = "make it anew: stackyard mirror.index --full"
    return finding or trouble._replace(hint=trouble.hint or remake)


def _key_findings(visit: _Visit, layout: Layout, signed: list[Binary]) -> Iterator[Finding]:
    from stackyard.edges.mirrors.contents import can_list
    from stackyard.edges.mirrors.others import key_list, listed_keys

    named, trouble = _tried("keys", lambda: (key_list(visit.store, layout),))
    if named is None:
        yield trouble
        return
    there = named[0] or frozenset()
    if can_list(visit.store):
        keys, trouble = _tried("keys", lambda: listed_keys(visit.store, layout))
        if keys is None:
            yield trouble
            return
        there = keys
    ours, trouble = _tried("trust", lambda: (_ours(visit) if there or signed else None,))
    if ours is None:
        yield trouble
    trusted = ours[0] if ours else None
    yield from key_findings(there, named[0], trusted, signed=bool(signed))
    if trusted and signed:
        finding, trouble = _tried("signers", lambda: _signers(visit, signed, trusted))
        yield finding or trouble


def _image_signers(visit: _Visit, signed: list[Binary]) -> Iterator[Finding]:
    """Who signed images. A registry has no public keys, so that only ours can tell."""
    if not signed:
        return
    ours, trouble = _tried("trust", lambda: (_ours(visit),))
    if ours is None:
        yield trouble
    elif ours[0]:
        trusted = ours[0]
        finding, trouble = _tried("signers", lambda: _signers(visit, signed, trusted))
        yield finding or trouble
    else:
        hint = "put the public keys into stacks/NAME/keys/, or name them: --keys"
        yield Finding("signers", "unknown", "there are no keys to check the signatures with", hint)


def _keys(visit: _Visit) -> Keys:
    from stackyard.flow.trust import find_keys
    from stackyard.settings import Settings, make_settings

    settings = make_settings(visit.project.settings) if visit.project else Settings()
    return find_keys(visit.project, None, settings, visit.keys)


def _ours(visit: _Visit) -> Mapping[str, str] | None:
    """User ids of the keys that we trust, by fingerprint; None without any."""
    from stackyard.edges.gpg import open_keyring

    found = _keys(visit)
    if not found.keys:
        return None
    with open_keyring(found.keys, found.allowed) as keyring:
        return {
            name: f"{key.user_id}, {key.state}" if key.state else key.user_id
            for name, key in keyring.keys.items()
        }


def _signers(visit: _Visit, signed: list[Binary], ours: Mapping[str, str]) -> Finding:
    from stackyard.flow.trust import check_signatures

    checked = check_signatures(signed, visit.store.url, _keys(visit))
    by_hash = {binary.hash: binary.key for binary in signed}
    return signer_finding(
        {by_hash[dag_hash]: why for dag_hash, why in checked.problems.items()},
        {by_hash[dag_hash]: ours.get(name, name) for dag_hash, name in checked.signers.items()},
    )


def _padding(store: Store, layout: Layout, sample: tuple[Binary, ...]) -> Finding:
    from stackyard.edges.mirrors.padding import root_of

    def look() -> Finding:
        roots = []
        for binary in sample[:: max(len(sample) // _TARBALLS, 1)][:_TARBALLS]:
            try:
                roots.append(root_of(store, binary))
            except NotFoundError:
                return Finding(
                    "tarballs",
                    "problem",
                    f"{binary.tarball.key} is not there",
                    "see how much is missing: stackyard mirror.verify",
                )
        return root_finding(roots, layout)

    finding, trouble = _tried("padding", look)
    return finding or trouble


def _write_findings(visit: _Visit, *, read_only: bool) -> Iterator[Finding]:
    from stackyard.edges.mirrors.probing import clock_url, http_skew, probe
    from stackyard.edges.settings import Environment
    from stackyard.edges.stores.store import is_writable

    if read_only or not is_writable(visit.store):
        if url := clock_url(visit.place, Environment.snapshot()):
            yield skew_finding(http_skew(url), "the date of the server's answer")
        why = "not tried (--read-only)" if read_only else "a web server can only be read"
        yield Finding("write", "unknown" if read_only else "ok", why)
        return
    yield from probe(visit.store)
