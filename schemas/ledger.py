"""The published ledger as data: every table and column with its type and its meaning, in contract order.

The ETL publishes exactly these tables and refuses to publish anything else; the comments below become the comments in
the database. Amounts are DECIMAL(38,12), unit prices DECIMAL(18,12), counts BIGINT, instants TIMESTAMP in UTC, and
what is not known is NULL.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.money import AMOUNT_SQL, UNIT_PRICE_SQL

TEXT = "VARCHAR"
COUNT = "BIGINT"
INSTANT = "TIMESTAMP"
FLAG = "BOOLEAN"
DAY = "DATE"
AMOUNT = AMOUNT_SQL
UNIT_PRICE = UNIT_PRICE_SQL


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, its DuckDB type and its meaning."""

    name: str
    type: str
    doc: str


@dataclass(frozen=True, slots=True)
class Table:
    """One published table: what one row means, its columns in order, and the columns by which a build stores the rows it makes."""

    name: str
    doc: str
    order_by: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def column_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


def _table(name: str, doc: str, order_by: str, *columns: tuple[str, str, str]) -> Table:
    return Table(name, doc, tuple(order_by.split()), tuple(Column(*column) for column in columns))


_REQUEST_ID = ("request_id", TEXT, "the logical request: the id of the first request the client sent for it")
_PERIOD = (
    "period",
    TEXT,
    "the month YYYY-MM it is booked in: that of created_at in the book's time zone, or the first open one where it came after that closed",
)
_CURRENCY = ("currency", TEXT, "the currency of every amount in this row")
_STATUS = ("status", TEXT, "ok | failed | client_gone | rejected | unknown: how the request's last attempt ended")
_OUTCOME = (
    "outcome",
    TEXT,
    "ok, one of the failures named in failed_requests.csv, or unknown (it was opened and its end was never recorded)",
)
_HTTP_STATUS = ("http_status", "INTEGER", "the HTTP status the client saw, null if there was none")
_ATTEMPT_ORDINAL = ("attempt_ordinal", "INTEGER", "the attempt within the logical request; 0 where nothing was sent upstream")

LEDGER = _table(
    "ledger",
    "One row per logical request: what one call of an application asked, got and cost, an SDK's own retries included.",
    "created_at request_id",
    _REQUEST_ID,
    ("created_at", INSTANT, "when the first request's headers were complete at the door, UTC"),
    _PERIOD,
    ("user_id", TEXT, "who: key registry, then x-ledger-user, then the vendor's own user fields"),
    ("project", TEXT, "which project: key registry, then x-ledger-project, then the vendor's own project fields"),
    ("api_key_id", TEXT, "the key's stable id; the credential's fingerprint where the key is not registered"),
    ("api_key_label", TEXT, "the key's label; `unregistered` where the registry does not know it"),
    ("run_id", TEXT, "the agent run it belongs to, null if none was named"),
    ("tags", TEXT, "JSON object of the x-ledger-tag-NAME headers and the vendors' own tags, sorted by name, null if there were none"),
    ("endpoint", TEXT, "the endpoint, or the path where the endpoint is not understood"),
    ("public_model", TEXT, "the model name people see (models.toml), else the id the client sent"),
    ("api_model", TEXT, "the model id the client sent"),
    ("upstream_model", TEXT, "the model id sent to the channel that served or was tried last"),
    ("served_model", TEXT, "the model id in that channel's reply"),
    ("route", TEXT, "official | routed | pool: that of the channel that served or was tried last"),
    ("primary_channel", TEXT, "the channel that was to serve first"),
    ("backup_channel", TEXT, "the backup channel tried last, null unless one was tried"),
    ("served_channel", TEXT, "the channel that answered ok, null if none did"),
    ("attempt_count", "INTEGER", "tries sent upstream"),
    ("retry_count", "INTEGER", "tries again on the same channel, by the proxy or by the client's SDK"),
    ("fallback_count", "INTEGER", "moves to another channel"),
    _STATUS,
    _OUTCOME,
    _HTTP_STATUS,
    ("input_tokens", COUNT, "the whole input of the served (else last) attempt, cached included, whatever the dialect"),
    ("cached_input_tokens", COUNT, "of these, read from the vendor's cache"),
    ("cache_write_tokens", COUNT, "of these, written to the vendor's cache"),
    ("output_tokens", COUNT, "the whole output of the served (else last) attempt, reasoning included"),
    ("reasoning_tokens", COUNT, "of these, spent thinking"),
    (
        "usage_source",
        TEXT,
        "reported | partial (reported in part: the reply did not finish, or its output was counted by us) | recounted (tiktoken) | none",
    ),
    ("input_price_per_mtok", AMOUNT, "price of one million plain input tokens on the served (else last) attempt"),
    ("output_price_per_mtok", AMOUNT, "price of one million plain output tokens on the served (else last) attempt"),
    ("list_charge", AMOUNT, "what the same usage costs at list prices, null where a list price is missing"),
    ("final_charge", AMOUNT, "what it costs us: the sum over all attempts, null while any of them is not known"),
    ("vendor_charge", AMOUNT, "what the vendor said it charged, evidence only, rounded to 12 places; null if it did not say"),
    _CURRENCY,
    ("balance_bucket", TEXT, "the balance that pays the served (else last) attempt"),
    ("wallet", TEXT, "the wallet that pays"),
    ("failed_request_policy", TEXT, "policies that decided failed attempts, in order, joined by '; '; null if none failed"),
    ("wallet_entry_id", TEXT, "the wallet's journal entry of the served (else last posted) attempt, null if nothing was posted"),
    ("adjustment_amount", AMOUNT, "later adjustments, refunds and reversals that name this request, null if none"),
    ("adjustment_reason", TEXT, "their reasons, in order, joined by '; '"),
    ("latency_ms", COUNT, "created_at to the end of the last attempt"),
    ("first_token_ms", COUNT, "created_at to the first output of the served attempt"),
    ("fallback_latency_ms", COUNT, "first attempt's start to the start of the channel that served, null without a fallback"),
    ("client_request_id", TEXT, "x-client-request-id, else idempotency-key, as the client chose it"),
    ("upstream_request_id", TEXT, "the request id in the reply's headers of the served (else last) attempt"),
    ("door", TEXT, "gateway | forward; unknown where the request's own record was lost"),
    (
        "savings",
        AMOUNT,
        "list_charge less final_charge, failed tries included: what the contract saved; of requests that ended ok, null where either is unknown",
    ),
    ("leakage", AMOUNT, "the part of final_charge that paid for tries that did not end ok; null while any of them is not known"),
    (
        "vendor_difference",
        AMOUNT,
        "vendor_charge less final_charge: above zero the vendor says more than we booked; null where either is unknown",
    ),
    (
        "receipt_digest",
        TEXT,
        (
            "SHA-256 (hex) over the other columns in this order, each as `name=value` and a newline, a null as `name` and a newline; "
            "decimals with 12 places, instants as YYYY-MM-DDTHH:MM:SS.ffffffZ, counts in plain digits, UTF-8"
        ),
    ),
)

