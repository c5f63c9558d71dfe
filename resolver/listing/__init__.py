"""The merged listing: the images of all locations as one Glance listing.

`query` is what a client asks, in Glance's terms. `sort_order` compares rows as Glance sorts them.
`location_stream` reads one location page by page, `merge` makes one sorted stream of many, and
`owners` keeps one row of each image. `markers` says where a page ended, so that the next one needs
no state here. `lister` puts them together for one request.
"""

from resolver.listing.caller import Advice
from resolver.listing.lister import ListedPage, Lister, domain_regions
from resolver.listing.query import ListingQuery

__all__ = ["Advice", "ListedPage", "Lister", "ListingQuery", "domain_regions"]
