"""Check that a built site's search finds the right page first: ``python docs/check_search.py docs/_build/html``.

The ranking is that of Sphinx's searchtools.js: titles, entries of the index, names of the reference, words.
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path

QUERIES = {
    "quickstart": "quickstart",
    "learning rate finder": "howto/find_a_learning_rate",
    "find learning rate": "howto/find_a_learning_rate",
    "lr finder": "howto/find_a_learning_rate",
    "range test": "howto/find_a_learning_rate",
    "print learning rate": "howto/log_the_learning_rate",
    "freeze layers": "howto/freeze_layers",
    "fine-tuning": "howto/freeze_layers",
    "clip gradients": "tutorial_network",
    "gradient clipping": "tutorial_network",
    "nan": "howto/debug_a_nan",
    "nan loss": "howto/debug_a_nan",
    "weight decay mask": "routing",
    "parameter groups": "routing",
    "resume": "howto/resume",
    "checkpoint": "checkpoints",
    "gradient accumulation": "howto/accumulate_gradients",
    "ema": "averaging",
    "ema of weights": "averaging",
    "mixed precision": "precision",
    "autocast": "precision",
    "GradScaler": "precision",
    "bfloat16": "precision",
    "half precision": "precision",
    "8-bit adam": "precision",
    "vmap learning rates": "tutorial_values",
    "hyperparameter search": "populations",
    "L-BFGS": "minimise",
    "minimize": "minimise",
    "newton": "second_order",
    "curve fitting": "fit_a_curve",
    "muon": "optimizers/muon",
    "SOAP": "optimizers/soap",
    "NorMuon": "optimizers/normuon",
    "Shampoo": "optimizers/shampoo",
    "Kron": "optimizers/kron",
    "Schedule-Free+": "optimizers/schedule_free_plus_adamw",
    "hidden matrices": "layers_and_matrices",
    "muP": "width_transfer",
    "width transfer": "width_transfer",
    "learning rate transfer": "width_transfer",
    "coordinate check": "width_transfer",
    "layer-wise learning rate": "width_transfer",
    "recipes": "recipes",
    "hyperball": "recipes",
    "SOAP-Muon": "recipes",
    "benchmark": "which_optimizer",
    "adamw": "optimizers/adamw",
    "DataLoader": "data",
    "grain": "data",
    "tf.data": "data",
    "generator": "data",
    "memory-mapped": "data",
    "sharding": "sharding",
    "multiple gpus": "sharding",
    "optax names": "optax_names",
    "migrate from optax": "coming_from_optax",
    "pytorch": "coming_from_torch",
    "warmup cosine schedule": "hyperparameters",
    "custom optimizer": "write_a_transform",
    "combinator": "write_a_combinator",
    "flax": "howto/flax_linen",
    "flax nnx": "howto/flax_nnx",
    "nnx": "howto/flax_nnx",
    "equinox": "howto/equinox",
    "haiku": "howto/haiku",
    "batchnorm": "howto/flax_linen",
    "batch_stats": "howto/flax_linen",
    "early stopping": "training_loop",
    "callback": "watch_training",
    "tensorboard": "watch_training",
    "tensorboardx": "watch_training",
    "wandb": "watch_training",
    "csv": "watch_training",
    "progress bar": "watch_training",
    "loss not decreasing": "is_it_working",
    "slot": "glossary",
}
"""What is typed, and the page that answers it."""


def load(site):
    """Return the index that Sphinx wrote for a site."""
    text = (site / "searchindex.js").read_text()
    return json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))


def search(index, query, stem, stopwords=()):
    """Return the pages that a query finds, the best first, each once."""
    words = re.findall(r"\w+", query.lower())
    terms = {stem(w) for w in words if w not in stopwords and not w.isdecimal()}
    found = [
        *by_title(index, query.lower().strip()),
        *by_index(index, query.lower().strip()),
        *by_name(index, set(words)),
        *by_words(index, terms),
    ]
    found.sort(key=lambda one: (-one[0], one[1].lower()))
    return list(dict.fromkeys(index["docnames"][file] for _, _, file in found))


def by_title(index, query):
    for title, places in index["alltitles"].items():
        if query in title.lower() and len(query) >= len(title) / 2:
            score = int(15 * len(query) / len(title) + 0.5)
            for file, _ in places:
                whole = index["titles"][file]
                shown = title if whole == title else f"{whole} > {title}"
                yield score + (whole == title), shown, file


def by_index(index, query):
    for entry, places in index["indexentries"].items():
        if query in entry and len(query) >= len(entry) / 2:
            score = int(100 * len(query) / len(entry) + 0.5)
            for file, _, is_main in places:
                yield score if is_main else -1, index["titles"][file], file


def by_name(index, words):
    """Find functions and classes, whose names, kinds and pages must have all words of a query."""
    for prefix, members in index["objects"].items():
        for file, kind, priority, _, name in members:
            full = f"{prefix}.{name}".strip(".")
            last = full.lower().split(".")[-1]
            title, kind_name = index["titles"][file], index["objnames"][str(kind)][2]
            text = f"{prefix} {name} {kind_name} {title}".lower()
            for word in words:
                if word not in full.lower() or any(w not in text for w in words):
                    continue
                match = 11 if word in (last, full.lower()) else 6 * (word in last)
                yield match + {0: 15, 1: 5, 2: -5}.get(priority, 0), full, file


def by_words(index, words):
    """Find pages that have all words, each scored by its best one."""
    scores = defaultdict(dict)
    for word in words:
        for table, exact, partial in (("terms", 5, 2), ("titleterms", 15, 7)):
            known = index[table]
            partly = () if len(word) < 3 or word in known else known
            hits = [(word, exact)] if word in known else []
            hits += [(other, partial) for other in partly if word in other]
            for other, score in hits:
                files = (
                    known[other] if isinstance(known[other], list) else [known[other]]
                )
                for file in files:
                    scores[file][word] = score
    needed = {len(words), sum(len(word) > 2 for word in words)}
    for file, by_word in scores.items():
        if len(by_word) in needed:
            yield max(by_word.values()), index["titles"][file], file


def problems(index, stem, stopwords=(), queries=QUERIES):
    """Return the queries that don't find their page first, as lines of text."""
    lines = []
    for query, page in queries.items():
        found = search(index, query, stem, stopwords)
        if found[:1] != [page]:
            first = ", ".join(found[:3]) or "nothing"
            lines.append(f"{query!r} should find {page} first, and finds {first}")
    return lines


if __name__ == "__main__":
    from sphinx.search.en import SearchEnglish

    language = SearchEnglish({})
    wrong = problems(load(Path(sys.argv[1])), language.stem, language.stopwords)
    print("\n".join(wrong) or f"{len(QUERIES)} queries find their pages")
    sys.exit(bool(wrong))