ATTEMPTS = _table(
    "attempts",
    "One row per try sent upstream, over all requests that an SDK's retries made of one logical request.",
    "request_id ordinal",
    _REQUEST_ID,
    ("ordinal", "INTEGER", "1, 2, ... within the logical request, in time"),
    ("channel", TEXT, "the channel tried"),
    ("role", TEXT, "primary | backup | direct (forward door: the client chose)"),
    ("reason", TEXT, "first | client_retry | retry | fallback | without_usage_option"),
    ("sent_model", TEXT, "the model id sent upstream"),
    ("served_model", TEXT, "the model id in the reply"),
    ("status", TEXT, "ok | failed | client_gone | unknown"),
    ("http_status", "INTEGER", "upstream's HTTP status, null if it never answered"),
    _OUTCOME,
    ("started_at", INSTANT, "just before the first byte left"),
    ("ended_at", INSTANT, "when it ended, null while that is not known"),
    ("charged", AMOUNT, "what this try costs, 0 where it is free, null while not known"),
    ("raw_request_id", TEXT, "the request as recorded at the door that this try served"),
    ("raw_ordinal", "INTEGER", "its ordinal there"),
    ("usage_source", TEXT, "reported | partial | recounted | none"),
    ("input_tokens", COUNT, "the whole input"),
    ("output_tokens", COUNT, "the whole output"),
    ("vendor_charge", AMOUNT, "what the vendor said it charged, evidence only"),
    ("bucket", TEXT, "the balance that pays this channel"),
    ("upstream_request_id", TEXT, "the request id in the reply's headers"),
    ("response_id", TEXT, "the vendor's id in the reply's body"),
    ("error", TEXT, "what went wrong, one scrubbed line"),
    ("disposition", TEXT, "charged | free | suspense"),
    ("disposition_reason", TEXT, "why it is free or in suspense, null where charged"),
    ("rule", TEXT, "what was billed: usage | input | flat | nothing | free | unpriced | unknown"),
    ("first_token_at", INSTANT, "first output of this try"),
    ("service_tier", TEXT, "the service tier it was charged at, null for the ordinary one"),
    ("region", TEXT, "the region that processed it, as it was priced; null where none in particular is known"),
    (
        "job_id",
        TEXT,
        "the vendor's id of the job (a background response, a batch, a video) that it asked for, polled or downloaded; else null",
    ),
    ("result_files", TEXT, "the files that a batch names as its output and its errors, a space between them; null where it names none"),
)

CHARGES = _table(
    "charges",
    "One row per attempt, model, meter and price (one per attempt and meter where one model answered at one price): quantity x "
    "unit_price = amount, exactly.",
    "request_id attempt_ordinal model meter rate_id list_rate_id",
    _REQUEST_ID,
    _ATTEMPT_ORDINAL,
    ("meter", TEXT, "what was counted; meters partition the total, each unit is in one of them"),
    ("quantity", COUNT, "units of the meter"),
    ("unit_price", UNIT_PRICE, "price of one unit"),
    ("amount", AMOUNT, "quantity x unit_price"),
    (
        "rate_id",
        TEXT,
        (
            "the row of rates.csv that set the price; of terms.csv where a term gives or adds the units; "
            "conversion: of fx.csv; flat_fee: of failed_requests.csv; rounding: the channel"
        ),
    ),
    ("rate_effective_from", INSTANT, "from when that row counts"),
    ("priced_as", TEXT, "the meter whose price was used: the meter itself, or the nearest one that stands for it"),
    ("list_unit_price", UNIT_PRICE, "the list price of one unit, null if there is none"),
    ("list_amount", AMOUNT, "quantity x list_unit_price"),
    ("list_rate_id", TEXT, "the row of rates.csv that set the list price"),
    ("model", TEXT, "the model whose price counts: the one sent, or that of a part that another model made; null for a rounding"),
    ("multiplier_id", TEXT, "the row of terms.csv whose multiplier is in the unit price, null for none"),
    ("fx_id", TEXT, "the row of fx.csv that converted the unit price, null where the price is in the book's currency"),
)

