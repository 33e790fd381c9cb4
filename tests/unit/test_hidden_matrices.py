"""Which arrays of real models are hidden matrices, and how they are seen: linen, NNX, Equinox, Haiku, plain dicts."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradchain as gc
from gradchain.matrices import DimensionNumbers, view
from tests import public, quick, trees

KEY = jax.random.key(0)
TOKENS = jnp.zeros((2, 5), int)
D, HEADS, SIZE, WORDS = 8, 2, 3, 11
"""Features, heads, features of a head, words: all different, so that no two axes can be taken for each other."""


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        x = x + nn.MultiHeadDotProductAttention(HEADS, qkv_features=HEADS * SIZE)(nn.LayerNorm()(x))
        return x + nn.Dense(D)(nn.gelu(nn.Dense(16)(nn.RMSNorm()(x)))), None


class Tied(nn.Module):
    """A transformer whose first layers are scanned, with both a tied head and one of its own, without a name."""

    @nn.compact
    def __call__(self, tokens):
        table = nn.Embed(WORDS, D)
        x = table(tokens) + self.param("pos_embedding", nn.initializers.zeros, (1, 5, D))
        x, _ = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=4)()(x, None)
        x, _ = Block()(x)
        return table.attend(x), nn.Dense(WORDS)(x)


class Filters(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=False)(nn.Conv(8, (3, 3))(x))
        x = nn.Conv(8, (3, 3), feature_group_count=8)(x)
        x = nn.ConvTranspose(4, (2, 2))(nn.Conv(16, (5, 1))(x))
        x = nn.DenseGeneral((2, 3), axis=(-2, -1))(x)
        return nn.Dense(10, name="head")(x)


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.attn = nnx.MultiHeadAttention(HEADS, D, HEADS * SIZE, rngs=rngs, decode=False)
        self.norm = nnx.LayerNorm(D, rngs=rngs)
        self.mlp = nnx.List([nnx.Linear(D, 16, rngs=rngs), nnx.Linear(16, D, rngs=rngs)])
        self.qkv = nnx.Linear(D, 3 * D, use_bias=False, rngs=rngs)
        self.conv = nnx.Conv(D, D, (3,), feature_group_count=D, rngs=rngs)


class NNXModel(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(WORDS, D, rngs=rngs)
        self.layers = nnx.List([NNXBlock(rngs)])
        self.blocks = nnx.vmap(NNXBlock)(rngs.split(4))
        self.lm_head = nnx.Linear(D, WORDS, use_bias=False, rngs=rngs)


class EquinoxBlock(eqx.Module):
    attn: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP

    def __init__(self, key):
        self.attn = eqx.nn.MultiheadAttention(HEADS, D, qk_size=SIZE, vo_size=SIZE, key=key)
        self.norm = eqx.nn.LayerNorm((5, D))
        self.mlp = eqx.nn.MLP(D, D, 16, 1, key=key)


class EquinoxModel(eqx.Module):
    words: eqx.nn.Shared
    conv: eqx.nn.Conv1d
    depthwise: eqx.nn.Conv2d
    up: eqx.nn.ConvTranspose2d
    cell: eqx.nn.GRUCell
    block: EquinoxBlock
    many: EquinoxBlock
    lm_head: eqx.nn.Linear

    def __init__(self):
        pair = eqx.nn.Embedding(WORDS, D, key=KEY), eqx.nn.Linear(D, WORDS, use_bias=False, key=KEY)
        self.words = eqx.nn.Shared(pair, lambda pair: pair[1].weight, lambda pair: pair[0].weight)
        self.conv = eqx.nn.Conv1d(D, 6, 3, groups=2, key=KEY)
        self.depthwise = eqx.nn.Conv2d(D, D, 3, groups=D, key=KEY)
        self.up = eqx.nn.ConvTranspose2d(D, 6, 3, key=KEY)
        self.cell = eqx.nn.GRUCell(D, 4, key=KEY)
        self.block = EquinoxBlock(KEY)
        self.many = eqx.filter_vmap(EquinoxBlock)(jax.random.split(KEY, 4))
        self.lm_head = eqx.nn.Linear(D, WORDS, key=KEY)


def haiku_model(tokens):
    x = hk.Embed(WORDS, D)(tokens) + hk.get_parameter("pos_embs", [5, D], init=jnp.zeros)[None]

    def layer(x):
        x = hk.LayerNorm(-1, True, True)(x)
        return hk.Linear(D)(hk.MultiHeadAttention(HEADS, SIZE, w_init=hk.initializers.RandomNormal())(x, x, x))

    x = hk.experimental.layer_stack(4)(layer)(layer(x))
    image = hk.Conv2D(4, 3)(hk.BatchNorm(True, True, 0.9)(jnp.stack([x, x], -1), True))
    image = hk.Conv2DTranspose(6, 3)(hk.DepthwiseConv2D(1, 3)(image))
    cell = hk.LSTM(4)
    return image, cell(x[:, 0], cell.initial_state(2)), hk.Linear(WORDS, name="logits")(x)


def linen(model, x):
    return jax.eval_shape(model.init, KEY, x)["params"]


LINEN_BLOCK = {
    "MultiHeadDotProductAttention_0/query/kernel": "(8, 6): attention, heads together",
    "MultiHeadDotProductAttention_0/key/kernel": "(8, 6): attention, heads together",
    "MultiHeadDotProductAttention_0/value/kernel": "(8, 6): attention, heads together",
    "MultiHeadDotProductAttention_0/out/kernel": "(6, 8): attention, heads together",
    "Dense_0/kernel": "(16, 8): two axes",
    "Dense_1/kernel": "(8, 16): two axes",
}
NNX_BLOCK = {
    "attn/query/kernel": "(8, 6): attention, heads together",
    "attn/key/kernel": "(8, 6): attention, heads together",
    "attn/value/kernel": "(8, 6): attention, heads together",
    "attn/out/kernel": "(6, 8): attention, heads together",
    "mlp/0/kernel": "(8, 16): two axes",
    "mlp/1/kernel": "(16, 8): two axes",
}
EQUINOX_BLOCK = {
    "attn/query_proj/weight": "(8, 6): a linear layer",
    "attn/key_proj/weight": "(8, 6): a linear layer",
    "attn/value_proj/weight": "(8, 6): a linear layer",
    "attn/output_proj/weight": "(6, 8): a linear layer",
    "mlp/layers/0/weight": "(8, 16): a linear layer",
    "mlp/layers/1/weight": "(16, 8): a linear layer",
}
HAIKU_BLOCK = {
    "multi_head_attention/query/w": "(8, 6): two axes",
    "multi_head_attention/key/w": "(8, 6): two axes",
    "multi_head_attention/value/w": "(8, 6): two axes",
    "multi_head_attention/linear/w": "(6, 6): two axes",
    "linear/w": "(6, 8): two axes",
}


def under(name, block, layers=0):
    """Return what a block's arrays are under a name, stacked if there are layers."""
    each = f"{layers} of " if layers else ""
    return {f"{name}{path}": f"{each}{said}{', stacked' if layers else ''}" for path, said in block.items()}


