"""A call of each operation of ``/openapi.json``, in an order in which all of them can be made."""

from __future__ import annotations

from typing import Any, NamedTuple

IMAGE = "5ca1ab1e-0000-4000-8000-00000000c0de"
"""It is at location ``one``, with the name ``debian``."""
OTHER = "5ca1ab1e-0000-4000-8000-000000000001"
"""It is nowhere."""

NOT_CALLED = {"page_events"}
"""It does not end."""


class Call(NamedTuple):
    """A call, and the status of its response."""

    operation: str
    status: int
    parameters: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it
    body: Any = None


def calls(url_of_two: str) -> list[Call]:
    """``url_of_two``: a Glance server that is no location yet."""
    image = {"api": "v2", "id": IMAGE}
    file, other, two = {**image, "rest": "file"}, {"api": "v2", "path": "images"}, {"name": "two"}
    return [
        *(Call(name, 200) for name in ("healthcheck", "livez", "readyz", "status", "metrics")),
        *(Call(name, 200) for name in ("openapi", "versions", "list_locations", "list_members")),
        Call("root", 300),
        Call("api_versions", 200, {"api": "v1"}),
        Call("root_of_region", 300, {"region": "East"}),
        Call("page_file", 200, {"file": "status.css"}),
        Call("put_location", 201, two, {"url": url_of_two, "region": "West", "priority": 7}),
        Call("patch_location", 200, two, {"region": "East", "sees_all": True}),
        Call("show_location", 200, two),
        Call("check_location", 200, two),
        Call("sweep_location", 202, two, {"confirm_shrink": False}),
        Call(
            "change_locations",
            200,
            {},
            {"put": {"three": {"url": url_of_two}}, "remove": [], "keep_other_fields": True},
        ),
        Call("claim_image", 201, {"name": "three", "id": OTHER}),
        Call("release_image", 204, {"name": "three", "id": OTHER}),
        Call("delete_location", 204, {"name": "three"}),
        Call("resolve_one", 200, {"id": IMAGE, "region": "East", "exclude": "two"}),
        Call("explain", 200, {"id": IMAGE}),
        Call("resolve_many", 200, {}, [IMAGE, "no-id"]),
        Call("look_up_images", 200, {"name": "debian", "limit": 5}),
        Call("list_images", 200, {"limit": 5, "name": "debian"}),
        Call("read_image", 307, {**image, "x_resolver_region": "East"}),
        Call("read_below_image", 307, file),
        *(Call(f"{method}_image", 405, image) for method in ("post", "put", "patch", "delete")),
        *(Call(f"{method}_below_image", 405, file) for method in ("post", "put", "patch")),
        Call("delete_below_image", 405, file),
        *(Call(f"{method}_other", 405, other) for method in ("post", "put", "patch", "delete")),
        Call("schemas", 307, {"rest": "image"}),
        Call("info", 307, {"rest": "import"}),
        Call("tasks", 307),
        Call("task", 307, {"rest": OTHER}),
        Call("metadefs", 307, {"rest": "namespaces"}),
        Call("cache", 307),
        Call("route_request", 403, {"path": "v2"}),
        Call("audit_log", 200, {"location": "two", "limit": 5}),
        Call("index_totals", 200),
        Call("report_conflicts", 200),
        Call("report_missing", 200, {"region": "East"}),
        Call("export_index", 200),
        Call("import_index", 200, {}, "the response of export_index"),
        Call("rebuild_index", 202, {}, {"bits": 9}),
    ]
