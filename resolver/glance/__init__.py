"""One location's Glance server: its versions, its listing, questions about single images."""

from resolver.glance.client import HOP, Server, connect, is_resolver
from resolver.glance.keystone import Clouds
from resolver.glance.listing import Page, Resume, list_images, still_there

__all__ = [
    "HOP",
    "Clouds",
    "Page",
    "Resume",
    "Server",
    "connect",
    "is_resolver",
    "list_images",
    "still_there",
]