MODELS = {
    "linen": (
        lambda: linen(Tied(), TOKENS),
        under("Block_0/", LINEN_BLOCK) | under("ScanBlock_0/", LINEN_BLOCK, 4),
        {
            "Dense_0/kernel": "an output layer: as many columns as embeddings",
            "Embed_0/embedding": "an embedding",
            "pos_embedding": "an embedding",
            "ScanBlock_0/LayerNorm_0/scale": "a bias or a scale",
            "Block_0/MultiHeadDotProductAttention_0/query/bias": "a bias or a scale",
            "Block_0/Dense_0/bias": "a vector",
        },
    ),
    "linen's convolutions": (
        lambda: linen(Filters(), jnp.zeros((2, 8, 8, 3))),
        {
            "Conv_0/kernel": "(27, 8): a convolution",
            "Conv_2/kernel": "(40, 16): a convolution",
            "ConvTranspose_0/kernel": "(64, 4): a convolution",
        },
        {
            "Conv_1/kernel": "one input channel",
            "BatchNorm_0/scale": "a vector",
            "DenseGeneral_0/kernel": "unclear: 4 axes may be layers, heads or a filter",
            "head/kernel": "an output layer",
        },
    ),
    "NNX": (
        lambda: nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: NNXModel(nnx.Rngs(0))), nnx.Param)),
        under("layers/0/", NNX_BLOCK)
        | under("blocks/", NNX_BLOCK, 4)
        | {
            "layers/0/qkv/kernel": "3 of (8, 8): query, key and value side by side",
            "blocks/qkv/kernel": "12 of (8, 8): query, key and value side by side, stacked",
        },
        {
            "embed/embedding": "an embedding",
            "lm_head/kernel": "an output layer",
            "layers/0/conv/kernel": "one input channel",
            "blocks/conv/kernel": "one input channel",
            "blocks/norm/scale": "a bias or a scale",
        },
    ),
    "Equinox": (
        lambda: eqx.filter(eqx.filter_eval_shape(EquinoxModel), lambda x: hasattr(x, "shape")),
        under("block/", EQUINOX_BLOCK)
        | under("many/", EQUINOX_BLOCK, 4)
        | {
            "conv/weight": "2 of (12, 3): a convolution in 2 groups",
            "up/weight": "(72, 6): a convolution",
            "cell/weight_ih": "3 of (8, 4): gates side by side",
            "cell/weight_hh": "3 of (4, 4): gates side by side",
        },
        {
            "words/pytree/0/weight": "an embedding",
            "depthwise/weight": "a depthwise convolution",
            "lm_head/weight": "an output layer",
            "conv/bias": "equinox.nn.Conv1d's bias",
            "block/norm/weight": "equinox.nn.LayerNorm's weight",
            "many/mlp/layers/0/bias": "equinox.nn.Linear's bias",
        },
    ),
    "Haiku": (
        lambda: jax.eval_shape(hk.transform_with_state(haiku_model).init, KEY, TOKENS)[0],
        under("", HAIKU_BLOCK)
        | under("__layer_stack_no_per_layer/", HAIKU_BLOCK, 4)
        | {
            "conv2_d/w": "(18, 4): a convolution",
            "conv2_d_transpose/w": "(36, 6): a convolution",
            "lstm/linear/w": "4 of (12, 4): gates side by side",
        },
        {
            "embed/embeddings": "an embedding",
            "~/pos_embs": "an embedding",
            "logits/w": "an output layer",
            "depthwise_conv2_d/w": "a depthwise convolution",
            "batch_norm/scale": "a bias or a scale",
            "__layer_stack_no_per_layer/linear/b": "a bias or a scale",
        },
    ),
}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def model(request):
    make, matrices, rest = request.param
    return make(), matrices, rest


