-- Sends requests out of a file, picked at random: a line with the length of each, then its bytes. Each thread asks
-- another one of the ports that BENCH_PORTS lists.
local requests = {}
local ports = {}
local threads = 0

for port in (os.getenv("BENCH_PORTS") or ""):gmatch("%d+") do ports[#ports + 1] = port end

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
  if #ports > 0 then thread.addr = wrk.lookup("127.0.0.1", ports[(threads - 1) % #ports + 1])[1] end
end

function init(args)
  local file = assert(io.open(args[1], "rb"))
  while true do
    local line = file:read("*l")
    if not line then break end
    requests[#requests + 1] = file:read(tonumber(line))
  end
  file:close()
  math.randomseed(tonumber(args[2]) + number)
end

function request()
  return requests[math.random(#requests)]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    "summary: requests=%d us=%d p50=%d p99=%d max=%d status=%d broken=%d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), latency.max, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
