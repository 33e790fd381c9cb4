"""Sphinx settings. The pages build offline: formulas become MathML, and nothing is loaded from elsewhere."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parent.parent)]

project = "gradchain"
author = "the gradchain authors"
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
exclude_patterns = ["_build", "_ext", "gallery/results"]
nitpicky = True

html_theme = "furo"
html_title = "gradchain"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["gradchain.css"]
html_copy_source = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True


def keep_colons(app, what, name, obj, options, lines):
    """Keep napoleon from taking an attribute's text up to a colon for its type.

    It looks for one in the first line only, so an empty comment there will do.
    """
    if what in ("attribute", "property"):
        lines[:0] = ["..", ""]


def setup(app):
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
