"""Tables that a person audits: which path is which endpoint, where usage and attribution lie, which tokenizer a model has."""
