"""Sphinx settings. The pages build offline: formulas become MathML, and nothing is loaded from elsewhere."""

import inspect
import re
import sys
from pathlib import Path

from sphinx.addnodes import desc_signature, pending_xref

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parent.parent)]

project = "gradchain"
author = "the gradchain authors"
copyright = author
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "mathml",
    "optimizers",
    "search_words",
]
exclude_patterns = [
    "_build",
    "_ext",
    "gallery/results",
    "contest/results",
    "growth/results",
]
nitpicky = True

html_theme = "furo"
html_title = "gradchain"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["gradchain.css"]
html_copy_source = False

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
maximum_signature_line_length = 80
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


def readable_signature(app, what, name, obj, options, signature, returned):
    """Write a function's signature as ``help`` shows it, with the types' short names."""
    if what != "function":
        return None
    arguments, arrow, result = str(inspect.signature(obj)).partition(") -> ")
    return arguments + ")" * bool(arrow), result


def look_up_types_here(app, doctree):
    """Look for a signature's types in its own module, not among all names that end alike."""
    for signature in doctree.findall(desc_signature):
        for reference in signature.findall(pending_xref):
            reference.attributes.pop("refspecific", None)


def leave_types_alone(app, env, node, text):
    """Let a type in a signature be plain text if no page describes it."""
    while node is not None and not isinstance(node, desc_signature):
        node = node.parent
    return text if node is not None else None


def drop_wrong_links_to_docs(app, pagename, templatename, context, doctree):
    """Drop viewcode's links back to names that no page has: it takes all of a module's to be documented under one."""
    if pagename.startswith("_modules/"):
        known = app.env.domains["py"].objects
        back = r'<a class="viewcode-back" href="[^"#]*#([^"]+)">.*?</a>'
        context["body"] = re.sub(
            back, lambda link: link[0] if link[1] in known else "", context["body"]
        )


def setup(app):
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("autodoc-process-signature", readable_signature)
    app.connect("doctree-read", look_up_types_here)
    app.connect("html-page-context", drop_wrong_links_to_docs)
    app.connect("missing-reference", leave_types_alone)
