"""Leaves these tests, which import every client library, uncollected unless they are asked for (``-m accept``)."""


def pytest_ignore_collect(collection_path, config):
    return True if config.option.markexpr != "accept" else None
