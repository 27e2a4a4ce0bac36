"""Invoke's way into a clone: hands on the tasks of the package."""

from invoke.collection import Collection

from stackyard import tasks

namespace = Collection.from_module(tasks)
