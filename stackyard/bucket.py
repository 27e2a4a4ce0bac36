"""What S3 and those who speak like it say in XML: listings, errors, uploads in parts.

Shapes are those of the Amazon S3 API Reference (ListObjectsV2, "Error Responses",
CreateMultipartUpload, CompleteMultipartUpload); Google's XML API gives the same and adds
``Generation``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime  # noqa: TID251 - reads a date, does not ask for one
from typing import NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

from stackyard.errors import UnreachableError

__all__ = [
    "Fault",
    "Item",
    "Page",
    "dump_parts",
    "parse_fault",
    "parse_page",
    "parse_upload_id",
]


class Fault(NamedTuple):
    """An error document: its code, such as ``NoSuchKey``, and the region it points at; or empty."""

    code: str = ""
    region: str = ""


class Item(NamedTuple):
    """A key of a listing, as the service has it."""

    key: str
    size_bytes: int
    modified_s: float
    stamp: str


class Page(NamedTuple):
    """A part of a listing; ``token`` asks for the next, and is empty on the last."""

    items: tuple[Item, ...]
    token: str


def parse_fault(body: bytes) -> Fault:
    """The code of an error document; an empty one for any other bytes."""
    if b"<Error" not in body[:512]:
        return Fault()
    try:
        root = ET.fromstring(body)  # noqa: S314 - expat refuses bombs
    except ET.ParseError:
        return Fault()
    # Codes and regions are shown to people: what is not of their form is not.
    return Fault(_word(_text(root, "Code")), _word(_text(root, "Region")))


def parse_page(body: bytes, where: str) -> Page:
    """A page of ListObjectsV2. Raises UnreachableError for what is none, or breaks off."""
    try:
        root = ET.fromstring(body)  # noqa: S314 - expat refuses bombs
        space = _space(root)
        quoted = _text(root, "EncodingType") == "url"
        items = tuple(_item(found, space, quoted=quoted) for found in root.iter(f"{space}Contents"))
    except (ET.ParseError, ValueError):
        raise UnreachableError("the answer is not the listing of a bucket", where=where) from None
    if _text(root, "IsTruncated") != "true":
        return Page(items, "")
    token = _text(root, "NextContinuationToken")
    if not token:  # what old services say, which know the first form of listings alone
        raise UnreachableError(
            "the listing goes on, and does not say where: the service knows no ListObjectsV2",
            where=where,
        )
    return Page(items, token)


def parse_upload_id(body: bytes, where: str) -> str:
    """The name of an upload in parts. Raises UnreachableError for any other answer."""
    try:
        name = _text(ET.fromstring(body), "UploadId")  # noqa: S314 - expat refuses bombs
    except ET.ParseError:
        name = ""
    if not name:
        raise UnreachableError("the answer names no upload", where=where)
    return name


def dump_parts(tags: Sequence[str]) -> bytes:
    """The document that completes an upload: the ETags of its parts in order."""
    root = ET.Element("CompleteMultipartUpload")
    for number, tag in enumerate(tags, 1):
        part = ET.SubElement(root, "Part")
        ET.SubElement(part, "PartNumber").text = str(number)
        ET.SubElement(part, "ETag").text = tag
    return ET.tostring(root)


def _space(root: ET.Element) -> str:
    """The namespace of a listing, as ElementTree writes it. Raises ValueError if it is none."""
    space, brace, name = root.tag.rpartition("}")
    if name != "ListBucketResult":
        raise ValueError(root.tag)
    return space + brace


def _item(found: ET.Element, space: str, *, quoted: bool) -> Item:
    value = {child.tag[len(space) :]: child.text or "" for child in found}
    key = value.get("Key", "")
    return Item(
        unquote_plus(key) if quoted else key,
        int(value.get("Size", "0")),
        _seconds(value.get("LastModified", "")),
        value.get("Generation", "") or value.get("ETag", "").strip('"'),
    )


def _seconds(text: str) -> float:
    """Seconds since the epoch of ``2026-11-21T08:00:00.000Z``; 0.0 where there is no date."""
    if not text:
        return 0.0
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(?:Z|\+00:00)", text)
    if not match:
        raise ValueError(text)
    whole = datetime.fromisoformat(f"{match[1]}+00:00").timestamp()
    return whole + float(f"0.{match[2] or 0}")


def _text(root: ET.Element, name: str) -> str:
    """The text of a child, whatever its namespace; empty where there is none."""
    for child in root:
        if child.tag.rpartition("}")[2] == name:
            return (child.text or "").strip()
    return ""


def _word(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text) else ""