def test_the_table_says_how_arrays_of_models_are_seen_and_why(model):
    params, matrices, rest = model
    rows = gc.describe(gc.muon(0.02), params).rows
    found = {row.path: f"{row.seen_as}: {row.why}" for row in rows if row.labels == ("muon",)}
    assert found == matrices
    others = {row.path: row.why for row in rows if row.labels == ("adam",) and not row.seen_as}
    assert {path: others.get(path) for path in rest} == rest
    assert len(found) + len(others) == len(rows)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_keeps_to_its_width(model, width):
    lines = gc.describe(gc.muon(0.02), model[0]).table(width, by="parameter").splitlines()
    assert max(map(len, lines)) <= width
    for column in ("path", "label", "seen as", "why", "state bytes"):
        assert column in lines[0]
    assert ("transform" in lines[0]) == any(line.startswith("(1) scale_by_") for line in lines)
    assert any(line.startswith("(a) ") for line in lines) == any(" (a) " in line for line in lines)


def test_a_narrow_table_leaves_out_shapes_and_transforms():
    params = {"layers": {"gate_up_proj": jax.ShapeDtypeStruct((36, 1024, 8192), "float32")}}
    lines = gc.describe(gc.muon(0.02), params).table(60, by="parameter").splitlines()
    assert lines[0].split() == ["path", "label", "seen", "as", "why", "state", "bytes"]
    assert lines[3] == "(a) gate and input side by side, stacked"
    assert lines[4].startswith("1 array, ")


def test_a_short_table_says_all_in_its_lines():
    params = {"layers": {"w": jnp.ones((3, 4, 6))}, "emb": jnp.ones((9, 4))}
    tx = gc.for_hidden_matrices(
        gc.per_layer(gc.scale_by_shape(gc.MuonDimensionNumbers()), [("layers", 0)]), gc.scale(2.0)
    )
    assert gc.describe(tx, params).table(120, by="parameter").splitlines() == [
        "path        shape      label     seen as      why                transform       state bytes",
        "----------  ---------  --------  -----------  -----------------  --------------  -----------",
        "emb         (9, 4)     rest                   an embedding       scale                     0",
        "layers/w    (3, 4, 6)  matrices  3 of (4, 6)  two axes, stacked  scale_by_shape            0",
        "2 arrays, 108 numbers, 8 bytes of state, 8 of them shared",
    ]


def test_a_rule_that_gets_the_matrices_alone_sees_them_in_the_same_way(model):
    params = model[0]
    hidden = gc.hidden_matrices()
    dims = hidden.dimension_numbers(params)
    matrices = jax.tree.map(lambda label, x: x if label == "matrices" else None, hidden(params), params)
    assert jax.tree.leaves(hidden.dimension_numbers(matrices)) == jax.tree.leaves(dims)


def test_variables_of_flax_around_arrays_make_no_difference():
    state = nnx.state(nnx.eval_shape(lambda: NNXModel(nnx.Rngs(0))), nnx.Param)
    plain = gc.describe(gc.muon(0.02), nnx.to_pure_dict(state)).rows
    boxed = gc.describe(gc.muon(0.02), state).rows
    assert [row[1:] for row in boxed] == [row[1:] for row in plain]


