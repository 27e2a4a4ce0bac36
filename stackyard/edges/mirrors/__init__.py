"""Spack's mirrors in any of these places: read, filled, indexed, checked and pruned."""
