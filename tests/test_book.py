"""The book: the example loads, every refusal names its place and its cure, and prices are exact or refused."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.book import Book, BookError, Problem, book_of, load_book, read_files
from schemas.bookfile import toml_lines
from schemas.errors import UsageError
from schemas.instants import parse_instant, write_instant
from schemas.meters import METERS
from schemas.money import MoneyError, unit_price
from schemas.policies import OUTCOMES, ruling
from schemas.rates import Use, applicable

EXAMPLE = Path(__file__).parent.parent / "data" / "book"

RATES_HEADER = (
    "channel,model,meter,price,per,currency,effective_from,effective_to,book,service_tier,min_input_tokens,hours,weekdays,source,note"
)
POLICY_HEADER = "policy,channel,outcome,charge,effective_from,effective_to,note"

# A small book that stands; each refusal below spoils one place of it.
SMALL = {
    "book.toml": 'currency = "USD"\ntimezone = "UTC"\n\n[capture]\nbodies = "keep"\n',
    "channels.toml": """\
[[channel]]
name = "vendor"
base_url = "https://api.vendor.example/v1"
route = "official"
bucket = "official_credit"
default = true

[[channel]]
name = "router"
base_url = "https://api.router.example/v1"
route = "routed"
bucket = "routed_balance"
retry_on = [429, "connect"]
""",
    "models.toml": """\
[[model]]
public = "Small"
api = "small"
[[model.channel]]
name = "router"
upstream = "x/small"
[[model.channel]]
name = "vendor"
upstream = "small"
""",
    "keys.toml": """\
[[key]]
id = "k1"
label = "Ada"
fingerprint = "fp_11111111111111111111111111111111"
wallet = "main"
""",
    "rates.csv": f"""\
{RATES_HEADER}
vendor,small,input,0.15,1000000,USD,2026-01-01T00:00:00Z,,,,,,,price page,
vendor,small,output,0.60,1000000,USD,2026-01-01T00:00:00Z,,,,,,,price page,
router,x/small,input,0.10,1000000,USD,2026-01-01T00:00:00Z,,,,,,,contract,
""",
    "failed_requests.csv": "\n".join([POLICY_HEADER, *(f"p,*,{outcome},none,2026-01-01T00:00:00Z,," for outcome in OUTCOMES)]) + "\n",
}


def write(folder: Path, **changed: str | bytes | None) -> Path:
    """The small book in `folder`/book, with files replaced (dots in names written as `__`) or left out (None)."""
    book = folder / "book"
    book.mkdir(parents=True, exist_ok=True)
    files: dict[str, str | bytes | None] = {**SMALL, **{name.replace("__", "."): content for name, content in changed.items()}}
    for name, content in files.items():
        if content is not None:
            (book / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return book


def problems(folder: Path) -> list[str]:
    """What the loader says of a book that does not stand."""
    with pytest.raises(BookError) as caught:
        load_book(folder)
    assert isinstance(caught.value, UsageError)
    assert caught.value.exit_code == 2
    return str(caught.value).split("\n")


def faults(files: dict[str, bytes]) -> tuple[Problem, ...]:
    """The problems of a book given as bytes; none where it stands."""
    try:
        book_of("book", files)
    except BookError as error:
        return error.problems or (Problem("book", 0, "", None, "an error without a problem", ""),)
    return ()


def rates(*rows: str) -> str:
    """A rates.csv with these rows below the small book's three: the first is on line 5."""
    return SMALL["rates.csv"] + "".join(row + "\n" for row in rows)


def test_the_example_book_stands() -> None:
    """The example has three vendors, two marketplaces and a pool, and its rows cover every way to every model."""
    book = load_book(EXAMPLE)
    assert {c.route for c in book.channels} == {"official", "routed", "pool"}
    assert {c.bucket for c in book.channels} == {"official_credit", "routed_balance", "pool"}
    assert len(book.models) >= 10
    assert book.default_channel is not None
    at = parse_instant("2026-11-23T12:00:00Z")
    for model in book.models:
        for way in model.channel:
            for kind in ("charge", "list"):
                priced = [m for m in ("input", "output") if applicable(book.rates, kind, Use(way.name, way.upstream, m, at))]
                assert "input" in priced, (kind, way)
                assert "output" in priced or "embedding" in way.upstream, (kind, way)


def test_a_price_change_is_two_dated_rows() -> None:
    """GPT-5.6 Luna fell from 1.00 to 0.20 USD per million input tokens on 30 July 2026: each side has its own row."""
    book = load_book(EXAMPLE)
    change = parse_instant("2026-07-30T00:00:00Z")
    before, after = (applicable(book.rates, "charge", Use("openai", "gpt-5.6-luna", "input", at))[0] for at in (change - 1, change))
    assert (before.unit_price, after.unit_price) == (Decimal("0.000001"), Decimal("0.0000002"))
    assert before.effective_to == after.effective_from == change


