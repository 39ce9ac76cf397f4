"""`everup lab demo`: a PostgreSQL server survives a power cut, again and again, in numbers.

What enters: rounds and a seed. What leaves: a timeline for a person, build/demo.json for programs,
and findings for everything that was not as promised.
"""
