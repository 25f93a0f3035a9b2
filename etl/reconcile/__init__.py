"""A vendor's bill beside our books: who matches whom, and the gap between the two totals in named steps."""
