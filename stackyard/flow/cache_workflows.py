"""Workflows for a cache of binaries: what of the project they need to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stackyard import __version__
from stackyard.cache_workflows import Cache, cache_values, shared_requirement
from stackyard.draw import github_name
from stackyard.edges.stacks import list_stacks
from stackyard.errors import ConfigError
from stackyard.flow.draw import system_stacks
from stackyard.flow.places import named_mirror
from stackyard.flow.steps import PINS, read_stack
from stackyard.pins import PACKAGES_REPO
from stackyard.stack import is_url

if TYPE_CHECKING:
    from stackyard.flow.steps import Project
    from stackyard.settings import Settings, System
    from stackyard.stack import Connection

__all__ = ["cache_workflow_values"]

_MIRROR = "invoke.yaml: stackyard.github.mirror"
_SYSTEMS = "invoke.yaml: stackyard.github.systems"
#: Who builds something.
_BUILDING = frozenset({"build", "draw", "share"})


def cache_workflow_values(
    project: Project, settings: Settings, name: str, requirement: str
) -> dict[str, Any]:
    """The context of a workflow's template. Raises ConfigError for settings that will not do."""
    cache = _cache(project, settings.github.mirror)
    systems = settings.github.systems
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
        return cache_values(name, settings, cache, requirement=requirement)
    if not cache.is_registry:
        raise ConfigError(
            "only a registry can be shared with other repositories: they have no secret of yours",
            where=_MIRROR,
            hint="oci://ghcr.io/owner/name",
        )
    if len(cache.variables) not in (0, 2):
        raise ConfigError(
            "a registry is shared with user and password, or with neither",
            where=_MIRROR,
            hint="access_pair: {id_variable, secret_variable} in the mirror's entry",
        )
    return cache_values(
        name,
        settings,
        cache._replace(text=cache.url),
        requirement=shared_requirement(requirement, __version__),
        systems=[_system(project, system) for system in systems],
    )


def _cache(project: Project, text: str) -> Cache:
    if not text:
        raise ConfigError(
            "the workflow needs to know where binaries go",
            where=_MIRROR,
            hint="oci://ghcr.io/owner/name, or the name of a mirror in a stack",
        )
    found = named_mirror(project, text, flag=_MIRROR, push=True)
    if found:
        mirror, _ = found
        cache = Cache(text, mirror.push_url, mirror.signed, _variables(mirror.push))
        signed = mirror.signed and not cache.is_registry
        return _checked(cache._replace(signed=signed))
    if not is_url(text):
        raise ConfigError(
            f"no stack has a mirror named {text!r}",
            where=_MIRROR,
            hint=f"the stacks here: {', '.join(list_stacks(project.root)) or 'none'}; or write a URL",
        )
    cache = Cache(text, text, signed=False)
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


def _system(project: Project, system: System) -> dict[str, str]:
    """An entry of the matrix that other repositories get: with the pins of the first stack."""
    from stackyard.flow.clone import asked_of

    stacks = system_stacks(project, system)
    if not stacks:
        raise ConfigError("there is no stack yet", where=_SYSTEMS)
    asked = asked_of(project, *read_stack(project, stacks[0]))
    spack, packages = asked.spack(), asked.packages()
    if not spack.commit or packages is None or not packages.commit:
        raise ConfigError(
            "the workflow for others pins Spack and its packages, and nobody says their commits",
            where=f"stacks/{stacks[0]}/{PINS}",
            hint=f"run: invoke lock --stack {stacks[0]}; or set spack: {{checkout_version, "
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