def test_peak_hours_and_long_prompts_win_where_they_apply() -> None:
    """DeepSeek doubles 01:00-04:00 UTC on working days only; OpenAI doubles above 272,000 prompt tokens, in each tier."""
    book = load_book(EXAMPLE)

    def price(channel: str, model: str, when: str, tier: str | None = None, tokens: int = 0) -> Decimal:
        return applicable(book.rates, "charge", Use(channel, model, "input", parse_instant(when), tier, tokens))[0].price

    friday, saturday = "2026-11-20", "2026-11-21"
    assert price("deepseek", "deepseek-flash", f"{friday}T00:59:59.999999Z") == Decimal("0.15")
    assert price("deepseek", "deepseek-flash", f"{friday}T01:00:00Z") == Decimal("0.3")
    assert price("deepseek", "deepseek-flash", f"{friday}T04:00:00Z") == Decimal("0.15")
    assert price("deepseek", "deepseek-flash", f"{saturday}T01:00:00Z") == Decimal("0.15")
    long = [price("openai", "gpt-6.1-sol", "2026-11-20T00:00:00Z", tier, n) for tier in (None, "flex") for n in (272000, 272001)]
    assert long == [Decimal(2), Decimal(4), Decimal(1), Decimal(2)]


def test_a_configured_zero_is_a_price_and_an_absent_row_is_none() -> None:
    """The pool's tokens cost zero by a row; a model that nobody priced has no row at all."""
    book = load_book(EXAMPLE)
    at = parse_instant("2026-11-20T00:00:00Z")
    assert applicable(book.rates, "charge", Use("team-pool", "gpt-6-luna", "input", at))[0].unit_price == 0
    assert applicable(book.rates, "charge", Use("openai", "no-such-model", "input", at)) == []


def test_a_channels_own_policy_beats_the_general_one() -> None:
    """Mid-stream failures cost what the marketplace reports there, and what was seen elsewhere."""
    policies = load_book(EXAMPLE).policies
    at = parse_instant("2026-11-20T00:00:00Z")
    found = [ruling(policies, channel, "error_mid_stream", at) for channel in ("cheap-router", "openai")]
    assert [policy and policy.charge for policy in found] == ["reported", "observed"]
    refusal = ruling(policies, None, "rejected_by_proxy", at)
    assert refusal is not None
    assert refusal.charge == "none"


def test_defaults_are_the_contracts(tmp_path: Path) -> None:
    """An empty book.toml and a channel of four fields get the defaults that the contract and the example name."""
    book = load_book(write(tmp_path, book__toml="", keys__toml=None, models__toml=None))
    s, c = book.settings, book.channels[0]
    assert (s.currency, s.timezone, s.close_after_h, s.unknown_keys) == ("USD", "UTC", 24, "record")
    assert (s.capture.bodies, s.capture.body_days, s.forward.unrecorded) == ("keep", 30, "allow")
    assert (s.gateway.unrecorded, s.gateway.drain_after_client_gone_s) == ("refuse", 120)
    assert (c.vendor, c.timeout_s, c.max_retries, c.inject_usage, c.hosts) == ("vendor", 600, 2, False, ())
    assert (book.models, book.keys) == ((), ())
    assert load_book(EXAMPLE).settings == s


