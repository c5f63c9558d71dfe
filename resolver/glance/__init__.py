"""One location's Glance server: its versions, its listing, questions about single images."""

from resolver.glance.client import Server, connect
from resolver.glance.listing import Page, Resume, list_images, still_there
from resolver.glance.probe import has_image

__all__ = ["Page", "Resume", "Server", "connect", "has_image", "list_images", "still_there"]
