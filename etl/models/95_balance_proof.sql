-- One row is one open month, wallet and bucket: opening + top-ups + bonuses - charges - suspense + adjustments + refunds - expiries +
-- transfers + reversals = closing, and what the vendor showed.
-- check: closing = opening + topups + bonuses - charges - suspense + adjustments + refunds - expiries + transfers + reversals
-- check: select b.wallet, b.bucket from wallet_balances b join (select wallet, bucket, currency, closing from balance_proof qualify row_number() over (partition by wallet, bucket, currency order by period desc) = 1) p on b.wallet = p.wallet and b.bucket = p.bucket and b.currency = p.currency where b.balance is distinct from p.closing
-- check: select count(*) from wallet_statement j anti join balance_proof p on j.period = p.period and j.wallet = p.wallet and j.bucket = p.bucket having count(*) > 0
with movements as (
    select s.period, s.wallet, s.bucket, s.currency, s.kind, s.amount, coalesce(t.bonus, 0) as bonus
    from (
        select entry_id, period, wallet, bucket, currency, kind, amount from wallet_statement
        union all
        select entry_id, period, wallet, bucket, currency, kind, amount from earlier_statement
    ) s left join topup_lots t on s.entry_id = t.lot_id
),
sums as (
    select
        period, wallet, bucket, currency, sum(amount) as moved,
        coalesce(sum(amount - bonus) filter (where kind = 'topup'), 0) as topups,
        coalesce(sum(bonus) filter (where kind = 'topup'), 0) as bonuses,
        coalesce(-sum(amount) filter (where kind = 'charge'), 0) as charges,
        coalesce(-sum(amount) filter (where kind = 'suspense'), 0) as suspense,
        coalesce(sum(amount) filter (where kind = 'adjustment'), 0) as adjustments,
        coalesce(sum(amount) filter (where kind = 'refund'), 0) as refunds,
        coalesce(-sum(amount) filter (where kind = 'expiry'), 0) as expiries,
        coalesce(sum(amount) filter (where kind = 'transfer'), 0) as transfers,
        coalesce(sum(amount) filter (where kind = 'reversal'), 0) as reversals
    from movements group by period, wallet, bucket, currency
),
buckets as (
    select wallet, bucket, currency, min(period) as first_period from (
        select wallet, bucket, currency, period from movements
        union all
        select wallet, bucket, currency, '' as period from first_opening
    ) group by wallet, bucket, currency
),
grid as (
    select p.period, b.wallet, b.bucket, b.currency from periods p join buckets b on p.period >= b.first_period
),
summed as (
    select
        g.period, g.wallet, g.bucket, g.currency,
        coalesce(s.moved, 0) as moved, coalesce(s.topups, 0) as topups, coalesce(s.bonuses, 0) as bonuses,
        coalesce(s.charges, 0) as charges, coalesce(s.suspense, 0) as suspense, coalesce(s.adjustments, 0) as adjustments,
        coalesce(s.refunds, 0) as refunds, coalesce(s.expiries, 0) as expiries,
        coalesce(s.transfers, 0) as transfers, coalesce(s.reversals, 0) as reversals,
        coalesce(o.balance, 0) + sum(coalesce(s.moved, 0)) over (
            partition by g.wallet, g.bucket, g.currency order by g.period rows between unbounded preceding and current row
        ) as closing
    from grid g
    left join sums s on g.period = s.period and g.wallet = s.wallet and g.bucket = s.bucket and g.currency = s.currency
    left join first_opening o on g.wallet = o.wallet and g.bucket = o.bucket and g.currency = o.currency
),
last_shown as (
    select period, wallet, bucket, currency, vendor_balance, difference from wallet_snapshots
    qualify row_number() over (partition by period, wallet, bucket, currency order by "at" desc, event_id desc) = 1
),
broken as (
    select period, wallet, bucket, currency, min(cast("at" as date)) as day
    from wallet_snapshots where difference <> 0 group by period, wallet, bucket, currency
)
select
    s.period, s.wallet, s.bucket, s.currency,
    cast(s.closing - s.moved as decimal(38,12)) as opening,
    cast(s.topups as decimal(38,12)) as topups,
    cast(s.bonuses as decimal(38,12)) as bonuses,
    cast(s.charges as decimal(38,12)) as charges,
    cast(s.adjustments as decimal(38,12)) as adjustments,
    cast(s.refunds as decimal(38,12)) as refunds,
    cast(s.expiries as decimal(38,12)) as expiries,
    cast(s.closing as decimal(38,12)) as closing,
    l.vendor_balance as snapshot, l.difference,
    b.day as first_broken_day,
    cast(s.suspense as decimal(38,12)) as suspense,
    cast(s.transfers as decimal(38,12)) as transfers,
    cast(s.reversals as decimal(38,12)) as reversals
from summed s
left join last_shown l on s.period = l.period and s.wallet = l.wallet and s.bucket = l.bucket and s.currency = l.currency
left join broken b on s.period = b.period and s.wallet = b.wallet and s.bucket = b.bucket and s.currency = b.currency
