"""What a doctor says of a mirror: findings in plain words, and what follows from what was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from stackyard.mirror import Layout
from stackyard.padding import Root

__all__ = [
    "Finding",
    "State",
    "index_finding",
    "key_findings",
    "layout_finding",
    "root_finding",
    "signature_finding",
    "signer_finding",
    "skew_finding",
]

State = Literal["ok", "warning", "problem", "unknown"]

#: S3 refuses what is signed at a time that is further off (``RequestTimeTooSkewed``).
_LARGEST_SKEW_S = 900.0
_SKEW_S = 60.0


class Finding(NamedTuple):
    """One check and what came of it; ``hint`` says what to do."""

    check: str
    state: State
    text: str
    hint: str = ""

    def line(self) -> str:
        tail = f"\n           {self.hint}" if self.hint else ""
        return f"{self.state:<8} {self.check}: {self.text}{tail}"

    def as_dict(self) -> dict[str, Any]:
        return self._asdict()


def layout_finding(layouts: Sequence[Layout]) -> Finding:
    """What may lie on a mirror: nothing, one layout, or two."""
    check = "layouts"
    if not layouts:
        return Finding(
            check, "warning", "nothing is there yet", "is the URL right? else push something"
        )
    names: dict[Layout, str] = {
        3: "layout 3 (Spack 1.0 and newer)",
        2: "layout 2 (Spack 0.22 and 0.23)",
        "oci": "images of a registry",
    }
    text = " and ".join(names[one] for one in layouts)
    if len(layouts) == 1:
        return Finding(check, "ok", text)
    return Finding(
        check,
        "warning",
        text,
        "two kinds of Spack write here, and the older one does not see what the newer one pushes",
    )


def skew_finding(skew_s: float | None, source: str) -> Finding:
    """How far our clock and that of the place are apart, in seconds; None: it does not tell."""
    check = "clock"
    if skew_s is None:
        return Finding(check, "unknown", "the place does not tell its time")
    text = f"{abs(skew_s):.0f} s apart ({source})"
    if abs(skew_s) > _LARGEST_SKEW_S:
        return Finding(check, "problem", text, "set this machine's clock: signatures fail so")
    if abs(skew_s) > _SKEW_S:
        return Finding(check, "warning", text, "set this machine's clock: ages are wrong so")
    return Finding(check, "ok", text)


def index_finding(
    layout: Layout, named: Iterable[str] | None, there: Iterable[str] | None, version: str
) -> Finding:
    """An index beside what is there, as DAG hashes; ``there`` is None where nobody can list."""
    check = f"index of {_layout_name(layout)}"
    remake = "bring it up to date: stackyard mirror.index"
    if named is None:
        state: State = "warning" if there is None or any(True for _ in there) else "ok"
        return Finding(check, state, "there is none", remake if state == "warning" else "")
    known = frozenset(named)
    if there is None:
        return Finding(check, "ok", f"names {len(known)} binaries, {version}")
    present = frozenset(there)
    parts = []
    if lacking := present - known:
        parts.append(f"lacks {len(lacking)} of {len(present)} binaries")
    if gone := known - present:
        parts.append(f"names {len(gone)} that are not there")
    if parts:
        return Finding(check, "problem" if gone else "warning", " and ".join(parts), remake)
    return Finding(check, "ok", f"names all {len(known)} binaries, {version}")


def _layout_name(layout: Layout) -> str:
    return "the registry" if layout == "oci" else f"layout {layout}"


def signature_finding(signed: Sequence[bool], layout: Layout, *, wanted: bool | None) -> Finding:
    """Who of a sample is signed; ``wanted`` is what the mirror's entry says, None without one."""
    check = f"signatures in {_layout_name(layout)}"
    count = sum(signed)
    if layout == "oci":
        return _image_finding(check, count, len(signed), wanted=bool(wanted))
    text = f"{count} of {len(signed)} binaries looked at are signed"
    if 0 < count < len(signed):
        hint = "Spack takes the others for missing: sign them, or push them anew"
        return Finding(check, "problem" if wanted else "warning", text, hint)
    if wanted and not count:
        hint = "say signed: false in the mirror's entry, or sign what is pushed"
        return Finding(check, "problem", text, hint)
    return Finding(check, "ok", text)


