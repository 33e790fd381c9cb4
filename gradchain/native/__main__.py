"""``python -m gradchain.native``: compile the kernels."""

from gradchain.native.library import build

print(build())
