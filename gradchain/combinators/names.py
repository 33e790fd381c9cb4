"""Usual names of parameters and layers: of vectors, embeddings, output layers, projections of attention, stacks.

All patterns are of whole names, in lower case.
"""

import fnmatch
import re
from collections.abc import Iterable

VECTORS = ("bias*", "*_bias", "scale", "*_scale", "offset", "gamma", "beta", "gain", "a_log")
"""Arrays that hold a number for each feature, whatever axes they have."""
SHORT_VECTORS = ("b", "b[0-9]")
"""The same where weights with more axes are beside them; by itself a matrix may have such a name."""
NORMS = ("*norm*", "ln", "ln_*", "ln[0-9]*", "bn*", "*_ln", "*_bn")
EMBEDDINGS = (
    *("*embed*", "emb", "embs", "*_emb", "*_embs", "wte", "wpe", "*_table", "latents"),
    *("pos", "pos_enc*", "positional*", "rel_pos*", "*_token", "*_tokens", "registers", "cls"),
)
HEADS = ("head", "*_head", "output", "output_layer", "logits*", "*_logits", "classifier")
"""Output layers."""
OUTPUTS = (*HEADS, "heads", "*_heads", "out")
"""Output layers, where no name before says that they are inside a block."""
NOT_OUTPUTS = ("pre_*", "*qkv*")
"""What isn't an output layer, although its name ends like one."""
BLOCKS = (
    *("*layer", "*layers", "*block", "*blocks", "h", "*stage", "*stages", "*cell", "*mixer"),
    *("*attn*", "*attention*", "mha", "*mlp", "ff", "ffn", "*feed_forward", "*feedforward"),
    *("*moe", "*expert", "*experts"),
)
"""What an output layer isn't inside of."""
STACKS = ("*layers", "*blocks", "*stack*", "*scan*", "h")
"""What holds layers: in one array, where no number follows."""
LAYERS = ("layer", "layers", "block", "blocks", "h")
"""What is one layer of many, where a number follows."""
EXPERTS = ("expert", "experts", "*_experts", "experts_*", "moe", "*_moe")
KERNELS = ("kernel", "w", "weight", "weights")
FUSED = (
    (("*qkv*", "query_key_value", "c_attn"), 3, "query, key and value"),
    (("kv", "*_kv", "kv_*", "wkv", "key_value"), 2, "key and value"),
    (("*gate_up*",), 2, "gate and input"),
)
"""Several projections in one array, how many they are, and what."""
INTO_HEADS = ("query", "key", "value")
"""Flax's own projections of attention: (features, heads, size)."""
OUT_OF_HEADS = ("out",)
"""And back: (heads, size, features)."""
ALSO_INTO_HEADS = ("q", "k", "v", "wq", "wk", "wv", "[qkv]_proj", "to_[qkv]", "*_query", "*_key", "*_value")
"""The same elsewhere. With three axes they may also be stacks of layers."""
ALSO_OUT_OF_HEADS = ("o", "wo", "o_proj", "to_out", "out_proj", "proj", "c_proj")
EINSUMS = {
    "q_einsum": ((1,), (0, 2), 0),
    "kv_einsum": ((2,), (1, 3), 1),
    "qkv_einsum": ((2,), (1, 3), 1),
    "attn_vec_einsum": ((0, 1), (2,), 0),
    "gating_einsum": ((1,), (2,), None),
}
"""Gemma's projections: axes of inputs, outputs and heads. Others are of query, key and value, or of gates."""


def match(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Return whether any of the names fits any of the patterns."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


def stem(name: str) -> str:
    """Return a name without the number at its end."""
    return re.sub(r"_?\d+$", "", name)


def is_vector(name: str, axes: int, axes_beside: int) -> bool:
    """Return whether an array holds a number for each feature.

    Args:
      name: its own, in lower case.
      axes: how many it has.
      axes_beside: the most axes of an array in the same module.
    """
    return axes < 2 or match([name], VECTORS) or (axes < axes_beside and match([name], SHORT_VECTORS))