NAMES = [
    ("w", (4, 6), "(4, 6): two axes"),
    ("", (4, 6), "(4, 6): two axes"),
    ("h/0/mlp/c_fc/kernel", (4, 6), "(4, 6): two axes"),
    ("fc/weight", (6, 4), "(4, 6): two axes"),
    ("encoder/layer/0/attention/output/dense/kernel", (4, 6), "(4, 6): two axes"),
    ("encoder/layer/0/output/dense/kernel", (4, 6), "(4, 6): two axes"),
    ("mha/out/kernel", (4, 6), "(4, 6): two axes"),
    ("output/dense/kernel", (4, 6), "an output layer"),
    ("head/layers/0/kernel", (4, 6), "an output layer"),
    ("Dense_0/kernel", (4, 1), "a single column"),
    ("gate/kernel", (1, 4), "a single row"),
    ("text_embedder/blocks/0/mlp/kernel", (4, 6), "(4, 6): two axes"),
    ("token_mixing/Dense_0/kernel", (4, 6), "(4, 6): two axes"),
    ("patch_embed/proj/kernel", (4, 4, 3, 8), "an embedding"),
    ("cls_token", (1, 1, 8), "an embedding"),
    ("backbone/ln_1/weight", (4, 6), "of a normalisation"),
    ("layers/wq", (3, 4, 6), "3 of (4, 6): two axes, stacked"),
    ("layers/norm_scale", (3, 4), "a bias or a scale"),
    ("layers/gate", (3, 4), "a vector for each layer"),
    ("layers_0/query/kernel", (4, 2, 3), "(4, 6): attention, heads together"),
    ("layers/q_proj/kernel", (5, 4, 6), "5 of (4, 6): two axes, stacked"),
    ("encoder/query/kernel", (5, 4, 2, 3), "5 of (4, 6): attention, heads together, stacked"),
    ("encoder/q_proj/kernel", (5, 4, 6), "unclear: 3 axes may be layers, heads or a filter"),
    ("attn/qkv/kernel", (4, 12), "3 of (4, 4): query, key and value side by side"),
    ("attn/qkv/weight", (12, 4), "3 of (4, 4): query, key and value side by side"),
    ("attn/qkv/kernel", (4, 9), "(4, 9): query, key and value side by side, of unknown widths: as one"),
    ("attn/qkv/kernel", (4, 3, 2, 5), "3 of (4, 10): query, key and value along an axis"),
    ("attn/qkv/kernel", (4, 2, 5), "unclear: 3 axes may be layers, heads or a filter"),
    ("attn/kv_proj/kernel", (4, 10), "2 of (4, 5): key and value side by side"),
    ("mlp/gate_up_proj/kernel", (4, 10), "2 of (4, 5): gate and input side by side"),
    ("moe/experts/wi", (7, 4, 6), "7 of (4, 6): experts"),
    ("layers/moe/experts/wi", (3, 7, 4, 6), "21 of (4, 6): experts, stacked"),
    ("stem/kernel", (7, 7, 3, 8), "(147, 8): a convolution"),
    ("stem/weight", (8, 3, 7, 7), "(147, 8): a convolution"),
    ("blocks/0/q_proj/kernel", (5, 4, 6), "(5, 24): attention, heads together"),
    ("layers/wo", (3, 4, 5, 6), "3 of (20, 6): attention, heads together, stacked"),
    ("layers_1/attn/to_out/kernel", (4, 5, 6), "(20, 6): attention, heads together"),
    ("qkv_heads/kernel", (4, 2, 3, 5), "3 of (4, 10): query, key and value along an axis"),
    ("layers/qkv/kernel", (7, 8, 3, 2, 5), "21 of (8, 10): query, key and value along an axis, stacked"),
    ("block/moe/w1", (7, 4, 6), "7 of (4, 6): experts"),
    ("block/experts_wi", (7, 4, 6), "7 of (4, 6): experts"),
    ("layer_0/attn/q_einsum/w", (3, 4, 5), "(4, 15): attention, heads together"),
    ("layer_0/attn/kv_einsum/w", (2, 3, 4, 5), "2 of (4, 15): attention, heads together"),
    ("layer_0/attn/attn_vec_einsum/w", (3, 5, 4), "(15, 4): attention, heads together"),
    ("layers/mlp/gating_einsum", (7, 2, 4, 6), "14 of (4, 6): gate and input along an axis, stacked"),
    ("gru/dense_h/kernel", (4, 12), "3 of (4, 4): gates side by side"),
    ("conv_local/kernel", (5, 24, 4), "filters that differ from place to place"),
    ("relative_position_bias_table", (49, 2), "an embedding"),
    ("pre_logits/kernel", (4, 6), "(4, 6): two axes"),
    ("mystery/kernel", (20, 20, 4, 6), "unclear: 4 axes may be layers, heads or a filter"),
    ("ScanCell_0/hf/kernel", (4, 6), "(4, 6): two axes"),
    ("ScanCell_0/conv/kernel", (3, 3, 4, 8), "unclear: a stack of filters, or one filter"),
    ("ScanCell_0/conv/kernel", (5, 3, 3, 4, 8), "5 of (36, 8): a convolution, stacked"),
    ("conv2d/w", (5, 3, 3, 4, 8), "5 of (36, 8): a convolution, stacked"),
    ("Conv_0/kernel", (3, 3, 3, 4, 8), "(108, 8): a convolution"),
    ("gru/w_h", (4, 12), "3 of (4, 4): gates side by side"),
    ("lora_b", (2, 6), "(2, 6): two axes"),
    ("mamba/A_log", (4, 6), "a bias or a scale"),
]