# file, what stands there, what is put instead, the place that must be named, and words of what and cure.
REFUSALS = [
    ("book.toml", 'currency = "USD"', 'currency = "usd"', "book.toml:1 currency 'usd'", "capital letters"),
    ("book.toml", 'timezone = "UTC"', 'timezone = "Berlin"', "book.toml:2 timezone 'Berlin'", "Europe/Berlin"),
    ("book.toml", 'bodies = "keep"', 'bodies = "all"', "book.toml:5 capture.bodies 'all'", "'keep', 'encrypted' or 'digest'"),
    ("book.toml", 'bodies = "keep"', 'body_dayz = 3', "book.toml:5 capture.body_dayz", "did you mean 'body_days'"),
    ("book.toml", 'bodies = "keep"', 'body_days = "3"', "book.toml:5 capture.body_days '3'", "valid integer"),
    ("book.toml", "[capture]", "[capture", "book.toml:4 TOML", "mend the TOML on this line"),
    ("book.toml", "[capture]", "second_person_above = 500\n[capture]", "book.toml:4 second_person_above '500'", 'put it in quotes: "500"'),
    ("channels.toml", 'name = "router"\n', "", "channels.toml:8 name", "add `name = …`"),
    ("channels.toml", 'name = "router"', 'name = "vendor"', "channels.toml:9 name 'vendor'", "line 2 has this name too"),
    ("channels.toml", 'name = "router"', 'name = "*"', "channels.toml:9 name '*'", "use letters"),
    ("channels.toml", "retry_on", 'usage_dialect = "openay"\nretry_on', "channels.toml:13 usage_dialect 'openay'", "'gemini', 'perplexity' or 'xai'"),
    ("channels.toml", 'route = "routed"', 'route = "cheap"', "channels.toml:11 route 'cheap'", "'official', 'routed' or 'pool'"),
    ("channels.toml", "https://api.router.example/v1", "ftp://x", "channels.toml:10 base_url 'ftp://x'", "http://HOST"),
    ("channels.toml", "router.example/v1", "router.example/v1?k=1", "channels.toml:10 base_url", "query"),
    ("channels.toml", '"routed_balance"', '"Routed Balance"', "channels.toml:12 bucket 'Routed Balance'", "small letters"),
    ("channels.toml", '429, "connect"', '429, "never"', "channels.toml:13 retry_on", "list statuses from 400 to 599"),
    ("channels.toml", '429, "connect"', '"conect", true', "channels.toml:13 retry_on '[\"conect\", true]'", "conect is not a failure"),
    ("channels.toml", '429, "connect"', "200", "channels.toml:13 retry_on", "list statuses from 400 to 599"),
    ("channels.toml", "retry_on", 'hosts = ["https://x"]\nretry_on', "channels.toml:13 hosts 'https://x'", "host name without scheme"),
    ("channels.toml", "retry_on", 'rounding = { unit = "0" }\nretry_on', "channels.toml:13 rounding.unit '0'", "above zero"),
    ("channels.toml", "retry_on", "rounding = { unit = 0.1 }\nretry_on", "channels.toml:13 rounding.unit '0.1'", "put it in quotes"),
    ("channels.toml", "retry_on", "default = true\nretry_on", "channels.toml:13 default 'true'", "line 6 is the default already"),
    ("channels.toml", "retry_on", 'apikey = "sk-secret"\nretry_on', "channels.toml:13 apikey 'sk-s…'", "did you mean 'api_key_env'"),
    ("channels.toml", "retry_on", 'api_key_env = "sk-secret"\nretry_on', "channels.toml:13 api_key_env 'sk-s…'", "never the key itself"),
    ("channels.toml", "retry_on", "timeout_s = 0\nretry_on", "channels.toml:13 timeout_s '0'", "greater than 0"),
    ("channels.toml", "[[channel]]\nname = \"router\"", "[[chanel]]\nname = \"router\"", "channels.toml:8 chanel", "[[channel]] entries only"),
    ("models.toml", 'name = "vendor"', 'name = "vendr"', "models.toml:8 channel.name 'vendr'", "did you mean 'vendor'"),
    ("models.toml", 'upstream = "small"', "", "models.toml:7 channel.upstream", "add `upstream = …`"),
    ("models.toml", 'name = "vendor"\nupstream = "small"', 'name = "router"\nupstream = "x/small"', "models.toml:8 channel.name 'router'", "named twice"),
    ("models.toml", 'upstream = "small"\n', 'upstream = "small"\n[[model]]\npublic = "S"\napi = "small"\n[[model.channel]]\nname = "vendor"\nupstream = "s"\n',
     "models.toml:12 api 'small'", "line 3 has this id too"),
    ("models.toml", 'upstream = "small"\n', 'upstream = "small"\n[[model]]\npublic = "S"\napi = "s"\n', "models.toml:10 channel", "one or more [[model.channel]]"),
    ("keys.toml", "fp_1111111111", "sk-proj-abcdef", "keys.toml:4 fingerprint 'sk-p…'", "`tokenledger key add`"),
    ("keys.toml", 'wallet = "main"', 'wallet = "a:b"', "keys.toml:5 wallet 'a:b'", "without ':'"),
    ("keys.toml", 'wallet = "main"', 'wallet = "main"\nmonthly_limit = "1e3"', "keys.toml:6 monthly_limit '1e3'", "digits with at most one point"),
    ("keys.toml", 'wallet = "main"', 'wallet = "main"\nexpires = 2027-01-01T00:00:00', "keys.toml:6 expires", "with its offset"),
    ("keys.toml", 'wallet = "main"', 'wallet = "main"\nroutes = ["oficial"]', "keys.toml:6 routes 'oficial'", "'official', 'routed' or 'pool'"),
    ("keys.toml", 'wallet = "main"', 'wallet = "main"\nmodels = []', "keys.toml:6 models", "leave the field out to allow all"),
    ("keys.toml", 'wallet = "main"', 'wallet = "main"\nfrom = 2026-02-01T00:00:00Z\nto = 2026-02-01T00:00:00Z', "keys.toml:7 to '2026-02-01T00:00:00Z'",
     "write a later instant"),
    ("rates.csv", "0.15,", "0.0000001,", "rates.csv:2 price '0.0000001'", "use fewer decimals"),
    ("rates.csv", "0.15,", "1.5e-1,", "rates.csv:2 price '1.5e-1'", "digits with at most one point"),
    ("rates.csv", "0.15,", "-0.15,", "rates.csv:2 price '-0.15'", "zero or more"),
    ("rates.csv", "0.15,", ",", "rates.csv:2 price ''", "digits with at most one point"),
    ("rates.csv", "0.15,1000000", "0.15,7", "rates.csv:2 price '0.15'", "per a power of ten"),
    ("rates.csv", "0.15,1000000", "0.15,0", "rates.csv:2 per '0'", "number of units"),
    ("rates.csv", "vendor,small,output", "vendor,small,outptu", "rates.csv:3 meter 'outptu'", "did you mean 'output'"),
    ("rates.csv", "vendor,small,output", "vendor,small,flat_fee", "rates.csv:3 meter 'flat_fee'", "failed_requests.csv"),
    ("rates.csv", "vendor,small,output", "vendor,small,rounding", "rates.csv:3 meter 'rounding'", "channels.toml"),
    ("rates.csv", "router,x/small", "ruter,x/small", "rates.csv:4 channel 'ruter'", "did you mean 'router'"),
    ("rates.csv", "router,x/small", "router,", "rates.csv:4 model ''", "write a value"),
    ("rates.csv", "0.10,1000000,USD", "0.10,1000000,EUR", "rates.csv:4 currency 'EUR'", "convert the price and write USD"),
    ("rates.csv", "USD,2026-01-01T00:00:00Z", "USD,2026-01-01", "rates.csv:2 effective_from '2026-01-01'", "2026-11-01T00:00:00Z"),
    ("rates.csv", "USD,2026-01-01T00:00:00Z", "USD,2026-02-30T00:00:00Z", "rates.csv:2 effective_from '2026-02-30T00:00:00Z'", "no such instant"),
    ("rates.csv", "USD,2026-01-01T00:00:00Z", "USD,2026-01-01T00:00:00+01:75", "rates.csv:2 effective_from '2026-01-01T00:00:00+01:75'", "its offset"),
    ("rates.csv", "USD,2026-01-01T00:00:00Z", "USD,9999-12-31T23:00:00-05:00", "rates.csv:2 effective_from '9999-12-31T23:00:00-05:00'", "no such instant"),
    ("rates.csv", "USD,2026-01-01T00:00:00Z,,,,,,,price page,\n", "USD,2026-01-01T00:00:00Z,,,,,,,price page,\nvendor,small,input,0.15,1000000,USD,2026-01-01T05:30:00+05:30,,,,,,,price page,\n", "rates.csv:3 effective_from '2026-01-01T05:30:00+05:30'", "line 2"),
    ("rates.csv", "USD,2026-01-01T00:00:00Z,,,,,,,price page,\n", "USD,2026-01-01T00:00:00Z,2026-03-01T05:30:00+05:30,,,,,,price page,\nvendor,small,input,0.15,1000000,USD,2026-02-01T05:30:00+05:30,,,,,,,price page,\n", "rates.csv:3 effective_from '2026-02-01T05:30:00+05:30'",
     "line 2 ends 2026-03-01T05:30:00+05:30, line 3 begins 2026-02-01T05:30:00+05:30 — end line 2 at 2026-02-01T05:30:00+05:30"),
    ("keys.toml", 'wallet = "main"', 'wallet = "main"\nfrom = 2026-02-01T00:00:00Z\nto = 2026-02-01T05:30:00+05:30',
     "keys.toml:7 to '2026-02-01T05:30:00+05:30'", "write a later instant"),
    ("rates.csv", "2026-01-01T00:00:00Z,,", "2026-01-01T00:00:00Z,2026-01-01T01:00:00+01:00,", "rates.csv:2 effective_to", "write a later instant"),
    ("rates.csv", "2026-01-01T00:00:00Z,,,", "2026-01-01T00:00:00Z,,cost,", "rates.csv:2 book 'cost'", "charge, list"),
    ("rates.csv", "Z,,,,,,,price", "Z,,,,lots,,,price", "rates.csv:2 min_input_tokens 'lots'", "200001"),
    ("rates.csv", "Z,,,,,,,price", "Z,,,,,25:00-26:00,,price", "rates.csv:2 hours '25:00-26:00'", "HH:MM-HH:MM"),
    ("rates.csv", "Z,,,,,,,price", "Z,,,,,09:00-09:00,,price", "rates.csv:2 hours '09:00-09:00'", "leave it empty for the whole day"),
    ("rates.csv", "Z,,,,,,,price", "Z,,,,,,mo-fr,price", "rates.csv:2 weekdays 'mo-fr'", "mon-fri"),
    ("rates.csv", "Z,,,,,,,price", "Z,,,,,,mon-sun,price", "rates.csv:2 weekdays 'mon-sun'", "empty for all days"),
    ("rates.csv", "price page,", "price page, second thought,", "rates.csv:2 row", "put quotes round a cell with a comma"),
    ("rates.csv", "price page,", '"price page,', "rates.csv:2 row", "close every quote"),
    ("rates.csv", ",note\n", ",nota\n", "rates.csv:1 header 'nota'", "did you mean 'note'"),
    ("rates.csv", ",per,", ",price,", "rates.csv:1 per", "make the first line: channel,model"),
    ("rates.csv", SMALL["rates.csv"], "", "rates.csv:1 header", "make the first line: channel,model"),
    ("failed_requests.csv", "client_gone", "gone", "failed_requests.csv:4 outcome 'gone'", "use one of: client_gone"),
    ("failed_requests.csv", "client_gone,none", "client_gone,maybe", "failed_requests.csv:4 charge 'maybe'", "none, input, observed, reported"),
    ("failed_requests.csv", "client_gone,none", "client_gone,-1", "failed_requests.csv:4 charge '-1'", "less than zero"),
    ("failed_requests.csv", "p,*,client_gone", "p,ruter,client_gone", "failed_requests.csv:4 channel 'ruter'", "did you mean 'router'"),
    ("failed_requests.csv", "p,*,client_gone,none,2026-01-01T00:00:00Z,,\n", "", "failed_requests.csv:1 outcome 'client_gone'", "add a row for outcome client_gone"),
    ("failed_requests.csv", "p,*,client_gone", "p,router,client_gone", "failed_requests.csv:1 outcome 'client_gone'", "no row for channel vendor"),
    ("failed_requests.csv", "p,*,rejected_by_proxy", "p,router,rejected_by_proxy", "failed_requests.csv:1 outcome 'rejected_by_proxy'", "and channel *"),
    ("failed_requests.csv", "client_gone,none,2026-01-01T00:00:00Z,,", "client_gone,none,2026-01-01T00:00:00Z,2026-03-01T00:00:00Z,",
     "failed_requests.csv:4 outcome 'client_gone'", "from 2026-03-01T00:00:00Z"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "place", "words"), REFUSALS, ids=[f"{case[0]} {n}" for n, case in enumerate(REFUSALS)])