ALLOWANCE_USE = _table(
    "allowance_use",
    "One row per attempt and meter that a free allowance of terms.csv covers: how much of it was used before, and what is free.",
    "pool span used_at raw_request_id raw_ordinal piece meter",
    _REQUEST_ID,
    _ATTEMPT_ORDINAL,
    ("meter", TEXT, "what was counted"),
    ("term_id", TEXT, "the row of terms.csv"),
    ("pool", TEXT, "which allowance: what has one name counts together"),
    ("span", TEXT, "the calendar day or month of the vendor's zone"),
    ("quantity", COUNT, "units that count"),
    ("used_before", COUNT, "units of the same allowance and span that count before"),
    ("free_quantity", COUNT, "units that are free"),
    ("used_at", INSTANT, "when the request began"),
    ("raw_request_id", TEXT, "the request as recorded"),
    ("raw_ordinal", "INTEGER", "the attempt's ordinal there"),
    ("piece", TEXT, "the piece of the answer, where several models or the lines of a batch made it; else empty"),
)

PRICE_TERMS = _table(
    "price_terms",
    "One row per row of terms.csv, as it was when the ledger was built.",
    "term channel model meter effective_from term_id",
    ("term_id", TEXT, "names the row; charges refer to it"),
    ("channel", TEXT, "channel, or * for any"),
    ("model", TEXT, "upstream model id, or * for any"),
    ("meter", TEXT, "a meter, which stands for those inside it too, or * for any"),
    ("term", TEXT, "multiplier | minimum | step | allowance_day | allowance_month"),
    ("multiplier", UNIT_PRICE, "what unit prices are multiplied by, null for other terms"),
    ("quantity", COUNT, "units of the meter, null for a multiplier"),
    ("pool", TEXT, "which allowance it is, null for other terms"),
    ("effective_from", INSTANT, "counts from this instant"),
    ("effective_to", INSTANT, "until before this instant, null while it still counts"),
    ("source", TEXT, "where the term was read"),
    ("note", TEXT, "what else a person wrote beside it"),
    ("line", COUNT, "its line in terms.csv"),
)

EXCHANGE_RATES = _table(
    "exchange_rates",
    "One row per row of fx.csv, as it was when the ledger was built.",
    "currency effective_from fx_id",
    ("fx_id", TEXT, "names the row; charges refer to it"),
    ("currency", TEXT, "the foreign currency or credit"),
    ("rate", UNIT_PRICE, "units of the ledger's currency for one of it"),
    ("effective_from", INSTANT, "counts from this instant"),
    ("effective_to", INSTANT, "until before this instant, null while it still counts"),
    ("source", TEXT, "where the rate was read"),
    ("note", TEXT, "what else a person wrote beside it"),
    ("line", COUNT, "its line in fx.csv"),
)

JOURNAL = _table(
    "journal",
    "One leg of a balanced transaction; the legs of a transaction sum to zero per currency.",
    "posted_at transaction_id entry_id",
    ("transaction_id", TEXT, "a hash of what the transaction stands for"),
    ("entry_id", TEXT, "a hash of the transaction and the account"),
    ("posted_at", INSTANT, "service_at, brought inside the month it is booked in"),
    ("period", TEXT, "the month it is booked in"),
    ("account", TEXT, "wallet:<wallet>:<bucket>, usage: and rounding:<channel>, suspense:<why>, or a counter account of an admin entry"),
    ("amount", AMOUNT, "signed: what the account gains"),
    _CURRENCY,
    ("kind", TEXT, "charge | suspense | topup | adjustment | refund | expiry | transfer | reversal"),
    ("request_id", TEXT, "the logical request, null for entries that concern none"),
    (
        "reference",
        TEXT,
        "raw request id and ordinal of the attempt, or the admin entry's own reference; after `late:YYYY-MM:` where it came late for that month",
    ),
    ("actor", TEXT, "who entered it, null for what traffic caused"),
    ("reason", TEXT, "why, in their words; for suspense what is missing"),
    ("service_at", INSTANT, "when it happened: the attempt's start, or the admin event's instant"),
    ("reverses", TEXT, "the transaction of which this one is the exact negation, null for what is no reversal"),
)

WALLET_STATEMENT = _table(
    "wallet_statement",
    "One row per journal leg on a wallet, with the balance after it.",
    "wallet bucket posted_at entry_id",
    ("entry_id", TEXT, "the journal entry"),
    ("posted_at", INSTANT, "when it is posted"),
    ("wallet", TEXT, "the wallet"),
    ("bucket", TEXT, "the balance within it; buckets never net"),
    ("kind", TEXT, "charge | suspense | topup | adjustment | refund | expiry | transfer | reversal"),
    ("amount", AMOUNT, "signed: what the balance gains"),
    ("balance_after", AMOUNT, "the bucket's balance after this entry, in order of posted_at, then entry_id"),
    ("request_id", TEXT, "the logical request, null for entries that concern none"),
    ("actor", TEXT, "who entered it"),
    ("reason", TEXT, "why"),
    ("held_after", AMOUNT, "of the balance, what holds reserved at posted_at"),
    _CURRENCY,
    ("period", TEXT, "the month it is booked in"),
)

WALLET_BALANCES = _table(
    "wallet_balances",
    "One row per wallet, bucket and currency: the balance after everything posted.",
    "wallet bucket currency",
    ("wallet", TEXT, "the wallet"),
    ("bucket", TEXT, "the balance within it"),
    _CURRENCY,
    ("balance", AMOUNT, "sum of its journal legs; below zero where it is overdrawn"),
    ("held", AMOUNT, "what holds reserve at the build's instant (--as-of, else the newest record); it has not moved"),
    ("available", AMOUNT, "balance less held"),
)