@pytest.mark.parametrize(("path", "shape", "expected"), NAMES, ids=[f"{path} {shape}" for path, shape, _ in NAMES])
def test_names_and_shapes_decide(path, shape, expected):
    (row,) = gc.describe(gc.muon(0.1), nested(path, jax.ShapeDtypeStruct(shape, "float32"))).rows
    assert ": ".join(filter(None, [row.seen_as, row.why])) == expected


def nested(path, x):
    for name in reversed(path.split("/") if path else []):
        x = {name: x}
    return x


@pytest.mark.parametrize(
    ("kernels", "expected"),
    [
        ({"Dense_0": (4, 9)}, {"Dense_0": "rest"}),
        ({"Dense_0": (4, 9), "Dense_1": (4, 9)}, {"Dense_0": "matrices", "Dense_1": "matrices"}),
        ({"Dense_0": (16, 9)}, {"Dense_0": "matrices"}),
        ({"Dense_0": (4, 9), "Block_0": (4, 9)}, {"Dense_0": "rest", "Block_0": "matrices"}),
    ],
    ids=["one", "two", "narrow", "in a block"],
)
def test_an_output_layer_without_a_name_is_the_only_one_with_a_column_for_each_embedding(kernels, expected):
    params = {name: {"kernel": jnp.ones(shape)} for name, shape in kernels.items()}
    labels = gc.hidden_matrices()(params | {"Embed_0": {"embedding": jnp.ones((9, 4))}})
    assert {name: labels[name]["kernel"] for name in kernels} == expected


def array(*shape):
    return jnp.asarray(np.random.default_rng(shape[0]).normal(size=shape), jnp.float32)


EQUIVALENT = {
    "linear layers of Equinox": (
        lambda: {"layer": eqx.tree_at(lambda x: x.weight, eqx.nn.Linear(4, 6, use_bias=False, key=KEY), array(6, 4))},
        lambda x: [x["layer"].weight.T],
    ),
    "filters of Equinox in groups": (
        lambda: eqx.tree_at(
            lambda x: x.weight, eqx.nn.Conv1d(4, 6, 3, groups=2, use_bias=False, key=KEY), array(6, 2, 3)
        ),
        lambda x: [half.transpose(2, 1, 0).reshape(6, 3) for half in jnp.split(x.weight, 2)],
    ),
    "filters of Haiku's transposed convolutions": (
        lambda: {"conv2_d_transpose": {"w": array(3, 3, 6, 4)}},
        lambda x: [x["conv2_d_transpose"]["w"].swapaxes(2, 3).reshape(36, 6)],
    ),
    "stacked projections of attention": (
        lambda: {"layers": {"attn": {"out": {"kernel": array(2, 3, 4, 5)}}}},
        lambda x: [each.reshape(12, 5) for each in x["layers"]["attn"]["out"]["kernel"]],
    ),
    "queries, keys and values in one array": (
        lambda: {"qkv": {"weight": array(12, 4)}},
        lambda x: [third.T for third in jnp.split(x["qkv"]["weight"], 3)],
    ),
    "variables of NNX": (
        lambda: nnx.State({"layers": {0: {"attn": {"query": {"kernel": nnx.Param(array(4, 2, 3))}}}}}),
        lambda x: [x["layers"][0]["attn"]["query"]["kernel"][...].reshape(4, 6)],
    ),
}


@gc.leafwise()
def by_row(g, slot, at, dims: DimensionNumbers | None = None):
    """Multiply row k of each matrix by k, and divide the matrix by its number of columns."""

    def scaled(x):
        rows, columns = x.shape[-2:]
        return x * jnp.broadcast_to(jnp.arange(rows)[:, None] / columns, x.shape)

    return view(g.shape, dims).map(scaled, g)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "matrices"), EQUIVALENT.values(), ids=EQUIVALENT)
def test_updates_are_those_of_the_matrices_alone(make, matrices):
    tx, gradient = gc.for_hidden_matrices(by_row(), gc.set_to_zero()), make()
    update = tx.update(gradient, tx.init(gradient))[0]
    for got, g in zip(matrices(update), matrices(gradient), strict=True):
        trees.assert_close(got, by_row().update(g, by_row().init(g))[0], 1e-6)


def test_heads_may_be_matrices_of_their_own():
    params = {"attn": {"query": {"kernel": jnp.ones((8, 2, 3))}, "out": {"kernel": jnp.ones((2, 3, 8))}}}
    attention = eqx.filter_eval_shape(lambda: EquinoxBlock(KEY).attn)
    tx = gc.muon(0.1, muon_weight_dimension_numbers=gc.hidden_matrices(per_head=True))
    assert [row.seen_as for row in gc.describe(tx, params).rows] == ["2 of (3, 8)", "2 of (8, 3)"]
    rows = gc.describe(tx, eqx.filter(attention, lambda x: hasattr(x, "shape"))).rows
    assert [row.seen_as for row in rows] == [*["2 of (8, 3)"] * 3, "2 of (3, 8)"]
    assert {row.why for row in rows} == {"attention, each head by itself"}


