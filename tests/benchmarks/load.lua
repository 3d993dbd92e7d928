-- The load for wrk: sends the requests of a file in order, again and again, and prints a summary
-- as one line of JSON.
--
-- REQUESTS names the file: method, path and body on each line, separated by tabs. %n in a line is
-- replaced by a unique number.

local lines, n = {}, 0
local threads = {}

for line in io.lines(os.getenv("REQUESTS")) do
    lines[#lines + 1] = { line:match("^(%S+)\t(%S+)\t(.*)$") }
end

local headers = { ["Content-Type"] = "application/json" }

function setup(thread)
    threads[#threads + 1] = thread
end

function init()
    codes = {}
end

function request()
    local line = lines[n % #lines + 1]
    n = n + 1
    local body = line[3]:gsub("%%n", n)
    if line[1] == "GET" then return wrk.format("GET", line[2]) end
    if line[1] == "DELETE" then
        return wrk.format("DELETE", line[2], { ["X-User-Fingerprint"] = body })
    end
    return wrk.format(line[1], line[2], headers, body)
end

function response(status)
    codes[status] = (codes[status] or 0) + 1
end

function done(summary, latency)
    local statuses = {}
    for _, thread in ipairs(threads) do
        for status, count in pairs(thread:get("codes")) do
            statuses[#statuses + 1] = string.format('"%d":%d', status, count)
        end
    end
    print(string.format(
        '{"seconds":%.6f,"p50":%.3f,"p99":%.3f,"longest":%.3f,"lost":%d,"statuses":{%s}}',
        summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
        latency.max / 1000, summary.errors.connect + summary.errors.read + summary.errors.write
        + summary.errors.timeout, table.concat(statuses, ",")
    ))
end