WALLET_HOLDS = _table(
    "wallet_holds",
    "One row per hold: an amount of a bucket that is reserved, without moving, from placed_at until before ends_at.",
    "wallet bucket placed_at hold_id",
    ("hold_id", TEXT, "the event that placed it"),
    ("wallet", TEXT, "the wallet"),
    ("bucket", TEXT, "the balance within it"),
    _CURRENCY,
    ("amount", AMOUNT, "what is reserved"),
    ("placed_at", INSTANT, "from when"),
    ("held_until", INSTANT, "when it ends by itself"),
    ("released_at", INSTANT, "when somebody released it before that, null if nobody did"),
    ("ends_at", INSTANT, "the earlier of the two: open at an instant T where placed_at <= T < ends_at"),
    ("request_id", TEXT, "the request it is for, if one"),
    ("actor", TEXT, "who placed it"),
    ("reason", TEXT, "why"),
    ("reference", TEXT, "their reference"),
    ("period", TEXT, "the month it was placed in"),
    ("released_period", TEXT, "the month it was released in"),
)

WALLET_LOTS = _table(
    "wallet_lots",
    "One row per top-up as a lot. What a bucket spends is taken first from credit that no top-up brought (refunds, adjustments), then "
    "from its lots: the one that lapses first, and of equals the oldest; a lot is drawn only from when it was posted, and what is "
    "overdrawn is taken from the next. The reversal of a top-up takes back its own lot, and what was spent from it is drawn from the others.",
    "wallet bucket posted_at lot_id",
    ("lot_id", TEXT, "the wallet's journal entry of the top-up"),
    ("wallet", TEXT, "the wallet"),
    ("bucket", TEXT, "the balance within it"),
    _CURRENCY,
    ("posted_at", INSTANT, "when it was posted"),
    ("paid", AMOUNT, "money paid for it, null if nobody said"),
    ("credit", AMOUNT, "what it added to the balance, bonus included"),
    ("bonus", AMOUNT, "of this, given and not bought"),
    ("expires", INSTANT, "when it lapses, null if it does not; nothing lapses without an entry that says so"),
    ("remaining", AMOUNT, "what is left of it after everything posted; 0 where it was reversed"),
    (
        "paid_for_spent",
        AMOUNT,
        "the money that the spent part cost: paid x (credit - remaining) / credit, half to even; 0 of a reversed top-up; null if nobody said",
    ),
    ("period", TEXT, "the month it was booked in"),
)

BALANCE_PROOF = _table(
    "balance_proof",
    "One row per month, wallet and bucket: opening + topups + bonuses - charges - suspense + adjustments + refunds - expiries + transfers "
    "+ reversals = closing, and what the vendor showed.",
    "period wallet bucket currency",
    ("period", TEXT, "the month"),
    ("wallet", TEXT, "the wallet"),
    ("bucket", TEXT, "the balance within it"),
    _CURRENCY,
    ("opening", AMOUNT, "the balance before the month"),
    ("topups", AMOUNT, "credit bought"),
    ("bonuses", AMOUNT, "credit given with it"),
    ("charges", AMOUNT, "what traffic cost"),
    ("adjustments", AMOUNT, "corrections, signed: what the balance gained"),
    ("refunds", AMOUNT, "money that came back"),
    ("expiries", AMOUNT, "credit that lapsed"),
    ("closing", AMOUNT, "the balance after the month"),
    ("snapshot", AMOUNT, "the last balance the vendor showed in the month, null if none was recorded"),
    ("difference", AMOUNT, "snapshot less our balance at that instant"),
    ("first_broken_day", DAY, "the UTC day of the first snapshot of the month that is not our balance, null while all agree"),
    ("suspense", AMOUNT, "the known part of what is in suspense"),
    ("transfers", AMOUNT, "what came from other balances, less what went to them"),
    ("reversals", AMOUNT, "what exact negations of earlier transactions gave and took"),
)

UNPRICED = _table(
    "unpriced",
    "One row per attempt and meter whose charge is not known; its money is in a suspense account and its month cannot close.",
    "request_id attempt_ordinal meter reason",
    _REQUEST_ID,
    ("channel", TEXT, "the channel tried"),
    ("api_model", TEXT, "the model id the client sent"),
    ("upstream_model", TEXT, "the model id sent upstream"),
    ("meter", TEXT, "the meter without a price, null where no usage is known"),
    ("quantity", COUNT, "its units, null where no usage is known"),
    ("reason", TEXT, "what is missing"),
    _ATTEMPT_ORDINAL,
    _PERIOD,
)

FAILED_REQUESTS = _table(
    "failed_requests",
    "One row per request that did not end ok: the ledger's facts, the policy that decided, and what it charged.",
    "created_at request_id",
    *((c.name, c.type, c.doc) for c in LEDGER.columns if c.name != "receipt_digest"),
    ("policy_rule", TEXT, "what those policies charge: none | input | observed | reported | flat, in order, joined by '; '"),
    ("policy_charged", AMOUNT, "what the failed attempts were charged, null while not known"),
    ("error", TEXT, "the last attempt's error, one scrubbed line"),
)

ROUTE_HEALTH = _table(
    "route_health",
    "One row per month, channel and upstream model: how the route did. Percentiles are exact, by nearest rank.",
    "period channel model",
    _PERIOD,
    ("channel", TEXT, "the channel"),
    ("model", TEXT, "the model id sent to it"),
    ("requests", COUNT, "logical requests that tried it"),
    ("ok", COUNT, "attempts that ended ok"),
    ("failed", COUNT, "attempts that did not"),
    ("retries", COUNT, "attempts that tried the same channel again"),
    ("fallbacks", COUNT, "attempts that came here because another channel failed"),
    ("p50_ms", COUNT, "median time of an ok attempt, start to end"),
    ("p95_ms", COUNT, "95th percentile of the same"),
    ("first_token_p50_ms", COUNT, "median time of an ok attempt, start to first output"),
    ("fallback_added_ms", COUNT, "median time lost before this channel was asked, of requests it served as a backup"),
    ("failed_cost", AMOUNT, "what its failed attempts were charged, as far as it is known; null where nothing of it is"),
)

