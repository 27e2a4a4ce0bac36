"""Stackyard: a Spack stack from a pull request to a published container image."""

__version__ = "0.1.0"