def _image_finding(check: str, count: int, total: int, *, wanted: bool) -> Finding:
    """The same of images: Spack neither signs nor verifies them, so only we miss anything."""
    if not count and not wanted:
        return Finding(check, "ok", "nothing is signed, and Spack wants no signatures there")
    text = f"{count} of {total} images looked at are signed, for our tasks: Spack ignores that"
    if count == total:
        return Finding(check, "ok", text)
    hint = "push them anew with SPACK_SIGNING_KEY set and --force"
    if wanted:
        return Finding(check, "problem", text, f"{hint}; or say signed: false in its entry")
    return Finding(check, "warning", text, hint)


def key_findings(
    there: Iterable[str],
    listed: Iterable[str] | None,
    ours: Mapping[str, str] | None,
    *,
    signed: bool,
) -> Iterable[Finding]:
    """Public keys as fingerprints: on the mirror, in its list of keys (None: none), and trusted.

    ``ours`` are those that we trust with their user ids; None where nobody could tell.
    """
    keys = frozenset(there)
    if not keys:
        if signed:
            yield Finding(
                "keys",
                "warning",
                "there are signatures and no public key",
                "give others the key: stackyard keys.publish",
            )
        else:
            yield Finding("keys", "ok", "there are none, and nothing is signed")
        return
    missing = keys - frozenset(listed or ())
    if listed is None or missing:
        text = f"{len(keys)} on the mirror, {len(missing)} of them not in its list of keys"
        yield Finding("keys", "warning", text, "Spack finds no others: stackyard mirror.index")
    else:
        yield Finding("keys", "ok", f"{len(keys)} on the mirror, all in its list of keys")
    yield _trust_finding(keys, ours)


def _trust_finding(keys: frozenset[str], ours: Mapping[str, str] | None) -> Finding:
    names = ", ".join(sorted(key[-16:] for key in keys))
    if ours is None:
        return Finding("trust", "unknown", "no keys of our own to compare them with", "see --keys")
    if known := keys & ours.keys():
        text = ", ".join(f"{ours[key]} ({key[-16:]})" for key in sorted(known))
        if keys <= ours.keys():
            return Finding("trust", "ok", f"ours: {text}")
        return Finding("trust", "warning", f"ours: {text}; not all of {names} are")
    return Finding(
        "trust",
        "warning",
        f"none of the mirror's keys is one that we trust: {names}",
        "look at it and trust it: stackyard keys.trust",
    )


def signer_finding(problems: Mapping[str, str], signers: Mapping[str, str]) -> Finding:
    """What our keys say of a sample's signatures.

    ``problems`` are reasons by the key of a manifest, ``signers`` user ids by that of one that holds.
    """
    check = "signers"
    total = len(problems) + len(signers)
    if problems:
        key, why = next(iter(problems.items()))
        return Finding(
            check,
            "problem",
            f"{len(problems)} of {total} signatures looked at do not count, such as {key}: {why}",
            "nobody with these keys can fetch them: stackyard mirror.verify tells which they are",
        )
    names = ", ".join(sorted(set(signers.values())))
    return Finding(check, "ok", f"all {total} signatures looked at are by {names}")


def root_finding(roots: Sequence[Root | None], layout: Layout) -> Finding:
    """Whether the binaries of a sample were all built into install trees of the same padding."""
    check = f"padding in {_layout_name(layout)}"
    known = [root for root in roots if root]
    if not known:
        return Finding(check, "unknown", "no tarball tells where it was installed")
    counts = Counter(root.padding for root in known)
    if len(counts) > 1:
        text = ", ".join(
            f"{count} {'padded to ' + str(padding) if padding else 'not padded'}"
            for padding, count in sorted(counts.items())
        )
        return Finding(
            check,
            "problem",
            f"mixed: {text}",
            "some install only into short paths: build all with one padded_length, and push anew",
        )
    padding = known[0].padding
    if padding:
        return Finding(check, "ok", f"all {len(known)} looked at are padded to {padding}")
    shortest = min(known, key=lambda root: root.path_length)
    return Finding(
        check,
        "ok",
        f"none of {len(known)} looked at is padded; the shortest tree is {shortest.path} "
        f"({shortest.path_length} characters): longer ones cannot take binaries that hold paths",
    )
