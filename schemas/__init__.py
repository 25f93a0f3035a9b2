"""The ground floor: what every other floor agrees on, importing nothing of ours.

The whole model in ten lines:
  exchange   one client request at a door, with every upstream attempt it caused (proxy/exchange.py)
  request    what the client asked            raw/request/    one row per request received
  attempt    one try upstream, journaled before its first byte leaves       raw/attempt/
  response   how that try ended, usage kept verbatim                        raw/response/
  event      what else happened: starts, losses, tunnels, wallet entries    raw/event/
  body       the bytes themselves, with a retention of their own            raw/body/
  usage line how many units of one meter an attempt used (etl)
  charge     usage line x rate row = amount (etl)
  posting    one leg of a balanced journal transaction (etl)
  receipt    one logical request, followed from wire to wallet (etl)
One key, `request_id`, leads through all of them.
"""
