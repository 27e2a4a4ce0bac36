"""Workflows for a cache of binaries: what of the project they need to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stackyard import __version__
from stackyard.cache_workflows import Cache, cache_values, shared_requirement
from stackyard.draw import github_name
from stackyard.edges import console
from stackyard.edges.stacks import list_stacks
from stackyard.errors import ConfigError
from stackyard.flow.draw import system_stacks, untargeted
from stackyard.flow.listing import spec_patterns
from stackyard.flow.places import named_mirror
from stackyard.flow.steps import PINS, read_stack
from stackyard.pins import PACKAGES_REPO
from stackyard.stack import is_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stackyard.flow.steps import Project
    from stackyard.settings import Settings, System
    from stackyard.stack import Connection

__all__ = ["cache_workflow_values"]

_MIRROR = "invoke.yaml: stackyard.github.mirror"
_SYSTEMS = "invoke.yaml: stackyard.github.systems"
#: Who builds something.
_BUILDING = frozenset({"build", "draw", "share"})
#: Who signs with our own key.
_SIGNING = frozenset({"build", "draw"})


def cache_workflow_values(
    project: Project, settings: Settings, name: str, requirement: str
) -> dict[str, Any]:
    """The context of a workflow's template. Raises ConfigError for settings that will not do."""
    cache = _cache(project, settings.github.mirror, signed=settings.github.signed)
    systems = settings.github.systems
    spec_patterns(settings.github.draw.packages, "invoke.yaml: stackyard.github.draw.packages")
    if name in _BUILDING:
        if not systems:
            raise ConfigError(
                "no system is named to build on",
                where=_SYSTEMS,
                hint="for example: [{name: noble, runner: ubuntu-24.04}]",
            )
        for system in systems:
            system_stacks(project, system)
    if name != "share":
        asked = settings.github.workflows
        stack = _first_stack(project, systems) if name == "site" else ""
        values = cache_values(name, settings, cache, requirement=requirement, stack=stack)
        if cache.signed and name == next(filter(_SIGNING.__contains__, asked), ""):
            _warn_of_missing_keys(project, systems)
        return values
    if not cache.is_registry:
        raise ConfigError(
            "only a registry can be shared with other repositories: they have no secret of yours",
            where=_MIRROR,
            hint="oci://ghcr.io/owner/name",
        )
    return cache_values(
        name,
        settings,
        cache._replace(text=cache.url),
        requirement=shared_requirement(requirement, __version__),
        systems=[_system(project, system) for system in systems],
    )


def _first_stack(project: Project, systems: Sequence[System]) -> str:
    """The stack of which others take pins, too; empty if there is none."""
    names = system_stacks(project, systems[0]) if systems else list_stacks(project.root)
    return next(iter(names), "")


def _cache(project: Project, text: str, *, signed: bool | None) -> Cache:
    if not text:
        raise ConfigError(
            "the workflow needs to know where binaries go",
            where=_MIRROR,
            hint="oci://ghcr.io/owner/name, or the name of a mirror in a stack",
        )
    found = named_mirror(project, text, flag=_MIRROR, push=True)
    if found:
        mirror, _ = found
        signs = mirror.signed if signed is None else signed
        cache = Cache(text, mirror.push_url, signs, _variables(mirror.push))
        if signs and not mirror.signed and not cache.is_registry:
            raise ConfigError(
                "the mirror's entry says signed: false, and Spack goes by that",
                where="invoke.yaml: stackyard.github.signed",
                hint="say the same in both",
            )
        return _checked(cache)
    if not is_url(text):
        raise ConfigError(
            f"no stack has a mirror named {text!r}",
            where=_MIRROR,
            hint=f"the stacks here: {', '.join(list_stacks(project.root)) or 'none'}; or write a URL",
        )
    cache = Cache(text, text, signed=bool(signed))
    if not cache.is_registry:
        raise ConfigError(
            "nobody knows what opens it",
            where=_MIRROR,
            hint="put it into the mirrors: of a stack, with access_pair, and write its name here",
        )
    return _checked(cache)


def _variables(connection: Connection) -> tuple[str, ...]:
    """Names of the variables that open the mirror."""
    named = (
        connection.id_variable,
        connection.secret_variable,
        connection.access_token_variable,
    )
    if any(named):
        return tuple(filter(None, named))
    if connection.url.startswith("s3://"):
        return ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return ()


def _checked(cache: Cache) -> Cache:
    if cache.is_registry:
        from stackyard.oci import parse_reference

        parse_reference(cache.url)
    elif not cache.url.startswith(("s3://", "gs://")):
        raise ConfigError(
            "runners on GitHub cannot write there",
            where=_MIRROR,
            hint="oci://ghcr.io/owner/name, or a bucket",
        )
    return cache


def _warn_of_missing_keys(project: Project, systems: Sequence[System]) -> None:
    """A build that reuses signed binaries checks them, and cannot without a public key."""
    from stackyard.flow.trust import find_keys

    for name in dict.fromkeys(one for system in systems for one in system_stacks(project, system)):
        _, settings = read_stack(project, name)
        if not find_keys(project, name, settings, "").keys:
            console.warn(
                f"stacks/{name}/keys: the cache is signed, and there is no public key to check it "
                f"with, so a build can reuse nothing of it (invoke keys.export --stack {name})"
            )


def _system(project: Project, system: System) -> dict[str, str]:
    """An entry of the matrix that other repositories get: with the pins of the first stack."""
    from stackyard.flow.clone import asked_of

    if not system.target:
        raise untargeted(system, _SYSTEMS)
    stack = _first_stack(project, [system])
    if not stack:
        raise ConfigError("there is no stack yet", where=_SYSTEMS)
    asked = asked_of(project, *read_stack(project, stack))
    spack, packages = asked.spack(), asked.packages()
    if not spack.commit or packages is None or not packages.commit:
        raise ConfigError(
            "the workflow for others pins Spack and its packages, and nobody says their commits",
            where=f"stacks/{stack}/{PINS}",
            hint=f"run: invoke lock --stack {stack}; or set spack: {{checkout_version, "
            "packages_ref}",
        )
    packages = packages._replace(repo=packages.repo or PACKAGES_REPO)
    return {
        "name": system.name,
        "runner": system.runner,
        "target": system.target,
        "base_image": system.base_image,
        "spack_repository": github_name(spack, "spack.repo"),
        "spack_ref": spack.commit,
        "packages_repository": github_name(packages, "spack.packages_repo"),
        "packages_ref": packages.commit,
    }
