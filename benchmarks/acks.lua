-- For wrk: every request is a notification of its own. Arguments after --: the token, the label, the company's number.
-- The end is one line of JSON.

local number, name, headers, before, after = 0, "", {}, "", ""

function init(args)
   math.randomseed(os.time() + tonumber(tostring({}):match("0x(%x+)"), 16) % 1000000)
   name = string.format("%08x%08x", math.random(0, 2147483647), math.random(0, 2147483647))
   headers = { ["Content-Type"] = "application/json", ["Authorization"] = "Bearer " .. args[1] }
   before = '{"companyId":' .. args[3] .. ',"eventName":"stream-item-label-applied","createdDate":"Wed Apr 12 09:01:11 CDT 2017",'
      .. '"type":"hydrated","subscriptionUuid":"s-1","eventUuid":"'
   after = '","text":"The app ate my order again, and nobody answers the telephone. What now?","author":"Mara Lind",'
      .. '"authorIcon":"https://pbs.example/mara.png","authorId":"81","authorLink":"https://twitter.example/mara",'
      .. '"authorScreenName":"mara","initiativeIds":[12],"contentType":"post","createdDate":"2011-05-26T18:23:31.000Z",'
      .. '"followerCount":"230","labels":["' .. args[2] .. '"],"notes":[],"link":"https://twitter.example/mara/status/1"}],'
      .. '"labels":["' .. args[2] .. '"]}}'
end

function request()
   number = number + 1
   local id = name .. "-" .. number
   local body = before .. id .. '","data":{"items":[{"sfEntityType":"StreamItem","entityId":"twitter:' .. id .. after
   return wrk.format("POST", nil, headers, body)
end

function done(summary, latency)
   local errors = summary.errors
   local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format('{"acks":%d,"failed":%d}\n', summary.requests, failed))
end