USAGE_DAILY = _table(
    "usage_daily",
    "One row per UTC day, project, user, key, model, channel and bucket: requests, tokens and charges.",
    "day project user_id api_key_id public_model served_channel balance_bucket route endpoint",
    ("day", DAY, "the UTC day of created_at"),
    ("project", TEXT, "as in ledger"),
    ("user_id", TEXT, "as in ledger"),
    ("api_key_id", TEXT, "as in ledger"),
    ("public_model", TEXT, "as in ledger"),
    ("endpoint", TEXT, "as in ledger"),
    ("served_channel", TEXT, "as in ledger"),
    ("route", TEXT, "as in ledger"),
    ("balance_bucket", TEXT, "as in ledger"),
    ("requests", COUNT, "logical requests"),
    ("ok", COUNT, "of these, ended ok"),
    ("attempts", COUNT, "tries sent upstream"),
    ("input_tokens", COUNT, "sum of the ledger's column"),
    ("cached_input_tokens", COUNT, "sum of the ledger's column"),
    ("output_tokens", COUNT, "sum of the ledger's column"),
    ("reasoning_tokens", COUNT, "sum of the ledger's column"),
    ("charged", AMOUNT, "sum of final_charge where it is known, null where it never is"),
    ("list_charge", AMOUNT, "sum of list_charge, null while any of them is not known"),
    ("unpriced", COUNT, "requests whose charge is not known"),
    _CURRENCY,
)

KEY_USAGE = _table(
    "key_usage",
    "One row per month and API key: what went through it.",
    "period api_key_id api_key_label user_id project wallet",
    _PERIOD,
    ("api_key_id", TEXT, "as in ledger"),
    ("api_key_label", TEXT, "as in ledger"),
    ("user_id", TEXT, "as in ledger"),
    ("project", TEXT, "as in ledger"),
    ("wallet", TEXT, "as in ledger"),
    ("requests", COUNT, "logical requests"),
    ("ok", COUNT, "of these, ended ok"),
    ("rejected", COUNT, "of these, refused by the proxy"),
    ("input_tokens", COUNT, "sum of the ledger's column"),
    ("output_tokens", COUNT, "sum of the ledger's column"),
    ("charged", AMOUNT, "sum of final_charge where it is known, null where it never is"),
    ("unpriced", COUNT, "requests whose charge is not known"),
    ("monthly_limit", AMOUNT, "the key's limit (its newest row in the month), null if it has none"),
    ("first_used_at", INSTANT, "first request of the month"),
    ("last_used_at", INSTANT, "last request of the month"),
    _CURRENCY,
)

MODEL_PRICES = _table(
    "model_prices",
    "One row per row of rates.csv, as it was when the ledger was built.",
    "book channel model meter effective_from rate_id",
    ("rate_id", TEXT, "names the row; charges refer to it"),
    ("book", TEXT, "charge (what we pay) | list (the official reference)"),
    ("channel", TEXT, "channel, or * for any"),
    ("model", TEXT, "upstream model id, or * for any"),
    ("meter", TEXT, "what is priced"),
    ("unit_price", UNIT_PRICE, "price of one unit"),
    ("price", AMOUNT, "price as written"),
    ("per", AMOUNT, "units that price is for"),
    _CURRENCY,
    ("effective_from", INSTANT, "counts from this instant"),
    ("effective_to", INSTANT, "until before this instant, null while it still counts"),
    ("service_tier", TEXT, "only for this service tier, null for any"),
    ("min_input_tokens", COUNT, "only from this many input tokens on, null for any"),
    ("hours", TEXT, "only in these hours of the vendor's day, null for any"),
    ("weekdays", TEXT, "only on these days of the vendor's week, null for any"),
    ("region", TEXT, "only where this region processed it, null for any"),
    ("endpoint", TEXT, "only for this endpoint, null for any"),
    ("marginal", FLAG, "only for the tokens of a prompt from min_input_tokens on; else that is a cliff for the whole"),
    ("source", TEXT, "where the price was read"),
    ("note", TEXT, "what else a person wrote beside it"),
    ("line", COUNT, "its line in rates.csv"),
)

KEY_PERMISSIONS = _table(
    "key_permissions",
    "One row per key and stretch of time: what it was allowed, as keys.toml said when the ledger was built.",
    "id line",
    ("id", TEXT, "the key's stable id"),
    ("label", TEXT, "the name people saw"),
    ("valid_from", INSTANT, "in force from here on, null: since ever"),
    ("valid_to", INSTANT, "until before here, null: without end"),
    ("models", TEXT, "the only model ids it might ask for, as a JSON list; null: any"),
    ("routes", TEXT, "the only routes it might take, as a JSON list; null: any"),
    ("monthly_limit", AMOUNT, "the most it might spend in a month, null: no limit"),
    ("enforce", FLAG, "the gateway refused what was not allowed; else it was flagged"),
    ("expires", INSTANT, "refused from here on, null: never"),
    ("trusted", FLAG, "its x-ledger-* headers won over the registry"),
    ("line", COUNT, "the row's place by id and beginning"),
)

