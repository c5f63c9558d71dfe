"""One location's Glance server: its versions, its listing, questions about single images."""

from resolver.glance.client import Server, connect
from resolver.glance.listing import Page, list_images, still_there

__all__ = ["Page", "Server", "connect", "list_images", "still_there"]
