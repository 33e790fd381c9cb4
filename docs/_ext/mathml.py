"""A Sphinx extension that writes formulas as MathML, by the converter that comes with docutils.

Every current browser shows MathML by itself, so the pages need no script and no network.
"""

import re

from docutils import nodes
from docutils.utils.math.latex2mathml import MathError, tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)

SYNONYMS = {r"\\dots\b": r"\ldots", r"\\Big(?=[/|])": r"\Bigl"}
"""What the converter lacks, as patterns, and what it has instead."""

BAR = r'<mo(?: stretchy="false")?>([|‖])</mo>'
"""The bars of a magnitude or norm, which browsers would space like a relation."""

ACCENT = r'<munderover>(\s*<mi>[^<]*</mi>)(.*?)(<mo stretchy="false">[ˆˉ]</mo>)\s*</munderover>'
"""A letter with an accent and an index, which the converter puts below the letter."""


def _convert(node, as_block):
    tex = " ".join(node.astext().split())
    for pattern, synonym in SYNONYMS.items():
        tex = re.sub(pattern, lambda _, synonym=synonym: synonym, tex)
    if as_block and r"\\" in tex and r"\begin" not in tex:
        tex = rf"\begin{{aligned}}{tex}\end{{aligned}}"
    try:
        found = tex2mathml(tex, as_block=as_block)
        found = re.sub(
            BAR, r'<mo stretchy="false" lspace="0" rspace="0">\1</mo>', found
        )
        return re.sub(ACCENT, r"<msub><mover>\1\3</mover>\2</msub>", found, flags=re.S)
    except (MathError, IndexError, AttributeError) as error:
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
