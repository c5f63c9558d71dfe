"""A stand-in Glance server: enough of v1 and v2 to be taken for one by clients and the resolver.

`glance-resolver demo` runs two of these, and the tests use them as the owned fake of a location.
Statuses, field names and the odd corners (405 for a v2 `HEAD`, 300 for a version that is off,
`next` without the prefix) were compared with Glance 33.0.0 and 15.0.2. All of it lives in memory.
"""

from resolver.standin.call import Caller
from resolver.standin.image import SYNTHETIC_TIME, Image
from resolver.standin.standin_server import StandIn

__all__ = ["SYNTHETIC_TIME", "Caller", "Image", "StandIn"]
