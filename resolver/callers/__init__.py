"""Clients by their own tokens (``RESOLVER_READ_AUTH``): whether Keystone accepts the token, and
which images their owners show to it.

A token is in memory only while its request is answered. What is remembered has a keyed hash of it.
"""

from resolver.callers.caller_images import CallerImages
from resolver.callers.caller_tokens import Caller, CallerTokens

__all__ = ["Caller", "CallerImages", "CallerTokens"]
