"""A Sphinx extension that writes formulas as MathML, by the converter that comes with docutils.

Every current browser shows MathML by itself, so the pages need no script and no network.
"""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import MathError, tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)

SYNONYMS = {
    r"\\dots\b": r"\\ldots",
    r"\\Big(?=[/|])": r"\\Bigl",
    r"(\\(?:bar|hat|tilde)\s*(?:\\[a-z]+|\w))(?=_)": r"{\1}",
}
"""What the converter lacks, as patterns, and what it has instead."""

BAR = r'<mo(?: stretchy="false")?>([|‖])</mo>'
"""The bars of a magnitude or norm, which browsers would space like a relation."""


def _convert(node, as_block):
    tex = " ".join(node.astext().split())
    for pattern, synonym in SYNONYMS.items():
        tex = re.sub(pattern, synonym, tex)
    if as_block and r"\\" in tex and r"\begin" not in tex:
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    try:
        return re.sub(
            BAR,
            r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>',
            tex2mathml(tex, as_block=as_block),
        )
    except MathError as error:
        logger.warning("can't convert %r: %s", tex, error, location=node)
        return nodes.unescape(tex)


def visit_inline(self, node):
    self.body.append(_convert(node, as_block=False))
    raise nodes.SkipNode


def visit_block(self, node):
    self.body.append(f'<div class="math">{_convert(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True}
