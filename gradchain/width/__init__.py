"""Learning rates that transfer from narrow models to wide ones: ratios of widths, formulas by rule, muP."""
