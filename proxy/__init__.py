"""The floor that writes: two doors, one Exchange machine, a durable journal, and the sealer.

A request goes door -> Exchange -> journal (OPEN, synced) -> upstream -> Exchange -> journal (CLOSE) -> seal -> raw/.
Nothing here prices or interprets; etl/ does, from the files, at any later time.
"""
