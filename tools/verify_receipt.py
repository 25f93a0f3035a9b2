"""Checks one receipt against the seal of its month, with nothing but Python; a signature also needs the package cryptography.

tokenledger receipt REQUEST_ID --format json > receipt.json
python tools/verify_receipt.py receipt.json ledger/2026-10/seal.json
"""

import json
import sys
from hashlib import sha256
from pathlib import Path

# The columns that a receipt's digest covers, in order, as the comment on ledger.receipt_digest says.
COLUMNS = """request_id created_at period user_id project api_key_id api_key_label run_id tags endpoint public_model api_model upstream_model
served_model route primary_channel backup_channel served_channel attempt_count retry_count fallback_count status outcome http_status
input_tokens cached_input_tokens cache_write_tokens output_tokens reasoning_tokens usage_source input_price_per_mtok output_price_per_mtok
list_charge final_charge vendor_charge currency balance_bucket wallet failed_request_policy wallet_entry_id adjustment_amount
adjustment_reason latency_ms first_token_ms fallback_latency_ms client_request_id upstream_request_id door savings
leakage vendor_difference""".split()

receipt, seal = (json.loads(Path(path).read_text(encoding="utf-8")) for path in sys.argv[1:3])
lines = (f"{name}\n" if receipt[name] is None else f"{name}={receipt[name]}\n" for name in COLUMNS)
digest = sha256("".join(lines).encode()).digest()
root = sha256(b"\0" + digest).digest()
for step in receipt["proof"]["siblings"] if receipt["proof"] else []:
    other = bytes.fromhex(step["hash"])
    root = sha256(b"\1" + (other + root if step["side"] == "left" else root + other)).digest()
signed = {name: value for name, value in seal.items() if name not in ("hash", "signature")}
text = json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
holds = {
    "the receipt is not what its digest covers": digest.hex() == receipt["receipt_digest"],
    "the receipt is not among those that the seal covers": [root.hex(), receipt["period"]] == [seal["receipts"]["root"], seal["period"]],
    "the seal is not what its hash covers": sha256(text.encode()).hexdigest() == seal["hash"],
}
try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey as Key

    Key.from_public_bytes(bytes.fromhex(seal["public_key"])).verify(bytes.fromhex(seal["signature"]), seal["hash"].encode())
except ImportError:
    print("without the package cryptography the seal's signature was not checked", file=sys.stderr)
except (InvalidSignature, ValueError) as error:
    holds[f"the seal's signature does not hold ({type(error).__name__})"] = False
wrong = [what for what, good in holds.items() if not good]
print(wrong[0] if wrong else "the receipt is what was sealed")
sys.exit(1 if wrong else 0)
