"""Tasks about container images: all that begins with ``image.``."""

from __future__ import annotations

from invoke.context import Context

from stackyard.tasks.told import STACK, flow, told

_ENGINE = (
    "the engine's socket, such as unix:///run/user/1000/podman/podman.sock, or docker or podman "
    "(default: DOCKER_HOST, Docker's socket, Podman's)"
)


@told(
    iterable=["tag", "build_arg"],
    help={
        "stack": "name of a folder below stacks/ (default: the only one with an image)",
        "tag": "tag, or whole name with one (repeatable; default: latest, in image.repository)",
        "engine": _ENGINE,
        "buildkit": "build with the program docker and BuildKit, for several platforms at once",
        "platform": "such as linux/arm64 (several: a,b; default: what the lock is for)",
        "prefetch": "fetch here, with the credentials of here, and not inside the build",
        "from_": "mirror to fetch from (default REMOTE_BUILDCACHE_URL, then the stack's mirror)",
        "keys": "with --prefetch: file or folder with the public keys to trust",
        "unsigned": "do not check signatures (checksums are checked all the same)",
        "no_cache": "build all layers anew",
        "pull": "see first whether the registry has a newer base",
        "network": "the network of the build, such as host (default: the engine's)",
        "build_arg": "NAME=VALUE for the Dockerfile, such as FETCH_BASE=debian:13 (repeatable)",
        "no_engine": "put the image together here, without a container engine",
        "base": "another base than image.base: a name; with --no-engine also an archive or a folder",
        "output": "with --no-engine or --buildkit: an OCI archive (.tar) to write",
        "push": "with --no-engine or --buildkit: put it into the registry at once",
    },
)
def build(  # noqa: PLR0913
    _: Context,
    stack: str = "",
    tag: list[str] | None = None,
    engine: str = "",
    buildkit: bool = False,
    platform: str = "",
    prefetch: bool = False,
    from_: str = "",
    keys: str = "",
    unsigned: bool = False,
    no_cache: bool = False,
    pull: bool = False,
    network: str = "",
    build_arg: list[str] | None = None,
    no_engine: bool = False,
    base: str = "",
    output: str = "",
    push: bool = False,
) -> None:
    """Make the image of a stack: its base, its tools, and exactly the binaries of its lock."""
    flow("image").build(
        stack=stack,
        tags=tuple(tag or ()),
        engine=engine,
        buildkit=buildkit,
        platform=platform,
        prefetch=prefetch,
        source=from_,
        keys=keys,
        unsigned=unsigned,
        no_cache=no_cache,
        pull=pull,
        network=network,
        arguments=tuple(build_arg or ()),
        no_engine=no_engine,
        base=base,
        output=output,
        push=push,
    )


@told(
    iterable=["packages"],
    help={
        "stack": "name of a folder below stacks/ (default: the only one with an image)",
        "image": "tag or whole name of the image (default: latest, in image.repository)",
        "engine": _ENGINE,
        "spack": "checkout of Spack to install the roots with (default SPACK_ROOT, else none)",
        "packages": "clone of Spack's packages, or a repository of packages (repeatable; default: "
        "those that the checkout knows)",
        "keys": "file or folder with the public keys to trust (default: the stack's keys/, then "
        "settings)",
        "unsigned": "do not check signatures (checksums are checked all the same)",
    },
)
def test(  # noqa: PLR0913
    _: Context,
    stack: str = "",
    image: str = "",
    engine: str = "",
    spack: str = "",
    packages: list[str] | None = None,
    keys: str = "",
    unsigned: bool = False,
) -> None:
    """Start an image without a network and prove that the stack can be installed from it."""
    flow("image_test").test(
        stack=stack,
        image=image,
        engine=engine,
        spack=spack,
        packages=tuple(packages or ()),
        keys=keys,
        unsigned=unsigned,
    )


