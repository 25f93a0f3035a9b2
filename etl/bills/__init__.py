"""Vendors' bills: kept as received in book/bills/, and read by mappings that are data, never by a branch for a vendor."""
