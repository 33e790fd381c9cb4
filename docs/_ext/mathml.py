"""A Sphinx extension that writes formulas as MathML, by the converter that comes with docutils.

Every current browser shows MathML by itself, so the pages need no script and no network.
"""

from docutils import nodes
from docutils.utils.math.latex2mathml import MathError, tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)


def _convert(node, as_block):
    tex = " ".join(node.astext().split())
    if as_block and r"\\" in tex and r"\begin" not in tex:
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    try:
        return tex2mathml(tex, as_block=as_block)
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
