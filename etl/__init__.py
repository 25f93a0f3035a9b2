"""From raw records to a priced double-entry ledger: sources.py reads, models/ say what everything means, kernel.py runs them."""
