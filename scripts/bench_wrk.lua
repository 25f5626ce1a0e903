-- SPDX-License-Identifier: MIT
-- One line of JSON at the end of a wrk run, because wrk's own table rounds. Defines done() only: a
-- request() or response() here would run for every request and measure Lua.
function done(summary, latency, requests)
	local e = summary.errors
	io.write(string.format(
		'{"requests": %d, "seconds": %.6f, "bytes": %d, "p50_us": %d, "p99_us": %d, ' ..
		'"max_us": %d, "errors": %d}\n',
		summary.requests, summary.duration / 1e6, summary.bytes,
		latency:percentile(50), latency:percentile(99), latency.max,
		e.connect + e.read + e.write + e.status + e.timeout))
end
