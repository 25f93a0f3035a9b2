"""One file a page: a function from a read-only connection and the query string to what is shown."""