def test_a_refusal_names_file_line_field_value_and_cure(tmp_path: Path, file: str, old: str, new: str, place: str, words: str) -> None:
    """One spoiled place gives an error that begins with that place and says what to write instead."""
    assert old in SMALL[file]
    said = problems(write(tmp_path, **{file.replace(".", "__"): SMALL[file].replace(old, new, 1)}))
    found = [line for line in said if line.startswith(f"book/{place}") and words in line]
    assert found, said
    assert " — " in found[0]


# Rows that cannot stand beside the small book's or each other: which line is named, and which line it names.
CLASHES = {
    "a row that begins when its fellow does": (["vendor,small,input,0.20,1000000,USD,2026-01-01T01:00:00+01:00,,,,,,,s,"], 5, "line 2", "remove one"),
    "a row repeated": (["vendor,small,input,0.15,1000000,USD,2026-01-01T00:00:00Z,,,,,,,price page,"], 5, "line 2", "remove one of the two"),
    "a written end beyond the next beginning": (
        ["vendor,b,input,1,1,USD,2026-01-01T00:00:00Z,2026-03-01T00:00:00Z,,,,,,s,", "vendor,b,input,2,1,USD,2026-02-01T00:00:00Z,,,,,,,s,"],
        6, "line 5", "end line 5 at 2026-02-01T00:00:00Z",
    ),
    "the later line beginning first": (
        ["vendor,b,input,2,1,USD,2026-02-01T00:00:00Z,,,,,,,s,", "vendor,b,input,1,1,USD,2026-01-01T00:00:00Z,2026-03-01T00:00:00Z,,,,,,s,"],
        6, "line 5", "end line 6 at 2026-02-01T00:00:00Z",
    ),
    "a tier beside a threshold": (
        ["vendor,small,input,1,1000000,USD,2026-01-01T00:00:00Z,,,flex,,,,s,", "vendor,small,input,2,1000000,USD,2026-01-01T00:00:00Z,,,,200001,,,s,"],
        6, "line 5", "add a row that names both conditions",
    ),
    "two windows that meet, across midnight": (
        ["vendor,small,input,1,1000000,USD,2026-01-01T00:00:00Z,,,,,22:00-06:00,,s,", "vendor,small,input,2,1000000,USD,2026-01-01T00:00:00Z,,,,,05:00-08:00,,s,"],
        6, "line 5", "exclude each other",
    ),
    "spans of days that meet over the weekend": (
        ["vendor,small,input,1,1000000,USD,2026-01-01T00:00:00Z,,,,,,sat-mon,s,", "vendor,small,input,2,1000000,USD,2026-01-01T00:00:00Z,,,,,,mon-fri,s,"],
        6, "line 5", "exclude each other",
    ),
    "a cover that ends too soon": (
        [
            "vendor,small,input,1,1000000,USD,2026-01-01T00:00:00Z,,,flex,,,,s,",
            "vendor,small,input,2,1000000,USD,2026-01-01T00:00:00Z,,,,200001,,,s,",
            "vendor,small,input,3,1000000,USD,2026-01-01T00:00:00Z,2026-06-01T00:00:00Z,,flex,200001,,,s,",
        ],
        6, "line 5", "neither is more specific",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CLASHES)
def test_rows_that_cannot_both_stand_are_refused_by_both_lines(tmp_path: Path, case: str) -> None:
    """Overlaps, duplicates and equally specific rows name both lines: nobody has to guess which price won."""
    rows, line, other, cure = CLASHES[case]
    said = problems(write(tmp_path, rates__csv=rates(*rows)))
    assert len(said) == 1, said
    assert said[0].startswith(f"book/rates.csv:{line} ")
    assert other in said[0]
    assert cure in said[0]


STANDING = {
    "two thresholds": ["vendor,small,input,1,1000000,USD,2026-01-01T00:00:00Z,,,,128001,,,s,", "vendor,small,input,2,1000000,USD,2026-01-01T00:00:00Z,,,,200001,,,s,"],
    "tiers that differ": ["vendor,small,input,1,1000000,USD,2026-01-01T00:00:00Z,,,flex,,,,s,", "vendor,small,input,2,1000000,USD,2026-01-01T00:00:00Z,,,fast,,,,s,"],
    "windows that touch": [
        "vendor,small,input,1,1000000,USD,2026-01-01T00:00:00Z,,,,,22:00-06:00,,s,", "vendor,small,input,2,1000000,USD,2026-01-01T00:00:00Z,,,,,06:00-22:00,,s,",
    ],
    "one after the other": [
        "vendor,small,input,1,1000000,USD,2026-01-01T00:00:00Z,2026-02-01T00:00:00Z,,flex,,,,s,", "vendor,small,input,2,1000000,USD,2026-02-01T00:00:00Z,,,,,,sat,s,",
    ],
    "covered by rows that name both": [
        "vendor,small,input,1,1000000,USD,2026-01-01T00:00:00Z,,,flex,,,,s,",
        "vendor,small,input,2,1000000,USD,2026-01-01T00:00:00Z,,,,200001,,,s,",
        "vendor,small,input,3,1000000,USD,2026-01-01T00:00:00Z,,,flex,200001,,,s,",
        "vendor,small,input,4,1000000,USD,2026-06-01T00:00:00Z,,,flex,200001,,,s,",
    ],
    "a general row and a named one": ["*,small,input,1,1000000,USD,2026-01-01T00:00:00Z,,,,,,,s,", "vendor,*,input,2,1000000,USD,2026-01-01T00:00:00Z,,,,,,,s,"],
    "the list book beside the charge book": ["vendor,small,input,1,1000000,USD,2026-01-01T00:00:00Z,,list,,,,,s,"],
}  # fmt: skip


@pytest.mark.parametrize("case", STANDING)
def test_rows_that_one_rule_decides_stand(tmp_path: Path, case: str) -> None:
    """Where specificity or dates settle which row wins, both may stand."""
    book = load_book(write(tmp_path, rates__csv=rates(*STANDING[case])))
    assert len(book.rates) == 3 + len(STANDING[case])


def test_specificity_is_one_integer_in_the_documented_order(tmp_path: Path) -> None:
    """Channel before model, model before conditions, more conditions before fewer, the higher threshold last."""
    date = "2026-01-01T00:00:00Z"
    ladder = [
        f"*,*,input,1,1,USD,{date},,,,,,,s,",
        f"*,*,input,1,1,USD,{date},,,flex,200001,,,s,",
        f"*,m,input,1,1,USD,{date},,,,,,,s,",
        f"vendor,*,input,1,1,USD,{date},,,,,,,s,",
        f"vendor,m,input,1,1,USD,{date},,,,,,,s,",
        f"vendor,m,input,1,1,USD,{date},,,,128001,,,s,",
        f"vendor,m,input,1,1,USD,{date},,,,200001,,,s,",
        f"vendor,m,input,1,1,USD,{date},,,flex,128001,,,s,",
        f"vendor,m,input,1,1,USD,{date},,,flex,200001,,,s,",
    ]
    book = load_book(write(tmp_path, rates__csv="\n".join([RATES_HEADER, *ladder])))
    numbers = [rate.specificity for rate in book.rates]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] < 2**63
    at = parse_instant(date)
    found = applicable(book.rates, "charge", Use("vendor", "m", "input", at, "flex", 300000))
    assert [rate.line for rate in found] == list(range(10, 1, -1))