AUDIT_TRAIL = _table(
    "audit_trail",
    "One row per recorded event: admin entries, changes of the book, closings undone, losses and their acknowledgement, starts and stops "
    "of proxies. Each row's hash covers the row before it.",
    "number",
    ("event_id", TEXT, "the event"),
    ("at", INSTANT, "when"),
    ("period", TEXT, "the month that contains it"),
    ("event", TEXT, "what kind of event"),
    ("actor", TEXT, "who, for what a person did"),
    ("reason", TEXT, "why, in their words"),
    ("reference", TEXT, "their reference"),
    ("request_id", TEXT, "the request it concerns, if one"),
    ("facts", TEXT, "the event's own facts as JSON"),
    ("transaction_id", TEXT, "the journal transaction it caused, null if it moved no money"),
    ("number", COUNT, "its place in the chain: closed months first, then by instant and event"),
    ("prev_hash", TEXT, "the hash of the row before it; 64 zeros before the first"),
    (
        "hash",
        TEXT,
        (
            "SHA-256 (hex) over prev_hash and a newline, then event_id, at, event, actor, reason, reference, request_id and facts, each as "
            "`name=value` and a newline, a null as `name` and a newline"
        ),
    ),
)

RECONCILIATION = _table(
    "reconciliation",
    "One row per figure of a vendor beside ours: charges it reported in its replies, wallet snapshots, and what its bills compare with.",
    "period source subject",
    ("period", TEXT, "the month it is booked in; of a bill, the month it is for"),
    ("source", TEXT, "reply (a charge stood in the vendor's reply) | snapshot (a recorded balance) | bill (a stored bill)"),
    ("subject", TEXT, "the request, wallet:bucket at an instant, or the line or bucket of a bill"),
    ("request_id", TEXT, "the logical request, null where there is none or more than one"),
    ("channel", TEXT, "the channel, null where there is none or more than one"),
    ("our_amount", AMOUNT, "what we booked (of a bill: in its month), null while not known or where there is nothing"),
    ("vendor_amount", AMOUNT, "what the vendor says, null where the bill has nothing"),
    (
        "difference",
        AMOUNT,
        "vendor_amount less our_amount; of a bill, a side that has nothing counts as zero, and where neither has it is null",
    ),
    ("class", TEXT, "matched | mismatch | unknown (ours is not known yet); of a bill: matched | mismatch | vendor_only | ours_only"),
    _CURRENCY,
    ("vendor", TEXT, "who sent the bill, null unless source is bill"),
    ("match_id", TEXT, "names the lines and requests that are compared here; null unless source is bill"),
    ("grain", TEXT, "how they were found: request_id | time_model_tokens | time_model | hour | day | month | bucket | none"),
    ("bill_lines", COUNT, "lines of the bill"),
    ("requests", COUNT, "requests of ours that are booked in its month"),
    ("step", TEXT, "the step of the waterfall that most of the difference went to, null where there is none"),
    ("reason", TEXT, "what was seen, in plain words"),
    ("money_is_ours", FLAG, "the bill names no money here: its tokens at our prices"),
)

BILLS = _table(
    "bills",
    "One row per stored bill: one vendor, month and account. A corrected bill takes the place of the one before it.",
    "vendor period account",
    ("vendor", TEXT, "who sent it"),
    ("period", TEXT, "the month it is for"),
    ("account", TEXT, "the account it is for; default where neither the bill nor the importer names one"),
    ("file", TEXT, "the name it came under"),
    ("sha256", TEXT, "of the file as received"),
    ("mapping", TEXT, "the mapping that reads it"),
    ("zone", TEXT, "the vendor's zone, in which its months begin"),
    ("channels", TEXT, "the channels it is for"),
    ("lines", COUNT, "its lines"),
    ("total", AMOUNT, "the sum of its lines, payments excepted, as far as it names money"),
    ("without_money", COUNT, "lines that count tokens and name no amount"),
)

BILL_LINES = _table(
    "bill_lines",
    "One row per line of a stored bill, and the one class it is in.",
    "vendor period account number",
    ("vendor", TEXT, "who sent the bill"),
    ("period", TEXT, "the month it is for"),
    ("account", TEXT, "the account it is for"),
    ("number", COUNT, "CSV: the line of the file; JSON: the record, counted from 1"),
    ("kind", TEXT, "usage | fee (fees, taxes, credits) | payment (no part of the total)"),
    ("class", TEXT, "matched | mismatch | vendor_only; null for a payment"),
    ("match_id", TEXT, "the row of reconciliation that it is compared in; null for a payment"),
    ("at", INSTANT, "when the call was, or the first instant of the bucket"),
    ("until", INSTANT, "the first instant after the bucket, null for a call"),
    ("ids", TEXT, "the ids of the call that it tells, joined by ', '"),
    ("model", TEXT, "the model as the vendor names it"),
    ("item", TEXT, "what else the vendor calls the line"),
    ("requests", COUNT, "calls in the bucket, where it tells"),
    ("input_tokens", COUNT, "the whole input, cached included"),
    ("cached_tokens", COUNT, "of these, read from the cache"),
    ("output_tokens", COUNT, "the whole output"),
    ("service_tier", TEXT, "the tier that it names"),
    ("amount", AMOUNT, "in the ledger's currency, null where the bill names no money"),
    ("written_amount", TEXT, "as it stands in the bill"),
    ("written_currency", TEXT, "as it stands in the bill"),
)

