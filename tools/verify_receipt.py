"""Checks one receipt against the seal of its month, with nothing but Python; a signature also needs the package cryptography.

tokenledger receipt REQUEST_ID --format json > receipt.json
python tools/verify_receipt.py receipt.json ledger/2026-10/seal.json
"""

import hashlib
import json
import sys
from pathlib import Path

# The columns that a receipt's digest covers, in order, as the comment on ledger.receipt_digest says.
COLUMNS = """request_id created_at period user_id project api_key_id api_key_label run_id tags endpoint public_model api_model upstream_model
served_model route primary_channel backup_channel served_channel attempt_count retry_count fallback_count status outcome http_status
input_tokens cached_input_tokens cache_write_tokens output_tokens reasoning_tokens usage_source input_price_per_mtok output_price_per_mtok
list_charge final_charge vendor_charge currency balance_bucket wallet failed_request_policy wallet_entry_id adjustment_amount
adjustment_reason latency_ms first_token_ms fallback_latency_ms client_request_id upstream_request_id door savings
leakage vendor_difference""".split()


def check(receipt: dict, seal: dict) -> str:  # type: ignore[type-arg]
    """What is wrong, or nothing."""
    text = "".join(f"{name}\n" if receipt[name] is None else f"{name}={receipt[name]}\n" for name in COLUMNS)
    digest = hashlib.sha256(text.encode()).digest()
    if digest.hex() != receipt["receipt_digest"]:
        return "the receipt is not what its digest covers"
    at = hashlib.sha256(b"\0" + digest).digest()
    for step in (receipt["proof"] or {"siblings": []})["siblings"]:
        other = bytes.fromhex(step["hash"])
        at = hashlib.sha256(b"\1" + (other + at if step["side"] == "left" else at + other)).digest()
    if at.hex() != seal["receipts"]["root"] or receipt["period"] != seal["period"]:
        return "the receipt is not among those that the seal covers"
    covered = {name: value for name, value in seal.items() if name not in ("hash", "signature")}
    if hashlib.sha256(json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest() != seal["hash"]:
        return "the seal is not what its hash covers"
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415  the check above needs no package
    except ImportError:
        print("without the package cryptography the seal's signature was not checked", file=sys.stderr)
        return ""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(seal["public_key"])).verify(
            bytes.fromhex(seal["signature"]), seal["hash"].encode()
        )
    except Exception as error:  # noqa: BLE001  whatever is wrong with it, the signature does not hold
        return f"the seal's signature does not hold ({type(error).__name__})"
    return ""


if __name__ == "__main__":
    wrong = check(*(json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:3]))
    print(wrong or "the receipt is what was sealed")
    sys.exit(1 if wrong else 0)