def test_a_short_name_is_that_of_a_bias_only_beside_weights_with_more_axes():
    lora = {"base": {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)}, "A": jnp.ones((4, 2)), "B": jnp.ones((2, 6))}
    tower = {"w": jnp.ones((5, 4, 6)), "b": jnp.ones((5, 6))}
    labels = gc.hidden_matrices(stacked=["tower"])({"lora": lora, "tower": tower, "b": jnp.ones((4, 4))})
    assert labels["lora"] == {"base": {"kernel": "matrices", "bias": "rest"}, "A": "matrices", "B": "matrices"}
    assert labels["tower"] == {"w": "matrices", "b": "rest"}
    assert labels["b"] == "matrices"


def test_what_differs_along_the_first_axis_is_no_stack():
    wide = {"wi": {"kernel": jnp.ones((4, 3, 6))}, "wo": {"kernel": jnp.ones((6, 3, 4))}}  # layers along axis 1
    hidden = gc.hidden_matrices([("layers/wo", gc.MuonDimensionNumbers(0, 2))])
    rows = gc.describe(gc.muon(0.1), {"layers": wide}).rows
    assert {row.why for row in rows} == {"unclear: a stack whose first axes differ"}
    rows = gc.describe(gc.muon(0.1, muon_weight_dimension_numbers=hidden), {"layers": wide}).rows
    assert [row.why for row in rows] == ["two axes, stacked", "as 'layers/wo' says"]  # one array alone can't differ


def test_gemmas_heads_may_be_matrices_of_their_own():
    params = {"attn": {"q_einsum": {"w": jnp.ones((3, 4, 5))}, "attn_vec_einsum": {"w": jnp.ones((3, 5, 4))}}}
    dims = gc.hidden_matrices(per_head=True).dimension_numbers(params)["attn"]
    assert dims["q_einsum"]["w"][:2] == (1, 2)
    assert dims["attn_vec_einsum"]["w"][:2] == (1, 2)


def test_patterns_override_what_names_say():
    params = {"a": {"kernel": jnp.ones((2, 4, 6))}, "b": {"kernel": jnp.ones((2, 4, 6))}, "c": jnp.ones((4, 6))}
    params |= {"d": {"kernel": jnp.ones((4, 9))}, "e": {"embedding": jnp.ones((9, 4))}}
    patterns = [("a", gc.MuonDimensionNumbers(2, 1)), ("c", None), ("d", gc.MuonDimensionNumbers())]
    hidden = gc.hidden_matrices(patterns, stacked=["b"])
    rows = gc.describe(gc.muon(0.1, muon_weight_dimension_numbers=hidden), params).rows
    assert [(row.seen_as, row.why) for row in rows] == [
        ("2 of (6, 4)", "as 'a' says"),
        ("2 of (4, 6)", "two axes, stacked"),
        ("", "as 'c' says"),
        ("(4, 9)", "as 'd' says"),
        ("", "an embedding"),
    ]


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda: gc.hidden_matrices({"w": jnp.ones(2)}), TypeError, "call what it returns"),
        (lambda: gc.hidden_matrices([("w", True)]), TypeError, "MuonDimensionNumbers or None, got"),
        (lambda: gc.hidden_matrices(stacked="layers"), TypeError, r"write \['layers'\]"),
        (lambda: gc.hidden_matrices([("[9-0]", None)]), ValueError, "range 9-0"),
        (lambda: init([("typo", None)]), ValueError, "'typo' matches no parameter; .* w"),
        (lambda: init([("w", gc.MuonDimensionNumbers(0, 5))]), ValueError, "axes must exist"),
    ],
)
def test_mistakes_are_told(use, error, message):
    with pytest.raises(error, match=message):
        use()


def init(patterns):
    tx = gc.muon(0.1, muon_weight_dimension_numbers=gc.hidden_matrices(patterns))
    return tx.init({"w": jnp.ones((2, 3))})


def test_a_chain_of_ones_own_gets_dimension_numbers_and_updates_need_no_parameters():
    params = {"Dense_0": {"kernel": array(4, 6), "bias": array(6)}, "conv": {"kernel": array(3, 3, 2, 5)}}
    tx = gc.for_hidden_matrices(gc.chain(gc.trace(0.9), gc.scale_by_shape()), gc.scale(2.0))
    assert tx == eval(repr(tx), public.NAMES) == gc.from_config(gc.to_config(tx))
    update, state = tx.update(params, tx.init(params))
    trees.assert_close(update["Dense_0"]["bias"], 2 * params["Dense_0"]["bias"], 0)
    assert update["conv"]["kernel"].shape == (3, 3, 2, 5)
    assert list(state.inner_states) == ["matrices", "rest"]
    own = gc.chain(gc.scale_by_muon(weight_dimension_numbers=gc.MuonDimensionNumbers(1, 0)), gc.scale_by_shape())
    filled = gc.for_hidden_matrices(own, gc.scale(2.0)).transforms["matrices"]
    assert filled.stages[0] == own.stages[0]
    assert filled.stages[1] != own.stages[1]