def test_an_open_end_is_the_next_rows_beginning_and_ids_stay(tmp_path: Path) -> None:
    """Appending a later price ends the earlier row without touching it; moving lines or respelling a price changes no id."""
    later = "vendor,small,input,0.12,1000000,USD,2026-06-01T00:00:00Z,,,,,,,s,"
    one = load_book(write(tmp_path / "a")).rates[0]
    book = load_book(write(tmp_path / "b", rates__csv=rates(later)))
    assert one.effective_to is None
    assert book.rates[0].effective_to == parse_instant("2026-06-01T00:00:00Z")
    header, first, *rest = SMALL["rates.csv"].splitlines()
    moved = "\n".join([header, later, *rest, first.replace("0.15,", "0.150,")]) + "\n"
    shuffled = load_book(write(tmp_path / "c", rates__csv=moved))
    assert {rate.rate_id for rate in shuffled.rates} == {rate.rate_id for rate in book.rates}
    assert one.rate_id == book.rates[0].rate_id


def test_columns_that_a_header_may_leave_out(tmp_path: Path) -> None:
    """Region, endpoint and marginal read as empty where the header has none of them, and a row that says nothing there keeps its id."""
    header, *rows = SMALL["rates.csv"].splitlines()
    narrow = load_book(write(tmp_path / "narrow")).rates
    wide_text = "\n".join([f"{header},region,endpoint,marginal", *(f"{row},,," for row in rows)]) + "\n"
    wide = load_book(write(tmp_path / "wide", rates__csv=wide_text)).rates
    assert wide == narrow
    said = wide_text + "vendor,small,input,1,1000000,USD,2026-01-01T00:00:00Z,,,,5,,,s,,US,Responses,True\n"
    row = load_book(write(tmp_path / "said", rates__csv=said)).rates[-1]
    assert (row.region, row.endpoint, row.marginal, row.rank[2]) == ("us", "responses", True, 3)
    for cells, words in (
        ("output,1,1000000,USD,2026-01-01T00:00:00Z,,,,5,,,s,,,,true", "marginal 'true': only tokens of a prompt lie above a limit"),
        ("input,1,1000000,USD,2026-01-01T00:00:00Z,,,,,,,s,,,,true", "marginal 'true': only tokens of a prompt lie above a limit"),
        ("input,1,1000000,USD,2026-01-01T00:00:00Z,,,,5,,,s,,,,maybe", "marginal 'maybe': neither true nor false"),
    ):
        (problem,) = problems(write(tmp_path / words[-9:], rates__csv=wide_text + f"vendor,small,{cells}\n"))
        assert words in problem