RECONCILIATION_REQUESTS = _table(
    "reconciliation_requests",
    "One row per vendor with a bill and request of ours on its channels in the bill's month: the one class it is in.",
    "vendor period request_id",
    ("vendor", TEXT, "who sent the bill"),
    ("period", TEXT, "the month"),
    _REQUEST_ID,
    ("class", TEXT, "matched (also: nothing is due and nothing billed) | mismatch | ours_only"),
    ("match_id", TEXT, "the row of reconciliation that it is compared in"),
    ("our_amount", AMOUNT, "what its tries on the vendor's channels cost, null while none of it is known"),
)

RECONCILIATION_WATERFALL = _table(
    "reconciliation_waterfall",
    "One row per vendor and month with a bill, and step: what part of the gap between the two totals has this name. The steps add up to it.",
    "vendor period place",
    ("vendor", TEXT, "who sent the bill"),
    ("period", TEXT, "the month"),
    ("place", COUNT, "the step's place, 1 first"),
    ("step", TEXT, "its name"),
    ("amount", AMOUNT, "what the vendor wants more (or less) than we booked, for this reason"),
    ("groups", COUNT, "rows of reconciliation that have a part in it"),
    ("rule", TEXT, "what the step means"),
    ("vendor_total", AMOUNT, "what the vendor wants for the month; where its bill names no money, its tokens at our prices"),
    ("our_total", AMOUNT, "what we booked on the vendor's channels in the month, as far as it is known"),
    ("gap", AMOUNT, "vendor_total less our_total"),
    _CURRENCY,
)

RECONCILED_MONTHS = _table(
    "reconciled_months",
    "One row per month and vendor that has a bill for it or was sent requests in it: how far the bill and the books agree.",
    "period vendor",
    ("period", TEXT, "the month"),
    ("vendor", TEXT, "who sends the bill"),
    ("state", TEXT, "no_bill | equal (no step between them) | explained (every step has a name) | unexplained (something is left)"),
    ("bills", COUNT, "bills that are stored for it"),
    ("vendor_total", AMOUNT, "what the vendor wants, null without a bill"),
    ("our_total", AMOUNT, "what we booked on the vendor's channels in the month, as far as it is known"),
    ("gap", AMOUNT, "vendor_total less our_total, null without a bill"),
    ("unexplained", AMOUNT, "the part of the gap that no step names, null without a bill"),
    _CURRENCY,
)

RUNS = _table(
    "runs",
    "One row per agent run: every request that named it, in one total.",
    "run_id",
    ("run_id", TEXT, "the run as the requests named it"),
    ("first_at", INSTANT, "its first request"),
    ("last_at", INSTANT, "its last request"),
    ("requests", COUNT, "logical requests"),
    ("ok", COUNT, "of these, ended ok"),
    ("attempts", COUNT, "tries sent upstream"),
    ("input_tokens", COUNT, "sum of the ledger's column"),
    ("output_tokens", COUNT, "sum of the ledger's column"),
    ("final_charge", AMOUNT, "sum of final_charge, null while any of them is not known"),
    ("known_charge", AMOUNT, "sum of final_charge where it is known, null where it never is"),
    ("list_charge", AMOUNT, "sum of list_charge, null while any of them is not known"),
    ("unpriced", COUNT, "requests whose charge is not known"),
    ("users", COUNT, "distinct users"),
    ("projects", COUNT, "distinct projects"),
    _CURRENCY,
)

PERIODS = _table(
    "periods",
    "One row per month that has a request or an entry: its bounds, its totals and what stands against closing it.",
    "period",
    ("period", TEXT, "the month YYYY-MM in the book's time zone"),
    ("starts_at", INSTANT, "its first instant, UTC"),
    ("ends_at", INSTANT, "the first instant after it, UTC"),
    ("status", TEXT, "open | closed"),
    ("requests", COUNT, "logical requests"),
    ("charged_requests", COUNT, "of these, with a known charge and at least one posting"),
    ("free_requests", COUNT, "of these, with nothing to pay"),
    ("suspense_requests", COUNT, "of these, in suspense"),
    ("charged", AMOUNT, "sum of final_charge where it is known, null where it never is"),
    ("suspense", AMOUNT, "the known part of what is in suspense"),
    ("unpriced", COUNT, "rows of unpriced"),
    ("blockers", COUNT, "rows of data_quality that stand against closing"),
    _CURRENCY,
    ("seal_hash", TEXT, "the hash in its seal.json, null while it is open"),
)

DATA_QUALITY = _table(
    "data_quality",
    "One row per thing a person should know about the data: losses, quarantined files, open holds, clock steps and the like.",
    "kind period subject detail",
    ("kind", TEXT, "what kind of finding"),
    ("period", TEXT, "the month it belongs to, null where no instant is known, and for a hold, which may last longer"),
    ("subject", TEXT, "what it is about: a file, a journal, a request, a key, an endpoint"),
    ("detail", TEXT, "what was found, and what to do where something can be done"),
    ("rows", COUNT, "how many rows it concerns"),
    ("blocks_close", FLAG, "true: the month cannot close while it stands"),
)

REQUEST_FINDINGS = _table(
    "request_findings",
    "One row per request and thing a person should know about it; `data_quality` adds them up by subject.",
    "period kind subject request_id",
    _REQUEST_ID,
    _PERIOD,
    ("kind", TEXT, "what kind of finding"),
    ("subject", TEXT, "what it is about: a request, an endpoint, a channel and a model"),
    ("detail", TEXT, "what was found"),
    ("rows", COUNT, "how many rows of the request it concerns"),
    ("blocks_close", FLAG, "true: the month cannot close while it stands and nobody acknowledged its subject"),
)

REQUEST_IDS = _table(
    "request_ids",
    "One row per id under which a logical request can be looked up.",
    "id kind request_id",
    ("id", TEXT, "the id as it was sent or received"),
    ("kind", TEXT, "request | linked | client_request_id | idempotency_key | upstream_request_id | response_id | wallet_entry_id"),
    _REQUEST_ID,
)

