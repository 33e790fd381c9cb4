"""Building, finding and switching off kernels; none of it needs a compiler."""

import stat
import sys

import jax
import jax.numpy as jnp
import pytest

import gradchain as gc
from gradchain.native import library
from tests.trees import assert_close


@pytest.fixture(autouse=True)
def empty(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(library.SWITCH, "1")


def compiler(folder, script):
    """Return the path of a program that stands for a compiler."""
    file = folder / "compiler"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


def test_nothing_is_there_before_it_is_built():
    assert not library.available()


def test_without_a_compiler_building_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match=r"no C\+\+ compiler no-such-compiler.*pip install 'gradchain\[native\]'"):
        library.build()


@pytest.mark.parametrize("installed", [True, False])
def test_where_no_compiler_is_found_that_of_ziglang_is_used_if_it_is_installed(monkeypatch, tmp_path, installed):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    if installed:
        (tmp_path / "ziglang.py").touch()
        assert library.compiler()[:4] == [sys.executable, "-m", "ziglang", "c++"]
        monkeypatch.setenv("CXX", "another-one")
        with pytest.raises(RuntimeError, match=r"no C\+\+ compiler another-one"):
            library.compiler()
    else:
        with pytest.raises(RuntimeError, match=r"no C\+\+ compiler c\+\+; install one"):
            library.compiler()


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", compiler(tmp_path, "echo no such header >&2; exit 1"))
    with pytest.raises(RuntimeError, match=r"handler.*\.cc.*failed:\nno such header"):
        library.build()
    assert not library.location().exists()


def test_the_compiler_gets_jaxs_headers_and_the_result_is_put_in_its_place(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", compiler(tmp_path, 'for x; do :; done; echo "$@" > "$x"'))
    made = library.build()
    assert made == library.location()
    assert f"-I{jax.ffi.include_dir()}" in made.read_text().split()
    assert list(made.parent.iterdir()) == [made]


def test_a_library_that_cant_be_loaded_is_left_alone():
    library.location().parent.mkdir(parents=True)
    library.location().write_text("no library")
    assert not library.available()


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_update_params_is_update_and_apply_updates(jitted, dtype):
    tx = gc.adamw(0.1)
    params, grads = {"w": jnp.arange(4, dtype=dtype), "none": jnp.ones(2)}, {"w": jnp.ones(4, dtype), "none": None}
    state = tx.init(params)
    call = jax.jit(gc.update_params) if jitted else gc.update_params
    updates, expected = tx.update(grads, state, params)
    assert_close(call(tx, grads, state, params), (gc.apply_updates(params, updates), expected), 1e-6)
    assert jnp.all(call(tx, grads, state, params)[0]["w"] != params["w"])


def test_update_params_hands_on_extra_arguments():
    tx, w = gc.polyak_sgd(1.0), jnp.array(2.0)
    updates, _ = tx.update(w, tx.init(w), w, value=w**2 / 2)
    assert gc.update_params(tx, w, tx.init(w), w, value=w**2 / 2)[0] == w + updates != w
