"""What each task does, step by step: a module for a task or for a few that belong together.

What decides is in the core, what touches the world in ``stackyard.edges``; here the two are joined.
Steps that several tasks share are in ``steps`` and ``places``.
"""