def test_patterns_with_dimension_numbers_travel_through_reprs_and_configs():
    hidden = gc.hidden_matrices(
        [("a", gc.MuonDimensionNumbers([0, 1], 2, 1, 3)), ("b", None)], stacked=["c"], per_head=True
    )
    tx = gc.muon(0.1, muon_weight_dimension_numbers=hidden)
    assert gc.from_config(gc.to_config(tx)) == tx == eval(repr(tx), public.NAMES)


@pytest.mark.parametrize("stacked", [(), ("layers",)])
def test_each_layer_by_itself_is_seen_like_a_stack_of_them(stacked):
    params = {"layers": {"attn": {"query": {"kernel": array(3, 4, 2, 5)}}, "w": array(3, 4, 6)}}
    tx = gc.for_hidden_matrices(by_row(), gc.set_to_zero(), gc.hidden_matrices(stacked=stacked))
    apart = gc.per_layer(tx, [("layers", 0)])
    trees.assert_close(apart.update(params, apart.init(params))[0], tx.update(params, tx.init(params))[0], 0)
    for each in (tx, apart):
        assert [row.seen_as for row in gc.describe(each, params).rows] == ["3 of (4, 10)", "3 of (4, 6)"]


def test_scion_has_its_norms_for_embeddings_heads_and_filters():
    params = {"Conv_0": {"kernel": array(3, 3, 2, 5)}, "embed": {"embedding": array(9, 4)}, "bias": array(4)}
    params |= {"attn": {"query": {"kernel": array(4, 2, 3), "bias": array(2, 3)}}, "lm_head": {"weight": array(9, 4)}}
    tx = gc.scion(1.0, constrained=False)
    labels = {row.path: row.labels[0] for row in gc.describe(tx, params).rows}
    assert labels == {
        "Conv_0/kernel": "hidden",
        "attn/query/bias": "rest.vectors",
        "attn/query/kernel": "hidden",
        "bias": "rest.vectors",
        "embed/embedding": "rest.head",
        "lm_head/weight": "rest.head",
    }
    assert gc.from_config(gc.to_config(tx)) == tx == eval(repr(tx), public.NAMES)


@pytest.mark.slow
def test_a_filter_has_the_same_norm_however_its_axes_lie():
    kernel = array(3, 3, 2, 5)
    equinox = eqx.tree_at(
        lambda x: x.weight, eqx.nn.Conv2d(2, 5, 3, use_bias=False, key=KEY), kernel.transpose(3, 2, 0, 1)
    )
    tx = gc.for_hidden_matrices(gc.scale_by_lmo(), gc.set_to_zero())
    plain = gc.scale_by_lmo("conv")
    expected = plain.update(kernel, plain.init(kernel))[0]
    trees.assert_close(tx.update(equinox, tx.init(equinox))[0].weight.transpose(2, 3, 1, 0), expected, 1e-5)
    stacked = {"layers": {"conv2d": {"w": jnp.stack([kernel, kernel])}}}
    trees.assert_close(tx.update(stacked, tx.init(stacked))[0]["layers"]["conv2d"]["w"][1], expected, 1e-5)


def test_axes_are_for_rules_that_treat_each_of_them():
    params = {"conv": {"kernel": array(3, 3, 2, 5)}, "w": array(4, 6)}
    tx = gc.shampoo(0.1, weight_dimension_numbers=gc.hidden_matrices([("conv", "axes")]))
    assert [row.seen_as for row in gc.describe(tx, params).rows] == ["axes of (3, 3, 2, 5)", "(4, 6)"]
    assert gc.from_config(gc.to_config(tx)) == tx
    by_tree = gc.shampoo(0.1, weight_dimension_numbers={"conv": "axes", "w": None})
    assert [row.seen_as for row in gc.describe(by_tree, params).rows] == ["axes of (3, 3, 2, 5)", ""]
    with pytest.raises(TypeError, match=r"scale_by_muon: weight_dimension_numbers must be MuonDim.*, got 'axes'"):
        gc.muon(0.1, muon_weight_dimension_numbers={"conv": "axes", "w": None})


def test_tables_show_rules_that_were_given_no_dimension_numbers():
    params = {"c": jnp.ones((2, 3, 4)), "w": jnp.ones((3, 4))}
    assert [row.seen_as for row in gc.describe(gc.scale_by_lmo(), params).rows] == ["", "(3, 4)"]


