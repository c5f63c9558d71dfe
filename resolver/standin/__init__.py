"""A stand-in Glance server: the parts of v1 and v2 that Glance clients and the resolver use.

It is part of the wheel because `glance-resolver demo` runs two of these. The tests use it as the
fake of a location. Statuses, field names and special cases (405 for a v2 `HEAD`, 300 for a version
that is off, `next` without the prefix) were compared with Glance 33.0.0 and 15.0.2. All data is in
memory.
"""

from resolver.standin.call import Caller
from resolver.standin.image import SYNTHETIC_TIME, Image
from resolver.standin.standin_server import StandIn

__all__ = ["SYNTHETIC_TIME", "Caller", "Image", "StandIn"]