def test_between_a_written_end_and_the_next_beginning_there_is_no_price(tmp_path: Path) -> None:
    """Such a gap may be meant, or filled by a wider row: traffic that falls into it is unpriced, and nothing is guessed."""
    rows = [
        "vendor,b,input,1,1,USD,2026-01-01T00:00:00Z,2026-02-01T00:00:00Z,,,,,,s,",
        "vendor,b,input,2,1,USD,2026-03-01T00:00:00Z,,,,,,,s,",
    ]
    book = load_book(write(tmp_path, rates__csv=rates(*rows)))
    assert applicable(book.rates, "charge", Use("vendor", "b", "input", parse_instant("2026-02-15T00:00:00Z"))) == []


def test_time_windows_follow_the_vendors_zone(tmp_path: Path) -> None:
    """A window is local time of the channel: 09:00 in Shanghai is 01:00 UTC, and a night window wraps midnight."""
    rows = [
        "vendor,b,input,1,1,USD,2026-01-01T00:00:00Z,,,,,22:00-06:00,,s,",
        "vendor,b,input,2,1,USD,2026-01-01T00:00:00Z,,,,,06:00-22:00,,s,",
    ]
    book = load_book(write(tmp_path, rates__csv=rates(*rows)))

    def line(when: str, zone: str) -> int:
        return applicable(book.rates, "charge", Use("vendor", "b", "input", parse_instant(when), zone=zone))[0].line

    assert [line(f"2026-05-05T{time}Z", "UTC") for time in ("21:59:59", "22:00", "00:00", "05:59:59", "06:00")] == [6, 5, 5, 5, 6]
    assert [line("2026-05-05T01:00:00Z", zone) for zone in ("UTC", "Asia/Shanghai")] == [5, 6]


