"""Exports of a month, one module a format; each writes the same rows in the same order to the last byte."""
