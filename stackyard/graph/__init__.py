"""Show a plan to people: a picture of its jobs, and a page to search it.

Both are text made from the plan alone. The picture needs nothing but a viewer of SVG; the page is
one file that opens without a network.
"""

from __future__ import annotations

from stackyard.graph.draw import graph_svg
from stackyard.graph.page import graph_html
from stackyard.graph.rows import plan_values

__all__ = ["graph_html", "graph_svg", "plan_values"]
