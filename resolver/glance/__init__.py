"""One location's Glance server: its versions, its listing, questions about single images."""

from resolver.glance.caller_listings import CallerListings
from resolver.glance.changes import Changes, changed_since, ensure_changes_can_be_read, server_time
from resolver.glance.cloud_config import CloudRef, cloud_of
from resolver.glance.cloud_credentials import CloudCredentials
from resolver.glance.credential_scope import CredentialScope, credential_since, sees_all
from resolver.glance.glance_server import HOP, GlanceServer, connect, is_resolver, keep_connections
from resolver.glance.image_records import ImageRecord, ImageRecords
from resolver.glance.listed_rows import NO_ROWS, SkippedRows
from resolver.glance.listing import (
    END_CURSOR,
    Page,
    Resume,
    UnsortedListing,
    list_images,
    still_there,
)
from resolver.glance.listing_filters import listing_gap
from resolver.glance.notifications import Notice, parse_notice, subscribed
from resolver.glance.probe import ImageProbe, ProbeAnswer, has_image
from resolver.glance.rate_limits import RateLimits
from resolver.glance.scope_cache import ScopeCache
from resolver.glance.secret_sources import SecretSources
from resolver.glance.token_checks import TokenChecks

__all__ = [
    "END_CURSOR",
    "HOP",
    "NO_ROWS",
    "CallerListings",
    "Changes",
    "CloudCredentials",
    "CloudRef",
    "CredentialScope",
    "GlanceServer",
    "ImageProbe",
    "ImageRecord",
    "ImageRecords",
    "Notice",
    "Page",
    "ProbeAnswer",
    "RateLimits",
    "Resume",
    "ScopeCache",
    "SecretSources",
    "SkippedRows",
    "TokenChecks",
    "UnsortedListing",
    "changed_since",
    "cloud_of",
    "connect",
    "credential_since",
    "ensure_changes_can_be_read",
    "has_image",
    "is_resolver",
    "keep_connections",
    "list_images",
    "listing_gap",
    "parse_notice",
    "sees_all",
    "server_time",
    "still_there",
    "subscribed",
]
