-- For haproxy.cfg: asks glance-resolver where a request goes, and sets the variables txn.owner_*.
-- Without an answer none is set, and HAProxy passes the request to the gateway.

-- What the gateway's answer may depend on. The body stays with the client.
local passed_on = {
    "x-resolver-region", "x-resolver-exclude", "x-resolver-fresh", "x-resolver-hop",
    "x-auth-token", "x-forwarded-for", "x-forwarded-proto", "x-openstack-request-id",
    "traceparent", "tracestate",
}

local function route(txn, gateway)
    local sent = txn.http:req_get_headers()
    local headers = { ["x-forwarded-method"] = { txn.f:method() } }
    for _, name in ipairs(passed_on) do
        if sent[name] ~= nil then
            local values = {}
            for index = 0, #sent[name] do -- HAProxy counts these from 0
                values[#values + 1] = sent[name][index]
            end
            headers[name] = values
        end
    end
    local answer = core.httpclient():get{
        url = gateway .. "/route" .. txn.f:pathq(), headers = headers,
    }
    local url = answer.status == 204 and answer.headers["x-resolver-url"]
    if not url then
        return
    end
    local scheme, host, pathq = string.match(url[0], "^(https?)://([^/]+)(/.*)$")
    if scheme == nil then
        return
    end
    local name, port = string.match(host, "^(.-):(%d+)$")
    name, port = name or host, port or (scheme == "https" and "443" or "80")
    local address = string.match(name, "^%[(.+)%]$") or string.match(name, "^[%d.]+$")
    txn:set_var("txn.owner_scheme", scheme)
    txn:set_var("txn.owner_host", host)
    txn:set_var("txn.owner_port", tonumber(port))
    txn:set_var("txn.owner_pathq", pathq)
    txn:set_var("txn.owner_name", name) -- that a certificate must be for
    if address then
        txn:set_var("txn.owner_address", address)
    end
end

core.register_action("route", { "http-req" }, route, 1)