def test_galore_projects_hidden_matrices_alone():
    params = {"embed": {"embedding": array(9, 4)}, "conv": {"kernel": array(3, 3, 2, 5)}}
    tx = gc.scale_by_galore(2, weight_dimension_numbers=gc.hidden_matrices())
    state = tx.init(params)
    assert state.projector["embed"]["embedding"] is None
    assert state.projector["conv"]["kernel"].shape == (18, 2)


def test_leaves_that_are_no_arrays_of_real_numbers_belong_to_the_rest():
    params = {"act": jax.nn.relu, "steps": 3, "table": jnp.arange(6).reshape(2, 3), "w": jnp.ones((2, 3))}
    assert gc.hidden_matrices()(params) == {"act": "rest", "steps": "rest", "table": "rest", "w": "matrices"}


FOR_MATRICES = [gc.muon, gc.normuon, gc.dion2, gc.scion, gc.soap, gc.kl_shampoo, gc.splus, gc.shampoo, gc.kron]


def stacked_attention():
    attention = {"query": {"kernel": array(3, 8, 2, 4), "bias": array(3, 2, 4)}}
    return {"layers": {"attn": attention}, "embed": {"embedding": array(9, 8)}}


@pytest.mark.parametrize("optimizer", FOR_MATRICES, ids=lambda optimizer: optimizer.__name__)
def test_all_optimizers_for_matrices_see_the_same_and_their_bytes_add_up(optimizer):
    params = stacked_attention()
    tx = optimizer(0.01)
    described = gc.describe(tx, params)
    kernel = next(row for row in described.rows if row.path.endswith("kernel"))
    assert (kernel.seen_as, kernel.why) == ("3 of (8, 8)", "attention, heads together, stacked")
    state = jax.eval_shape(tx.init, params)
    assert described.state_bytes == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    assert described.state_bytes == described.shared_bytes + sum(row.state_bytes for row in described.rows)


RULES_FOR_MATRICES = {
    "muon": (gc.scale_by_muon, {"mu"}),
    "normuon": (gc.scale_by_normuon, {"mu", "nu"}),
    "dion2": (lambda: gc.scale_by_dion2(moment_decay=0.9), {"mu", "nu"}),
    "soap": (gc.scale_by_soap, {"mu", "nu"}),
    "soap, Kullback-Leibler": (lambda: gc.scale_by_soap(factors="kl"), {"mu", "nu"}),
    "kl_shampoo": (gc.scale_by_kl_shampoo, {"mu"}),
    "splus": (gc.scale_by_splus, {"mu"}),
    "whiten_momentum": (gc.whiten_momentum, {"mu", "nu"}),
    "shampoo": (gc.scale_by_shampoo, {"mu", "nu"}),
    "kron": (gc.scale_by_kron, {"mu"}),
    "orthogonalize_in_metric": (gc.orthogonalize_in_metric, {"energies"}),
}
"""What may be stored in fewer bits: averages of gradients and of their squares, element by element or by row."""


@pytest.mark.parametrize("rule", RULES_FOR_MATRICES)
def test_factors_and_what_is_made_of_them_keep_their_bits(rule):
    make, fewer = RULES_FOR_MATRICES[rule]
    params = {"w": jnp.ones((3, 8, 4), "bfloat16")}
    tx = gc.chain(make().replace(weight_dimension_numbers=gc.MuonDimensionNumbers(1, 2)), gc.scale(0.1))
    state = jax.eval_shape(gc.store(tx, "int8", min_size=1).init, params).inner_state[0]
    slots = {name: getattr(state, name) for name in state._fields if name not in ("count", "weight_sums", "key")}
    stored = {name: jax.tree.leaves(x, is_leaf=lambda x: isinstance(x, gc.Stored)) for name, x in slots.items()}
    assert {name for name, arrays in stored.items() if any(isinstance(x, gc.Stored) for x in arrays)} == fewer
    assert {x.dtype for name in {*slots} - fewer for x in stored[name]} <= {jnp.dtype("float32")}
    for name in {*slots} - fewer:
        for codec in ("int8", "bfloat16"):
            with pytest.raises(ValueError, match=rf"{name} needs all of its bits"):
                jax.eval_shape(gc.store(tx, **{name: codec}).init, params)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["int8", "bfloat16"])
@pytest.mark.parametrize("optimizer", FOR_MATRICES, ids=lambda optimizer: optimizer.__name__)
def test_their_state_may_be_stored_in_fewer_bits(optimizer, codec):
    params = stacked_attention()
    tx, exact = gc.store(optimizer(0.01), codec, min_size=1), optimizer(0.01)
    state, whole = tx.init(params), exact.init(params)
    assert sum(x.nbytes for x in jax.tree.leaves(state)) < sum(x.nbytes for x in jax.tree.leaves(whole))
    updates, after = quick.jit(tx.update)(params, state, params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    expected, _ = quick.jit(exact.update)(params, whole, params)
    trees.assert_close(updates, expected, 0.05)
