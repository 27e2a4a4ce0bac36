"""Tasks that begin a project or read a stack: init, generate, plan, lock, build, doctor and more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invoke.context import Context

from stackyard.tasks.told import STACK, flow, told

_PRUNING = {
    "no_prune": "build everything, ask no mirror",
    "check_index_only": "believe the mirrors' indices; no direct look-ups for what they lack",
    "prune_unaffected": "build only what the change since --since reaches",
    "since": "git revision that a change is measured from (default HEAD^)",
    "packages": "checkout of the package repository, to see which recipes its last commit changed",
    "lock": "another file than the stack's spack.lock",
    "mirror": "look for binaries at this URL instead of the stack's mirrors (repeatable)",
}


def _request(arguments: Mapping[str, Any]) -> Any:
    """What was asked for, from the arguments of a task that plans."""
    given = {**arguments, "mirrors": tuple(arguments["mirror"] or ())}
    made = flow("steps").Request
    return made(**{name: given[name] for name in made._fields})


@told(
    iterable=["mirror", "forward_variable"],
    help={
        **_PRUNING,
        "stack": "render this stack's child pipeline (default: the parent pipeline of all)",
        "output": "file of the child pipeline (default: pipeline.yml in --artifacts-root)",
        "artifacts_root": "folder for what the jobs need (default jobs_scratch_dir)",
        "forward_variable": "pass this variable of the environment on to all jobs (repeatable)",
        "check": "write nothing; exit 3 with the difference if a file is not up to date",
    },
)
def generate(  # noqa: PLR0913
    _: Context,
    stack: str = "",
    output: str = "",
    artifacts_root: str = "",
    check: bool = False,
    no_prune: bool = False,
    check_index_only: bool = False,
    prune_unaffected: bool = False,
    since: str = "",
    packages: str = "",
    lock: str = "",
    mirror: list[str] | None = None,
    forward_variable: list[str] | None = None,
) -> None:
    """Render .gitlab-ci.yml for all stacks, or with --stack the pipeline of its packages."""
    request = _request(locals())
    flow("generate").generate(
        request,
        output=output,
        artifacts_root=artifacts_root,
        check=check,
        forward=tuple(forward_variable or ()),
    )


@told(
    iterable=["mirror"],
    help={
        **_PRUNING,
        "stack": STACK,
        "json": "print the plan as JSON",
        "html": "also write the plan as one HTML file",
    },
)
def plan(  # noqa: PLR0913
    _: Context,
    stack: str = "",
    json: bool = False,
    html: str = "",
    no_prune: bool = False,
    check_index_only: bool = False,
    prune_unaffected: bool = False,
    since: str = "",
    packages: str = "",
    lock: str = "",
    mirror: list[str] | None = None,
) -> None:
    """Show what would be built, what is reused from where, and why."""
    request = _request(locals())
    flow("planning").plan(request, as_json=json, html=html)


@told(
    iterable=["mirror"],
    help={
        **_PRUNING,
        "stack": STACK,
        "output": "file to write: .svg or .html (default graph.html)",
    },
)
def graph(  # noqa: PLR0913
    _: Context,
    stack: str = "",
    output: str = "graph.html",
    no_prune: bool = False,
    check_index_only: bool = False,
    prune_unaffected: bool = False,
    since: str = "",
    packages: str = "",
    lock: str = "",
    mirror: list[str] | None = None,
) -> None:
    """Draw the plan as a picture, a level of the DAG beside the other."""
    request = _request(locals())
    flow("planning").graph(request, output=output)


@told(
    name="lock",
    help={
        "stack": STACK,
        "check": "make nothing; exit 3 if the lock does not answer spack.yaml and pins.yaml",
        "verify": "make nothing; recompute every DAG hash",
        "lock": "check another file than the stack's spack.lock",
        "spack": "concretize with this checkout instead of the pinned Spack",
        "keep_config": "with this user's and this system's configuration of Spack",
        "update": "ask the servers again what the pinned branches and tags are now",
        "json": "print the result as JSON",
    },
)
def lock_(  # noqa: PLR0913
    _: Context,
    stack: str = "",
    check: bool = False,
    verify: bool = False,
    lock: str = "",
    spack: str = "",
    keep_config: bool = False,
    update: bool = False,
    json: bool = False,
) -> None:
    """Concretize a stack with the pinned Spack and show what changed; or check its lock."""
    flow("locks").lock(
        stack=stack,
        lock=lock,
        check=check,
        verify=verify,
        spack=spack,
        keep_config=keep_config,
        update=update,
        as_json=json,
    )


@told(
    iterable=["only"],
    help={
        "stack": STACK,
        "mirror": "where to push to, and to reuse from: a URL, a folder, or the name of a mirror in "
        "the stack (default: its buildcache-destination)",
        "spack": "checkout of Spack to build with (default: the pinned one, which is fetched)",
        "tree": "folder to install into (default: one in the cache, for this stack and mirror)",
        "logs": "folder for what Spack says of each package (default: beside the tree)",
        "jobs": "processes for each package, as Spack's own -j",
        "concurrent_packages": "packages to build at once, as Spack's own -p (default 1)",
        "only": "build only what this spec string holds for, and what it needs (repeatable)",
        "no_prune": "build everything anew, whatever mirror and tree have, and replace it there",
        "no_push": "push nothing: the mirror is only read",
        "no_index": "leave the mirror's index as it is",
        "base_image": "image that those of a registry begin with, such as docker.io/library/ubuntu:24.04",
        "stop_after": "minutes after which nothing more is built; what was built is pushed (default: "
        "never)",
        "unsigned": "do not check signatures, and do not sign",
        "keys": "file or folder with the public keys to trust (default: the stack's keys/, then "
        "settings)",
        "keep_config": "let Spack see the configuration of this user and this system",
        "keep_going": "after a failure go on with what does not need the package: the default",
        "fail_fast": "stop at the first failure",
        "lock": "another file than the stack's spack.lock",
        "json": "print the result as JSON",
    },
)
def build(  # noqa: PLR0913
    _: Context,
    stack: str = "",
    mirror: str = "",
    spack: str = "",
    tree: str = "",
    logs: str = "",
    jobs: str = "",
    concurrent_packages: str = "",
    only: list[str] | None = None,
    no_prune: bool = False,
    unsigned: bool = False,
    keys: str = "",
    keep_config: bool = False,
    keep_going: bool = False,
    fail_fast: bool = False,
    no_push: bool = False,
    no_index: bool = False,
    base_image: str = "",
    stop_after: str = "",
    lock: str = "",
    json: bool = False,
) -> None:
    """Build on this machine what a mirror lacks of a stack, and push it level by level."""
    flow("building").build(
        stack=stack,
        lock=lock,
        mirror=mirror,
        spack=spack,
        tree=tree,
        logs=logs,
        jobs=jobs,
        concurrent_packages=concurrent_packages,
        only=tuple(only or ()),
        no_prune=no_prune,
        unsigned=unsigned,
        keys=keys,
        keep_config=keep_config,
        keep_going=keep_going,
        fail_fast=fail_fast,
        as_json=json,
        push=not no_push,
        index=not no_index,
        base_image=base_image,
        stop_after=stop_after,
    )


@told(
    iterable=["only", "stack", "system"],
    help={
        "count": "packages to draw at random from the locks (default: whole stacks)",
        "seed": "repeats a draw: the same seed draws the same packages (default: a new one)",
        "only": "the packages that this spec string holds for (repeatable; with --count: draw from "
        "these; default: github.draw.packages)",
        "only_variable": "as --only, from this variable of the environment; several with ; between",
        "stack": "this stack only (repeatable; default: those of each system)",
        "system": "this system of github.systems only (repeatable)",
    },
)
def draw(  # noqa: PLR0913
    _: Context,
    count: str = "",
    seed: str = "",
    only: list[str] | None = None,
    only_variable: str = "",
    stack: list[str] | None = None,
    system: list[str] | None = None,
) -> None:
    """Print the matrix of a GitHub workflow: stacks on systems, or packages drawn at random."""
    flow("draw").draw_matrix(
        count=count,
        seed=seed,
        only=tuple(only or ()),
        only_variable=only_variable,
        stacks=tuple(stack or ()),
        systems=tuple(system or ()),
    )


@told(
    help={
        "from_": "begin with this spack.yaml: a file, a folder, or a URL (default: a small stack)",
        "name": "name of the stack (default: that of the folder it comes from)",
        "mirror": "where binaries go (default: the registry of the git remote, else a folder here)",
        "image": "with what makes a container image of the stack: its repository in a registry",
    }
)
def init(_: Context, from_: str = "", name: str = "", mirror: str = "", image: str = "") -> None:
    """Begin a project in the current folder: a stack, settings, files for CI, a README."""
    flow("init").init(source=from_, name=name, mirror=mirror, image=image)


@told(
    help={
        "stack": "look at this stack only (default: all)",
        "offline": "do not try the mirrors",
        "json": "print the findings as JSON",
    }
)
def doctor(_: Context, stack: str = "", offline: bool = False, json: bool = False) -> None:
    """Tell what is missing: settings, stacks, locks, variables, mirrors."""
    flow("examination").doctor(stack=stack, offline=offline, as_json=json)


@told(
    help={
        "url": "the mirror to show: a URL, a folder, or the name of a mirror in a stack",
        "to": "folder for the site; what it holds of an older one is brought up to date",
        "packages": "checkout of the package repository, for what recipes say of their packages",
        "stack": "the packages that this stack pins, instead of --packages",
        "public": "the mirror's URL as its users name it (default: that of --url)",
        "base": "address that the site will have, for links in /manifest/ (default: relative ones)",
        "title": "name of the site (default: from the mirror's URL)",
        "full": "read every binary anew, whatever the site knows",
        "json": "print the result as JSON",
    }
)
def site(  # noqa: PLR0913
    _: Context,
    url: str = "",
    to: str = "",
    packages: str = "",
    stack: str = "",
    public: str = "",
    base: str = "",
    title: str = "",
    full: bool = False,
    json: bool = False,
) -> None:
    """Write the catalogue of a mirror into a folder: pages for people, JSON for programs."""
    flow("catalogue").site(
        url=url,
        to=to,
        packages=packages,
        stack=stack,
        public=public,
        base=base,
        title=title,
        full=full,
        as_json=json,
    )
