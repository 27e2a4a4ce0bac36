"""Every task: its name, its help, one call into ``flow``. Only this package knows Invoke.

Every argument has a default: Invoke takes one without for a positional, which swallows ``--help``.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from invoke.collection import Collection
from invoke.tasks import Task

from stackyard.tasks import image, keys, mirror, own, pipeline, release, services, spack

__all__ = ["namespace"]

#: In ``mirror.py``, and reached without a prefix.
_SHORT = ("fetch", "push")


def _tasks(module: ModuleType) -> dict[str, Task[Any]]:
    return {name: item for name, item in vars(module).items() if isinstance(item, Task)}


def _collect() -> Collection:
    root = Collection()
    below = {
        "image": _tasks(image),
        "keys": _tasks(keys),
        "mirror": _tasks(mirror),
        "spack": _tasks(spack),
    }
    short = [below["mirror"].pop(name) for name in _SHORT]
    top = _tasks(pipeline) | _tasks(release) | _tasks(services) | _tasks(own)
    for task in (*top.values(), *short):
        root.add_task(task)
    for name, tasks in below.items():
        collection = Collection(name)
        for task in tasks.values():
            collection.add_task(task)
        root.add_collection(collection)
    return root


namespace = _collect()
