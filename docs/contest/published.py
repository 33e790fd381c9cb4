"""Ratios that others have published, for the same question on language models."""

PUBLISHED = {
    "modded-nanogpt, track 3 (124M); steps over 4,950, AdamW's best (pull request 353, open)": {
        "muon": "0.66",
        "normuon": "0.66",
        "soap": "0.61, with norm control",
        "kl_soap": "0.61, with norm control",
        "kron": "0.68, with norm control",
        "shampoo": "0.68 one-sided, 0.83 with power -1/4",
    },
    "Wen et al. 2025, arXiv 2509.02046": {
        "muon": "0.7 at 130M, 0.9 at 1.2B",
        "soap": "0.7 at 130M, 0.9 at 1.2B",
    },
    "arXiv 2510.25000, methods that whiten": {"soap": "0.66 to 0.83"},
    "arXiv 2512.05620 (190M to 1.4B, width scaled by muP)": {
        "muon": "about 0.7",
        "soap": "about 0.7",
        "shampoo": "about 0.7",
    },
    "Liu et al. 2025, arXiv 2502.16982, users of Muon; compute": {"muon": "about 0.5"},
    "SOAP's authors, arXiv 2409.11321 (360M and 660M)": {"soap": "0.6"},
    "SPlus's authors, arXiv 2506.07254v2": {"splus": "0.44"},
    "AdEMAMix's authors, arXiv 2409.03137 (1.3B)": {"ademamix": "0.51"},
}
"""By source and optimizer."""
