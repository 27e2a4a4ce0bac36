"""The pages of a site, out of templates that escape all they are given.

Links are relative, so that a site works below any path and from a folder. A page says nothing that
changes with what it is not about: ten new binaries are a change of few pages.
"""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING, Any

from stackyard.catalogue.content import Catalogue, Package
from stackyard.catalogue.documents import NEWEST, shards_of
from stackyard.catalogue.entries import Entry
from stackyard.catalogue.figures import Share
from stackyard.catalogue.names import day_number, day_text, plural, slug, time_text
from stackyard.catalogue.plots import Bar, Point, bars, curve
from stackyard.fetch import size_text
from stackyard.pattern import FLAGS

if TYPE_CHECKING:
    import jinja2

__all__ = ["Load", "assets", "letter_of", "page_files"]

#: Gives a template's text by name.
Load = Callable[[str], str | None]

#: Rows that stand in the page of all packages; more come with the search, and are in the letters.
_FIRST = 150
_TOP = 15
_FIRST_NEWS = 6
_FIRST_KINDS = 8

#: What HTML cannot hold, and half characters that no file can.
_ILLEGAL = re.compile("[^\t\n\r -\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]")


def assets(load: Load) -> Iterator[tuple[str, bytes]]:
    """Style and script: one file each, of parts that other pages have too."""
    parts = {"assets/site.css": ("base.css", "site.css"), "assets/site.js": ("site.js",)}
    for path, names in parts.items():
        yield path, "".join(load(f"site/{name}") or "" for name in names).encode()


def page_files(catalogue: Catalogue, load: Load) -> Iterator[tuple[str, bytes]]:
    """Path and content of each page, those of packages first."""
    pages = _Pages(catalogue, load)
    for package in catalogue.packages:
        yield f"packages/{slug(package.name)}.html", pages.package(package)
    yield from pages.letters()
    yield "new.html", pages.news()
    yield "feed.xml", pages.feed()
    yield "statistics.html", pages.statistics()
    yield "api.html", pages.render("api", title="For programs", up="")
    yield "index.html", pages.index()


class _Pages:
    def __init__(self, catalogue: Catalogue, load: Load) -> None:
        self._catalogue = catalogue
        self._environment = _environment(load)
        dressing = catalogue.dressing
        signed = {one.layout for one in catalogue.entries.values() if one.signed}
        self._environment.globals.update(
            site=dressing,
            signed=bool(signed - {"oci"}),  # in a registry Spack knows no signatures
            stamped="oci" in signed,
            has=catalogue.names.__contains__,
            slug=slug,
            size=_size,
            day=_day,
            plural=plural,
            quoted=quote,
        )

    def render(self, page: str, **values: Any) -> bytes:
        template = self._environment.get_template(f"site/{page}.html.j2")
        return template.render(values).encode()

    def package(self, package: Package) -> bytes:
        return self.render(
            "package",
            title=package.name,
            up="../",
            package=package,
            distinct=_distinct(package.entries),
            groups=_versions(package),
        )

    def index(self) -> bytes:
        packages = self._catalogue.packages
        figures = self._catalogue.figures
        return self.render(
            "index",
            title=self._catalogue.dressing.title,
            up="",
            packages=packages[:_FIRST],
            letters=self._letters() if len(packages) > _FIRST else {},
            figures=figures,
            count=len(packages),
            news=_distinct_news(self._catalogue.newest),
            shards=shards_of(self._catalogue),
            kinds=(
                ("system", "Platforms", figures.systems[:_FIRST_KINDS], len(figures.systems)),
                ("target", "Targets", figures.targets[:_FIRST_KINDS], len(figures.targets)),
            ),
            choices=(
                ("system", "Platform", _labels(figures.systems)),
                ("compiler", "Compiler", _labels(figures.compilers)),
                ("target", "Target", _labels(figures.targets)),
            ),
        )

    def _letters(self) -> Mapping[str, list[Package]]:
        found: dict[str, list[Package]] = {}
        for package in self._catalogue.packages:
            found.setdefault(letter_of(package.name), []).append(package)
        return dict(sorted(found.items()))

    def letters(self) -> Iterator[tuple[str, bytes]]:
        """All packages as plain tables, where the first page has not room for them."""
        if len(self._catalogue.packages) <= _FIRST:
            return
        letters = self._letters()
        for letter, packages in letters.items():
            page = self.render(
                "letter",
                title=f"Packages: {letter.upper()}",
                up="../",
                letter=letter,
                letters=letters,
                packages=packages,
            )
            yield f"letters/{letter}.html", page

    def news(self) -> bytes:
        newest = self._catalogue.newest
        days: dict[int, dict[tuple[str, ...], list[Entry]]] = {}
        for one in newest[:NEWEST]:
            alike = days.setdefault(day_number(one.added_s or 0), {})
            alike.setdefault((one.name, one.version, one.system, one.target), []).append(one)
        return self.render(
            "new",
            title="What is new",
            up="",
            days={day: list(alike.values()) for day, alike in days.items()},
            counts=Counter(day_number(one.added_s or 0) for one in newest),
            day_text=day_text,
        )

    def feed(self) -> bytes:
        """Atom. Its ids are made from hashes: they stay, wherever the site is."""
        newest = self._catalogue.newest[:NEWEST]
        url = self._catalogue.dressing.url
        template = self._environment.get_template("site/feed.xml.j2")
        text = template.render(
            feed=_urn(url),
            updated=time_text(newest[0].added_s or 0 if newest else 0),
            entries=[
                (_urn(f"{url}#{one.hash}"), time_text(one.added_s or 0), one) for one in newest
            ],
        )
        return text.encode()

    def statistics(self) -> bytes:
        figures = self._catalogue.figures
        plots: list[Mapping[str, Any]] = []
        if len(figures.growth) > 1:
            bytes_ = [Point(one.day, one.size_bytes) for one in figures.growth]
            counts = [Point(one.day, one.binaries) for one in figures.growth]
            growth = [
                (day_text(one.day), size_text(one.size_bytes), f"{one.binaries:,}")
                for one in figures.growth
            ]
            table = {"header": ("Day", "Size", "Binaries"), "rows": growth}
            if figures.size_bytes:
                title = "Growth of the size"
                picture = curve(bytes_, title, lambda value: size_text(value).replace(".0 ", " "))
                plots.append({"title": title, "picture": picture, **table})
            title = "Growth of the number of binaries"
            picture = curve(counts, title, lambda value: f"{value:,.0f}")
            plots.append({"title": title, "picture": picture, **table})
        kinds = (
            ("Largest packages", "Package", figures.packages[:_TOP] if figures.size_bytes else ()),
            ("Sizes of binaries", "Size", figures.sizes),
            ("Platforms", "Platform", figures.systems[:_TOP]),
            ("Targets", "Target", figures.targets[:_TOP]),
            ("Compilers", "Compiler", figures.compilers[:_TOP]),
        )
        plots += [_shares(title, what, shares) for title, what, shares in kinds if shares]
        return self.render(
            "statistics",
            title="Statistics",
            up="",
            figures=figures,
            count=len(self._catalogue.packages),
            plots=plots,
        )


