"""TLS as the group uses it: version 1.3, both sides certified by the group's own authority.

What enters: the places of key and certificates. What leaves: contexts. Called by `peers` (dialling)
and by the peer API (listening).
"""

import ssl

from everup.places import Places


def dial_context(places: Places) -> ssl.SSLContext:
    """For calling a member: shows our certificate, believes only the group's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, places)
    return context


def listen_context(places: Places) -> ssl.SSLContext:
    """For being called. A certificate is asked for, and a foreign one is refused at once; a caller
    without one is let through to the few routes that a joining server needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, places)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _load(context: ssl.SSLContext, places: Places) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cafile=str(places.ca_certificate))
    context.load_cert_chain(str(places.certificate), str(places.private_key))
