"""Leaves these tests, which need the type checkers of ``make lint``, uncollected unless they are asked for."""


def pytest_ignore_collect(collection_path, config):
    return True if config.option.markexpr != "lint" else None
