# What fog-openstack can do at an image endpoint: as client_operations.py, with the same argument.
require "json"
require "fog/openstack"

SPEC = JSON.parse(ARGV[0])
options = {
  openstack_auth_url: SPEC["auth_url"],
  openstack_username: SPEC["user"],
  openstack_api_key: SPEC["password"],
  openstack_project_name: SPEC["project"],
  openstack_domain_id: "default",
  openstack_region: SPEC["region"],
  openstack_endpoint_type: +"public",
}
if SPEC["client"] == "fog with redirects"
  middlewares = Excon.defaults[:middlewares].dup
  middlewares.insert(middlewares.index(Excon::Middleware::Expects), Excon::Middleware::RedirectFollower)
  options[:connection_options] = { middlewares: middlewares }
end
IMAGE = Fog::OpenStack::Image.new(options)

def listed(filter, only)
  ids = IMAGE.list_images(filter).body["images"].map { |image| image["id"] }
  raise "#{ids.size} images" if only && ids != [SPEC["id"]]
  raise "not listed" unless ids.include?(SPEC["id"])
end

OPERATIONS = {
  list: -> { listed({}, false) },
  show: -> { raise "another image" unless IMAGE.get_image_by_id(SPEC["id"]).body["id"] == SPEC["id"] },
  name: -> { listed({ name: SPEC["name"] }, true) },
  tagged: -> { listed({ tag: SPEC["tag"] }, true) },
  absent: lambda do
    begin
      IMAGE.get_image_by_id(SPEC["absent"])
    rescue Fog::OpenStack::Image::NotFound
      next
    end
    raise "no error"
  end,
  download: lambda do
    bytes = IMAGE.download_image(SPEC["id"], nil, {})
    raise "other bytes" unless bytes.b == File.binread(SPEC["source"])
  end,
  create: lambda do
    record = { name: SPEC["new"], disk_format: "raw", container_format: "bare" }
    made = IMAGE.create_image(record).body
    File.open(SPEC["source"], "rb") { |file| IMAGE.upload_image(made["id"], file) }
  end,
  change: -> { IMAGE.update_image(SPEC["id"], [{ op: "add", path: "/a", value: "b" }]) },
  tag: -> { IMAGE.add_tag_to_image(SPEC["id"], "seen") },
  delete: -> { IMAGE.delete_image(SPEC["victim"]) },
}.freeze

found = OPERATIONS.transform_values do |operation|
  operation.call
  ""
rescue StandardError => error
  error.message[0, 300]
end
puts JSON.generate(found)
