//! A scorer that minimizes the expected time of a request: the proxy's latency, times its attempts
//! in flight with the new one, divided by its success rate. For a proxy outside the wanted region,
//! a fixed time (the setting toll) is added.
const std = @import("std");
const wp = @import("whirlpool.zig");

pub const panic = wp.panic;
comptime {
    wp.plugin(@This());
}

pub const describe = "toll\tnumber\t0..60\t0.2\tseconds added for a proxy outside the wanted region\n";

var toll: f64 = 0.2;

pub fn configure(settings: []const wp.Pair) bool {
    toll = if (wp.find(settings, "toll")) |s| s.number else 0.2;
    return true;
}

/// Scores within a tenth of the best count as equal, so such proxies take turns.
pub fn tolerance() f64 {
    return 0.1;
}

fn seconds(request: *const wp.RankRequest, c: *const wp.Candidate) f64 {
    const latency = if (c.samples > 0) @max(c.latency_ewma, 0.001) else 0.1; // so a new proxy gets an attempt
    const away = request.region_hash != 0 and c.region_match == 0;
    return (latency * (c.in_flight + 1) + if (away) toll else 0) / @max(c.success_rate, 0.05);
}

pub fn score(request: *const wp.RankRequest, candidates: []const wp.Candidate, scores: []f64) bool {
    for (candidates, scores) |*c, *s| s.* = 1 / seconds(request, c);
    return true;
}

test "an idle proxy nearby comes first" {
    const here: wp.Candidate = .{ .samples = 9, .success_rate = 1, .latency_ewma = 0.1, .region_match = 1 };
    var busy = here;
    busy.in_flight = 2;
    var away = here;
    away.region_match = 0;
    var scores: [3]f64 = undefined;
    try std.testing.expect(score(&.{ .region_hash = 1 }, &.{ busy, here, away }, &scores));
    try std.testing.expectEqual(1, std.mem.indexOfMax(f64, &scores));
    try std.testing.expectApproxEqAbs(scores[0], scores[2], 1e-9); // both take 0.3 s
}
