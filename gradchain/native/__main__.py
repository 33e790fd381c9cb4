"""``python -m gradchain.native``: let steps on a CPU be compiled as kernels in C++."""

from gradchain.native.library import build

print(build())