def test_all_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    """A book with a fault in each file gives one error that names them all, in file and line order."""
    changed = {name.replace(".", "__"): content + "oops" for name, content in SMALL.items()}
    said = problems(write(tmp_path, **changed))
    assert {line.split(":")[0] for line in said} == {f"book/{name}" for name in SMALL}
    assert said == sorted(said, key=lambda line: line.split(":")[0])


@pytest.mark.parametrize("name", ["book.toml", "channels.toml", "rates.csv", "failed_requests.csv"])
def test_a_required_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    """Each required file is asked for by name."""
    said = problems(write(tmp_path, **{name.replace(".", "__"): None}))
    assert any(line.startswith(f"book/{name}:1 file: is missing — write") for line in said)


def test_no_book_at_all_says_where_to_get_one(tmp_path: Path) -> None:
    """A home without a book points to the example."""
    assert "cp -r data/book" in problems(tmp_path / "nowhere")[0]


def test_bytes_from_spreadsheets_keep_their_line_numbers(tmp_path: Path) -> None:
    """A byte order mark, CRLF and a quoted cell over several lines load, and the fault behind them has its own line."""
    rows = [
        'vendor,b,input,1,1,USD,2026-01-01T00:00:00Z,,,,,,,s,"a note\nover three\nlines"',
        "vendor,c,input,bad,1,USD,2026-01-01T00:00:00Z,,,,,,,s,",
    ]
    text = "\ufeff" + rates(*rows).replace("\n", "\r\n")
    assert problems(write(tmp_path, rates__csv=text))[0].startswith("book/rates.csv:8 price 'bad'")
    toml = "\ufeff" + SMALL["channels.toml"].replace("\n", "\r\n").replace('"routed"', '"rooted"')
    assert problems(write(tmp_path, channels__toml=toml))[0].startswith("book/channels.toml:11 route 'rooted'")
    good = {name.replace(".", "__"): "\ufeff" + text.replace("\n", "\r\n") for name, text in SMALL.items()}
    assert load_book(write(tmp_path, **good)).rates == load_book(write(tmp_path / "plain")).rates


@pytest.mark.parametrize("name", list(SMALL))
def test_bytes_that_are_not_utf8_are_refused_by_line(tmp_path: Path, name: str) -> None:
    """One byte of another encoding names its file and line."""
    content = SMALL[name].encode().replace(b"\n", b"\n\xe9", 1)
    assert f"book/{name}:2 text '0xe9': not UTF-8 — save the file as UTF-8" in problems(
        write(tmp_path, **{name.replace(".", "__"): content})
    )


def test_the_nth_table_and_its_keys_have_their_lines() -> None:
    """Strings over several lines, arrays, comments and dotted keys do not shift a line."""
    text = '# [[a]]\n[[a]]\nx = """\n[[a]]\ny = 1\n"""\nlist = [ # ]\n  "]",\n  1,\n]\n\n  [[ a ]]\n"y" = \'#\'\n[[a.b]]\nz.w = {k = "}"}\n[[a.b]]\nz = 1\n[t]\nv = 1\n'
    lines = toml_lines(text)
    assert {place: line for place, line in lines.items() if len(place) > 1} == {
        ("a", 0): 2, ("a", 0, "x"): 3, ("a", 0, "list"): 7, ("a", 1): 12, ("a", 1, "y"): 13,
        ("a", 1, "b"): 14, ("a", 1, "b", 0): 14, ("a", 1, "b", 0, "z"): 15, ("a", 1, "b", 0, "z", "w"): 15, ("a", 1, "b", 1): 16, ("a", 1, "b", 1, "z"): 17,
        ("t", "v"): 19,
    }  # fmt: skip


def test_one_id_and_one_fingerprint_at_a_time(tmp_path: Path) -> None:
    """Rows of one id follow each other, the open one ending where the next begins; overlaps name both lines."""
    second = '[[key]]\nid = "{}"\nlabel = "Ada"\nfingerprint = "fp_{}"\nwallet = "main"\n{}\n'

    def keys(*rows: tuple[str, str, str]) -> str:
        return SMALL["keys.toml"] + "".join(second.format(name, digit * 32, more) for name, digit, more in rows)

    change = parse_instant("2026-05-01T00:00:00Z")
    book = load_book(write(tmp_path, keys__toml=keys(("k1", "2", "from = 2026-05-01T00:00:00Z"))))
    assert [(key.valid_from, key.valid_to) for key in book.keys] == [(None, change), (change, None)]
    found = [book.key("fp_" + digit * 32, at) for digit in "12" for at in (change - 1, change)]
    assert [key is not None for key in found] == [True, False, False, True]
    said = problems(write(tmp_path, keys__toml=keys(("k1", "2", ""))))
    assert said[0].startswith("book/keys.toml:7 id 'k1': overlaps in time with the row on line 1")
    said = problems(write(tmp_path, keys__toml=keys(("k2", "1", "from = 2026-05-01T00:00:00Z"))))
    assert said[0].startswith("book/keys.toml:9 fingerprint 'fp_1…': overlaps in time with the row on line 1")