ATTRIBUTION = _table(
    "attribution",
    "One row per statement about who a request belongs to: the one that counts, and those that were only claimed.",
    "request_id fact standing source value",
    _REQUEST_ID,
    ("fact", TEXT, "user_id | project | run_id | tag:<name>"),
    ("value", TEXT, "what was stated"),
    ("source", TEXT, "who stated it: registry, a header's name, a body field"),
    ("standing", TEXT, "applied | claimed"),
)

ATTEMPT_POLICY = _table(
    "attempt_policy",
    "One row per failed attempt: the policy row that decided what it costs.",
    "request_id attempt_ordinal raw_request_id",
    _REQUEST_ID,
    _ATTEMPT_ORDINAL,
    ("raw_request_id", TEXT, "the request as recorded at the door"),
    ("channel", TEXT, "the channel tried, null where nothing was sent"),
    _OUTCOME,
    ("policy_id", TEXT, "the row of failed_requests.csv, null if none applies"),
    ("policy", TEXT, "its name"),
    ("charge", TEXT, "what it charges: none | input | observed | reported | flat"),
    ("flat_amount", AMOUNT, "the flat amount, null unless charge is flat"),
    ("effective_from", INSTANT, "from when that row counts"),
    ("contract_amount", AMOUNT, "what that row makes due for this try, worked out from its usage and rates; null while not known"),
    ("booked_amount", AMOUNT, "what the journal took from the wallet for it, 0 where nothing was posted; null while it is in suspense"),
    ("booked_bucket", TEXT, "the balance it was taken from: that of its own channel; null where nothing was posted"),
    ("vendor_amount", AMOUNT, "what the vendor said it charged for it; null: not reported"),
)

DISPOSITIONS = _table(
    "dispositions",
    "One row per request as recorded at a door: where it ended. raw rows = charged + free + suspense + duplicates.",
    "raw_request_id",
    ("raw_request_id", TEXT, "the request as recorded"),
    _REQUEST_ID,
    _PERIOD,
    ("disposition", TEXT, "charged | free | suspense | duplicate (the other door recorded the same call, and that record counts)"),
    ("reason", TEXT, "why it is free, in suspense or a duplicate, null where charged"),
    ("raw_rows", COUNT, "raw rows that carried it; 0 where its record was lost and its attempts were found"),
    ("duplicates", COUNT, "of these, copies of the first; all of them where it is a duplicate itself"),
    ("duplicate_of", TEXT, "the recorded request that counts in its place, null where it counts itself"),
    ("writer", TEXT, "the journal that recorded the first"),
    ("seq", COUNT, "its place there"),
)

EVIDENCE = _table(
    "evidence",
    "One row per thing that a gateway beyond ours told about its route, kept beside our own facts and never in their place.",
    "request_id attempt_ordinal gateway fact source",
    _REQUEST_ID,
    _ATTEMPT_ORDINAL,
    ("gateway", TEXT, "whose way of saying it this is; a relay may have copied it through"),
    (
        "fact",
        TEXT,
        "upstream_model | asked_model | provider | retries | fallbacks | fallback_index | request_id | vendor_cost | cache_status ...",
    ),
    ("value", TEXT, "as it was written"),
    ("source", TEXT, "header NAME, body PATH, or the usage object's place and PATH"),
)

MODEL_SUBSTITUTION = _table(
    "model_substitution",
    "One row per attempt and source that says which model served it: asked, sent and served, and how the last two compare.",
    "request_id attempt_ordinal source",
    _REQUEST_ID,
    ("asked", TEXT, "the model id the client sent"),
    ("sent", TEXT, "the model id sent upstream"),
    ("served", TEXT, "the model id that the source says served it"),
    ("verdict", TEXT, "same | snapshot (the sent name and a date) | alias (the sent name promises no particular model) | different"),
    ("source", TEXT, "body model, or the header or member that said so"),
    _ATTEMPT_ORDINAL,
    ("channel", TEXT, "the channel tried"),
)

BUILD_INPUTS = _table(
    "build_inputs",
    "One row per journal: how far this ledger has read it.",
    "writer",
    ("writer", TEXT, "the journal"),
    ("last_seq", COUNT, "the last sequence number that was read"),
)

TABLES: tuple[Table, ...] = (
    LEDGER,
    ATTEMPTS,
    CHARGES,
    ALLOWANCE_USE,
    PRICE_TERMS,
    EXCHANGE_RATES,
    JOURNAL,
    WALLET_STATEMENT,
    WALLET_BALANCES,
    WALLET_HOLDS,
    WALLET_LOTS,
    BALANCE_PROOF,
    UNPRICED,
    FAILED_REQUESTS,
    ROUTE_HEALTH,
    USAGE_DAILY,
    KEY_USAGE,
    MODEL_PRICES,
    KEY_PERMISSIONS,
    AUDIT_TRAIL,
    RECONCILIATION,
    RECONCILIATION_REQUESTS,
    RECONCILIATION_WATERFALL,
    RECONCILED_MONTHS,
    BILLS,
    BILL_LINES,
    RUNS,
    PERIODS,
    DATA_QUALITY,
    REQUEST_FINDINGS,
    REQUEST_IDS,
    ATTRIBUTION,
    ATTEMPT_POLICY,
    DISPOSITIONS,
    EVIDENCE,
    MODEL_SUBSTITUTION,
    BUILD_INPUTS,
)
BY_NAME: dict[str, Table] = {table.name: table for table in TABLES}
