"""The commands that read: receipts, ad hoc SQL, exports, rates, keys and balances."""
