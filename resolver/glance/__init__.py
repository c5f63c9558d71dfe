"""One location's Glance server: its versions, its listing, questions about single images."""

from resolver.glance.client import Server, connect
from resolver.glance.listing import Page, Resume, list_images, still_there

__all__ = ["Page", "Resume", "Server", "connect", "list_images", "still_there"]
