"""The pages over the published ledger: `app.py` wires them, `pages/` says what each shows, `guard.py` who may look.

They read what `tokenledger ledger` published and build nothing. Each page is one function from a read-only connection and
the query string to a `Page` of notices, figures and tables; `templates/` turns that into HTML without scripts.
"""