@told(
    iterable=["tag"],
    help={
        "stack": "name of a folder below stacks/ (default: the only one with an image)",
        "tag": "tag, or whole name with one (repeatable; default: latest)",
        "image": "the built image (default: image.repository and the first tag)",
        "repository": "where it goes (default: image.repository)",
        "engine": _ENGINE,
        "json": "print what was pushed as JSON",
    },
)
def push(  # noqa: PLR0913
    _: Context,
    stack: str = "",
    tag: list[str] | None = None,
    image: str = "",
    repository: str = "",
    engine: str = "",
    json: bool = False,
) -> None:
    """Put a built image into a registry, by all its tags, and print its digest."""
    flow("image_push").push(
        stack=stack,
        tags=tuple(tag or ()),
        image=image,
        repository=repository,
        engine=engine,
        as_json=json,
    )


@told(
    help={
        "check": "write nothing; exit 3 if an image has no digest, or its tag means another now",
        "json": "print what was found as JSON",
    }
)
def pin(_: Context, check: bool = False, json: bool = False) -> None:
    """Look up the digests of base images, and write them into settings and Dockerfiles."""
    flow("pinning").pin(check=check, as_json=json)


@told(
    help={
        "stack": STACK,
        "to": "folder for the layers: 00 to 39, and last; each is a tree that belongs at /",
        "from_": "mirror to fetch from (default REMOTE_BUILDCACHE_URL, then the stack's mirror)",
        "keys": "file or folder with the public keys to trust (default: the stack's keys/, then "
        "settings)",
        "unsigned": "do not check signatures (checksums are checked all the same)",
        "platform": "such as linux/arm64 (default: what the lock is for, else this machine's)",
        "most": "at most so many layers for the binaries (default: image.layers of the settings)",
        "created": "time of the commit, for the bill of materials (default SOURCE_DATE_EPOCH)",
    }
)
def layers(  # noqa: PLR0913
    _: Context,
    stack: str = "",
    to: str = "",
    from_: str = "",
    keys: str = "",
    unsigned: bool = False,
    platform: str = "",
    most: str = "",
    created: str = "",
) -> None:
    """Fetch what an image holds, verified, and lay it out in folders, one for each layer."""
    flow("layers").layers(
        stack=stack,
        to=to,
        source=from_,
        keys=keys,
        unsigned=unsigned,
        platform=platform,
        most=most,
        created=created,
    )


@told(
    help={
        "stack": "name of a folder below stacks/ (default: the only one that has an image)",
        "no_push": "stop before the three hooks of the push",
        "context": "the rule's build context, from the top of the repository (default: "
        "image.context, else the Dockerfile's folder if hooks/build is there, else /)",
        "source_branch": "branch or tag that is built (default: what is checked out)",
        "source_commit": "its commit (default: the one that is checked out)",
        "commit_msg": "its message (default: that commit's)",
        "docker_repo": "such as index.docker.io/owner/name (default: image.repository)",
        "dockerfile_path": "from the build context (default: docker/Dockerfile of the project)",
        "docker_tag": "tags with commas between them (default: latest for the default branch, NAME "
        "for the release rev-NAME)",
        "image_name": "repository with the first tag",
    }
)
def autobuild(  # noqa: PLR0913
    _: Context,
    stack: str = "",
    no_push: bool = False,
    context: str = "",
    source_branch: str = "",
    source_commit: str = "",
    commit_msg: str = "",
    docker_repo: str = "",
    dockerfile_path: str = "",
    docker_tag: str = "",
    image_name: str = "",
) -> None:
    """Run docker/hooks as Docker Hub's automated builds do: variables, order and folder."""
    flow("autobuild").autobuild(
        stack=stack,
        context=context,
        push=not no_push,
        source_branch=source_branch,
        source_commit=source_commit,
        commit_msg=commit_msg,
        docker_repo=docker_repo,
        dockerfile_path=dockerfile_path,
        docker_tag=docker_tag,
        image_name=image_name,
    )
