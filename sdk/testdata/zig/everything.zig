//! A scorer that uses every function and every field, for the tests of the SDK. Each score is a sum: of each
//! field times its index in its record.
const std = @import("std");
const wp = @import("whirlpool.zig");
pub const panic = wp.panic;
comptime {
    wp.plugin(@This());
}

var near: f64 = 0.25;
var seen: f64 = 0;
var pool: f64 = 0;

pub fn configure(settings: []const wp.Pair) bool {
    for (settings) |*s| {
        if (!s.key.is("near")) return s.refuse("there is near");
        near = s.number;
        if (!(near >= 0 and near <= 1)) return s.refuse("it must be 0 to 1");
    }
    return true;
}

pub fn tolerance() f64 {
    return near;
}

pub fn poolChanged(proxies: []const wp.Proxy) void {
    pool = 0;
    for (proxies) |*p| {
        pool += p.id_hash + 2 * p.region_hash + 3 * p.weight + 4 * p.cost;
        pool += @floatFromInt(5 * p.id.length + 6 * p.region.length);
        pool += 7 * if (wp.find(p.metadata(), "rank")) |m| m.number else 1;
        if (p.id.is("second") and p.region.is("eu")) pool += 8;
    }
}

fn sum(record: anytype) f64 {
    var total: f64 = 0;
    inline for (comptime std.meta.fieldNames(@TypeOf(record.*)), 1..) |name, i| total += i * @field(record, name);
    return total;
}

pub fn observe(o: *const wp.Observation) void {
    seen = sum(o);
}

pub fn score(r: *const wp.RankRequest, candidates: []const wp.Candidate, scores: []f64) bool {
    const hashes = wp.hash("example.com") + wp.hashPair(wp.hash("a"), r.host_hash);
    for (candidates, scores, 0..) |*c, *s, i| s.* = sum(r) + seen + pool + hashes + wp.uniform(r.seed, i) + sum(c);
    return true;
}