def test_the_digest_covers_every_byte_of_every_file_and_nothing_else(tmp_path: Path) -> None:
    """A changed comment changes the digest; a file that is not the book's does not."""
    folder = write(tmp_path)
    digests = [load_book(folder).digest]
    (folder / "bills").mkdir()
    (folder / "notes.txt").write_text("x")
    assert load_book(folder).digest == digests[0]
    for name, text in SMALL.items():
        if name.endswith(".toml"):
            (folder / name).write_text(text + "# a comment\n")
            digests.append(load_book(folder).digest)
    assert len(set(digests)) == len(digests)
    assert set(read_files(folder)) == set(SMALL)


def test_the_tables_hold_every_row_with_exact_types() -> None:
    """The ETL's tables carry the book to the last digit: decimals, instants without a zone, nulls for what was not said."""
    book = load_book(EXAMPLE)
    tables = book.tables()
    rows = {name: table.to_pylist() for name, table in tables.items()}
    assert [len(rows[name]) for name in ("book_channel", "book_model", "book_key", "book_rate", "book_policy")] == [
        len(book.channels), len(book.models), len(book.keys), len(book.rates), len(book.policies),
    ]  # fmt: skip
    assert [(row["position"], row["channel"]) for row in rows["book_model_channel"] if row["api"] == "gpt-4o-mini"] == [
        (0, "cheap-router"),
        (1, "openai"),
    ]
    for row, rate in zip(rows["book_rate"], book.rates, strict=True):
        assert row["unit_price"] == rate.unit_price
        assert (row["rate_id"], row["specificity"], row["service_tier"]) == (rate.rate_id, rate.specificity, rate.service_tier)
        assert write_instant(rate.effective_from) == row["effective_from"].isoformat() + "Z"
        assert (row["minute_from"] is None) == (rate.hours is None)
    assert str(tables["book_rate"].schema.field("unit_price").type) == "decimal128(18, 12)"
    assert str(tables["book_policy"].schema.field("flat_amount").type) == "decimal128(38, 12)"
    assert str(tables["book_rate"].schema.field("effective_to").type) == "timestamp[us]"
    assert all(field.metadata[b"description"] for table in tables.values() for field in table.schema)


def test_every_meter_of_the_example_exists_and_ids_are_unique() -> None:
    """The example prices only meters that schemas/meters.py counts, and no two rows share an id."""
    book = load_book(EXAMPLE)
    assert {rate.meter for rate in book.rates} <= {meter.name for meter in METERS}
    assert len({rate.rate_id for rate in book.rates}) == len(book.rates)
    assert all(rate.source for rate in book.rates)


@given(whole=st.integers(0, 10**9), fraction=st.text("0123456789", max_size=14), power=st.integers(0, 7), times=st.sampled_from([1, 3, 4]))
def test_a_unit_price_is_exact_or_refused(whole: int, fraction: str, power: int, times: int) -> None:
    """A unit price is exactly the fraction it stands for, and is refused just when 12 decimals and 18 digits cannot hold that."""
    price, per = Decimal(f"{whole}.{fraction}" if fraction else str(whole)), Decimal(times * 10**power)
    true = Fraction(price) / Fraction(per)
    fits = (true * 10**12).denominator == 1 and true < 10**6
    try:
        unit = unit_price(price, per)
    except MoneyError:
        assert not fits
    else:
        assert fits
        assert Fraction(unit) == true
        assert unit.as_tuple().exponent == -12


@given(
    name=st.sampled_from(sorted(SMALL)),
    at=st.floats(0, 1),
    cut=st.integers(0, 40),
    junk=st.one_of(st.binary(max_size=20), st.text("[]{}=\"'\n,#.*-:0Zé\x00", max_size=12).map(str.encode)),
)
@example(name="book.toml", at=0.0, cut=0, junk=b"0")  # a member whose name is no word
def test_any_bytes_load_or_are_refused(name: str, at: float, cut: int, junk: bytes) -> None:
    """Whatever stands in a file, the loader gives a book or a BookError whose every problem has a place and a cure."""
    files = {file: text.encode() for file, text in SMALL.items()}
    place = int(len(files[name]) * at)
    files[name] = files[name][:place] + junk + files[name][place + cut :]
    lines = files[name].count(b"\n") + files[name].count(b"\r") + 2
    for problem in faults(files):
        assert problem.field
        assert problem.cure
        assert "\n" not in str(problem)
        assert 1 <= problem.line <= lines or not problem.file.endswith(name)


@given(micros=st.integers(min_value=-(10**15), max_value=10**17))
def test_an_instant_reads_back_as_it_was_written(micros: int) -> None:
    """ISO 8601 text and microseconds say the same, in both directions."""
    assert parse_instant(write_instant(micros)) == micros


def test_lookups_by_name(tmp_path: Path) -> None:
    """Channels and models are found by name, and what is not there is None."""
    book: Book = load_book(write(tmp_path))
    assert [c and c.name for c in (book.channel("router"), book.channel("x"), book.default_channel)] == ["router", None, "vendor"]
    model = book.model("small")
    assert model is not None
    assert [way.upstream for way in model.channel] == ["x/small", "small"]
    assert book.model("x/small") is None