def _shares(title: str, what: str, shares: Sequence[Share]) -> Mapping[str, Any]:
    """Bars of bytes for packages, of binaries for everything else."""
    in_bytes = what == "Package"
    drawn = [
        Bar(one.label, one.size_bytes, size_text(one.size_bytes))
        if in_bytes
        else Bar(one.label, one.binaries, f"{one.binaries:,}")
        for one in shares
    ]
    rows = [(one.label, size_text(one.size_bytes), f"{one.binaries:,}") for one in shares]
    header = (what, "Size", "Binaries")
    return {"title": title, "picture": bars(drawn, title), "header": header, "rows": rows}


def _urn(name: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, name).urn


def _distinct_news(newest: Sequence[Entry]) -> list[Entry]:
    """Of each version of a package one."""
    found: dict[tuple[str, str], Entry] = {}
    for one in newest:
        found.setdefault((one.name, one.version), one)
        if len(found) == _FIRST_NEWS:
            break
    return list(found.values())


def letter_of(name: str) -> str:
    """Under which letter a package stands."""
    first = name[0].lower()
    return first if first.isalpha() else "0-9"


def _labels(shares: Sequence[Share]) -> list[str]:
    return sorted(one.label for one in shares)


def _size(size_bytes: int | None) -> str:
    return "" if size_bytes is None else size_text(size_bytes)


def _day(seconds: int | None) -> str:
    return "" if seconds is None else day_text(day_number(seconds))


def _versions(package: Package) -> list[tuple[str, int, str]]:
    """Each version, how many binaries it has, and the hash of the first."""
    groups: dict[str, list[str]] = {}
    for one in package.entries:
        groups.setdefault(one.version, []).append(one.hash)
    return [(version, len(hashes), hashes[0]) for version, hashes in groups.items()]


def _distinct(entries: Sequence[Entry]) -> Mapping[str, str]:
    """By hash, the variants in which the binaries of a package differ: what people choose by.

    Of a single binary all of them.
    """
    values: dict[str, set[str]] = {}
    for one in entries:
        for name in one.variants:
            values.setdefault(name, set())
    for name, seen in values.items():
        seen.update(repr(one.variants.get(name)) for one in entries)
    differing = {name for name, seen in values.items() if len(seen) > 1 or len(entries) == 1}
    return {
        one.hash: " ".join(
            filter(
                None,
                (
                    one._replace(
                        variants={k: v for k, v in one.variants.items() if k in differing}
                    ).variant_text,
                    *(
                        f'{flag}="{" ".join(map(str, one.variants[flag]))}"'
                        for flag in sorted(FLAGS)
                        if flag in differing and one.variants.get(flag)
                    ),
                ),
            )
        )
        for one in entries
    }


def _clean(value: object) -> object:
    return _ILLEGAL.sub("\ufffd", value) if isinstance(value, str) else value


def _environment(load: Load) -> jinja2.Environment:
    import jinja2  # 60 ms that only rendering tasks pay

    def finalize(value: object) -> object:
        if hasattr(value, "__html__"):
            return value
        return _clean(value)

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(load),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
