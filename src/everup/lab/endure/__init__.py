"""Endurance: random real faults under load, and an audit after each (`everup lab endure`).

Reading order: `plan` (what shall happen, from the seed alone), `scene` (who is what now), `acts`
(the faults themselves), `history` (what the client knows), `logs` and `expected` (what servers may
say), `audit` (judging a round), `evidence`, `report`, `run`.
"""
