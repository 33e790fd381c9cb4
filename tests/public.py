"""The public names as a namespace, in which a transform's repr can be evaluated."""

import gradchain as gc

NAMES = {name: getattr(gc, name) for name in gc.__all__}
