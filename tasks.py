"""Invoke's way into a clone: hands on the tasks of the package."""

from pathlib import Path

from stackyard import tasks
from stackyard.main import check_config

check_config(str(Path(__file__).parent))
namespace = tasks.namespace
