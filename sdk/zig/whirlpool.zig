//! SDK for Whirlpool plugins in Zig, for version 1 of the contract in sdk/ABI.md. A plugin is a file that declares
//! public functions and passes itself to `plugin`:
//!
//!     const wp = @import("whirlpool.zig");
//!     pub const panic = wp.panic;
//!     comptime { wp.plugin(@This()); }
//!
//!     pub fn score(_: *const wp.RankRequest, candidates: []const wp.Candidate, scores: []f64) bool {
//!         for (candidates, scores) |c, *s| s.* = c.success_rate;
//!         return true;
//!     }
//!
//! The command to build it:
//!
//!     zig build-exe plugin.zig -target wasm32-freestanding -O ReleaseSafe -fno-entry -rdynamic -fstrip --stack 16384
//!
//! For any other target nothing is exported, and a test can call the functions (`zig test plugin.zig`).
//!
//! Times are seconds, rates 0 to 1, flags 0 or 1. Hashes are 53 bits, so that an f64 holds them exactly.

const std = @import("std");
const builtin = @import("builtin");

const in_gateway = builtin.cpu.arch == .wasm32;

/// The request that a scorer chooses a proxy for.
pub const RankRequest = extern struct {
    count: f64 = 0, // number of candidates, at least 1
    now: f64 = 0, // s since the Unix epoch
    attempt: f64 = 0, // 0 for a request's first attempt
    turn: f64 = 0, // a number that increases by one with each first attempt
    seed: f64 = 0, // 53 random bits, new in each call; see uniform
    host_hash: f64 = 0, // hash of the target's host; see hash
    region_hash: f64 = 0, // hash of the wanted region; without one see sdk/ABI.md
    pool_size: f64 = 0, // number of proxies in the pool, also those that are no candidates
    idempotent: f64 = 0, // 1 if the request may be repeated
    connect: f64 = 0, // 1 if the request is a CONNECT
};

/// One proxy that a scorer may choose.
pub const Candidate = extern struct {
    success_rate: f64 = 0, // of the last 100 attempts, 0 to 1; 0.5 without attempts
    samples: f64 = 0, // number of attempts that success_rate is computed from
    latency_mean: f64 = 0, // mean of the last 100 attempts, s
    latency_ewma: f64 = 0, // exponentially weighted mean, s (alpha 0.1)
    normalized_latency: f64 = 0, // latency_mean relative to the largest one of the candidates; see sdk/ABI.md
    in_flight: f64 = 0, // attempts in flight through it
    weight: f64 = 0, // configured, above 0, default 1
    cost: f64 = 0, // configured, at least 0, default 0
    region_match: f64 = 0, // 1 if it is in the wanted region, else 0
    consecutive_failures: f64 = 0, // number since its last success
    since_use: f64 = 0, // s since it was chosen last; -1 if never
    uses: f64 = 0, // how often it was chosen
    breaker_state: f64 = 0, // 0 closed, 1 open, 2 half-open
    id_hash: f64 = 0, // hash of its id, the same after a restart
    affinity_hash: f64 = 0, // hash of its id and the target's host
    rotation: f64 = 0, // number of proxies before this one in the rotation
};

/// The input of a backoff before a retry.
pub const BackoffRequest = extern struct {
    retry: f64 = 0, // 1 before the first retry
    base_delay: f64 = 0, // s, base_delay of the policy
    multiplier: f64 = 0, // multiplier of the policy
    cap: f64 = 0, // s, max_backoff_delay of the policy
    jitter: f64 = 0, // 1 if the policy has jitter
    random: f64 = 0, // random number, uniform in [0, 1), new in each call
    previous_delay: f64 = 0, // wait before the previous retry, s; 0 before the first retry
    retry_after: f64 = 0, // Retry-After of the last response, s; 0 without one
    last_status: f64 = 0, // status of the last response; 0 without a response
    elapsed: f64 = 0, // s since the request began
    remaining: f64 = 0, // s until the request's total timeout; -1 without one
    max_attempts: f64 = 0, // max_attempts of the policy
    host_hash: f64 = 0, // as RankRequest.host_hash
    id_hash: f64 = 0, // hash of the id of the proxy that failed last
    now: f64 = 0, // s since the Unix epoch
};

/// A finished attempt, for a plugin that learns.
pub const Observation = extern struct {
    now: f64 = 0, // s since the Unix epoch
    id_hash: f64 = 0, // as Candidate.id_hash
    host_hash: f64 = 0, // as RankRequest.host_hash
    attempt: f64 = 0, // 0 for a request's first attempt
    success: f64 = 0, // 1 if it was a success, otherwise 0
    latency: f64 = 0, // s
    status: f64 = 0, // 0 without a response
    delay: f64 = 0, // wait before this attempt, s
};

/// A text in the memory of the host's records. It is UTF-8, unless it is a header field or a body. Copy what you need
/// after the call.
pub const Text = extern struct {
    pointer: [*]const u8 = "",
    length: u32 = 0,

    pub fn of(text: []const u8) Text {
        return .{ .pointer = text.ptr, .length = @intCast(text.len) };
    }

    pub fn slice(t: Text) []const u8 {
        return t.pointer[0..t.length];
    }

    pub fn is(t: Text, text: []const u8) bool {
        return std.mem.eql(u8, t.slice(), text);
    }
};

/// A setting of [plugins.NAME.config], an entry of a proxy's metadata, or a header field.
pub const Pair = extern struct {
    key: Text,
    value: Text,
    number: f64 = std.math.nan(f64), // the value as a number (true is 1, false 0); NaN if it is no number

    /// Refuses a setting: `return setting.refuse("it must be 0 to 1")`.
    pub fn refuse(p: *const Pair, why: []const u8) bool {
        sayAll(&.{ "the setting ", p.key.slice(), " is \"", p.value.slice(), "\"; ", why });
        return false;
    }
};

/// Returns the pair with a key, or null.
pub fn find(pairs: []const Pair, key: []const u8) ?*const Pair {
    for (pairs) |*p| if (p.key.is(key)) return p;
    return null;
}

/// One proxy of the pool.
pub const Proxy = extern struct {
    id_hash: f64 = 0, // as Candidate.id_hash
    region_hash: f64 = 0, // as RankRequest.region_hash; 0 without a region
    weight: f64 = 0,
    cost: f64 = 0,
    id: Text = .{},
    region: Text = .{},
    metadata_pointer: ?[*]const Pair = null,
    metadata_count: u32 = 0,

    /// Returns the metadata, sorted by key.
    pub fn metadata(p: *const Proxy) []const Pair {
        return if (p.metadata_pointer) |m| m[0..p.metadata_count] else &.{};
    }
};

/// A response that a judge rules on.
pub const JudgeRequest = extern struct {
    now: f64 = 0, // s since the Unix epoch
    attempt: f64 = 0, // 0 for a request's first attempt
    attempts_left: f64 = 0, // attempts that may follow this one; 0 if the request may not be repeated
    status: f64 = 0,
    latency: f64 = 0, // s until the response's head
    host_hash: f64 = 0, // as RankRequest.host_hash
    id_hash: f64 = 0, // hash of the proxy's id
    content_length: f64 = 0, // length of the body that the head states; -1 if unknown
    encoded: f64 = 0, // 1 if the body has a content coding other than gzip, and is not decoded
    whole: f64 = 0, // 1 if body is the whole body
    fields_pointer: ?[*]const Pair = null,
    field_count: u32 = 0,
    body: Text = .{}, // the beginning of the body

    /// Returns the header fields that judge_wants names. Their names are in lower case.
    pub fn fields(r: *const JudgeRequest) []const Pair {
        return if (r.fields_pointer) |f| f[0..r.field_count] else &.{};
    }

    /// Reports whether the beginning of the body contains a text, ignoring the case of letters.
    pub fn bodyHas(r: *const JudgeRequest, text: []const u8) bool {
        return std.ascii.findIgnoreCase(r.body.slice(), text) != null;
    }
};

/// A judge's ruling on a response.
pub const Ruling = extern struct {
    kind: Kind = .fine,
    rest: f64 = 0, // s that the proxy is banned for the target's host; 0 stands for 600

    /// The kind of a ruling. The ABI has it as an f64.
    pub const Kind = enum(u64) {
        fine = 0,
        retry = @bitCast(@as(f64, 1)),
        other_proxy = @bitCast(@as(f64, 2)),
        banned = @bitCast(@as(f64, 3)),
        target_fault = @bitCast(@as(f64, 4)),
    };
};

comptime {
    if (in_gateway) {
        for (.{ RankRequest, Candidate, BackoffRequest, Observation, Pair, Proxy, JudgeRequest, Ruling }, .{
            80, 128, 120, 64, 24, 56, 96, 16,
        }) |Record, size| if (@sizeOf(Record) != size) @compileError(@typeName(Record) ++ " has another size");
    }
}

/// Exports the functions that P declares, if the target is a gateway. One of score, backoff and judge is required:
///
///     pub fn score(request: *const RankRequest, candidates: []const Candidate, scores: []f64) bool
///     pub fn backoff(request: *const BackoffRequest) f64
///     pub fn judge(request: *const JudgeRequest, ruling: *Ruling) bool
///
/// A score is finite; a higher score is better. backoff returns seconds, finite and at least 0. The result false means
/// that the call failed. The others are optional:
///
///     pub const describe: [:0]const u8
///         the settings, one line for each: name, type (number, integer, boolean or text), range ("0..1", "0..",
///         "fast|slow"), default and description, separated by tabs
///     pub fn configure(settings: []const Pair) bool
///         receives the settings once, before the first call; false refuses them
///     pub fn tolerance() f64
///         scores within this fraction of the best score count as equal, 0 to 1
///     pub const judge_wants: [:0]const u8
///         the parts of a response that the judge gets (sdk/ABI.md)
///     pub fn poolChanged(proxies: []const Proxy) void
///         receives the proxies of the pool, before the first call and before the next call after a change
///     pub fn observe(observation: *const Observation) void
///         receives each finished attempt; a plugin that has it has one instance, and its calls run one after the other
pub fn plugin(comptime P: type) void {
    if (!in_gateway) return;
    const Exports = struct {
        fn abi() callconv(.c) void {}

        fn score(request: *const RankRequest, rows: [*]const Candidate, out: [*]f64, n: u32) callconv(.c) i32 {
            return status(P.score(request, rows[0..n], out[0..n]));
        }
        fn backoff(request: *const BackoffRequest) callconv(.c) f64 {
            return P.backoff(request);
        }
        fn judge(request: *const JudgeRequest, ruling: *Ruling) callconv(.c) i32 {
            return status(P.judge(request, ruling));
        }
        fn describe() callconv(.c) [*:0]const u8 {
            return P.describe;
        }
        fn configure(settings: [*]const Pair, n: u32) callconv(.c) i32 {
            return status(P.configure(settings[0..n]));
        }
        fn tolerance() callconv(.c) f64 {
            return P.tolerance();
        }
        fn judgeWants() callconv(.c) [*:0]const u8 {
            return P.judge_wants;
        }
        fn poolChanged(proxies: [*]const Proxy, n: u32) callconv(.c) void {
            P.poolChanged(proxies[0..n]);
        }
        fn observe(observation: *const Observation) callconv(.c) void {
            P.observe(observation);
        }
    };
    @export(&Exports.abi, .{ .name = "whirlpool_abi_v1" });
    @export(&reserve, .{ .name = "reserve" });
    for (.{
        .{ "score", "score" },             .{ "backoff", "backoff" },         .{ "judge", "judge" },
        .{ "describe", "describe" },       .{ "configure", "configure" },     .{ "tolerance", "tolerance" },
        .{ "judge_wants", "judgeWants" },  .{ "pool_changed", "poolChanged" }, .{ "observe", "observe" },
    }) |e| {
        const declared = if (@hasDecl(P, e[0])) true else @hasDecl(P, e[1]);
        if (declared) @export(&@field(Exports, e[1]), .{ .name = e[0] });
    }
}

fn status(ok: bool) i32 {
    return if (ok) 0 else 1;
}

var base: u32 = 0;
var room: u32 = 0;

/// Returns the address of a region for the host's records, or 0 if the memory cannot grow enough. The region consists
/// of new pages, so it disturbs no allocator.
fn reserve(bytes: u32) callconv(.c) u32 {
    if (bytes > room) {
        const end: u64 = @as(u64, @wasmMemorySize(0)) << 16;
        const start: u64 = if (@as(u64, base) + room == end) base else end;
        const pages = (start + bytes - end + 0xffff) >> 16;
        if (@wasmMemoryGrow(0, @intCast(pages)) < 0) return 0;
        base = @intCast(start);
        room = @intCast(end + (pages << 16) - start);
    }
    return base;
}

// --- Output ---

const host = struct {
    extern "whirlpool" fn log(level: i32, text: [*]const u8, length: u32) void;
    extern "whirlpool" fn metric(kind: i32, name: [*]const u8, length: u32, value: f64) void;
    extern "wasi_snapshot_preview1" fn fd_write(file: i32, pieces: [*]const Text, n: u32, written: *u32) i32;
};

/// The levels of log lines.
pub const Level = enum(i32) { debug, info, warn, err };

/// Writes a log line. The host keeps the last 100 lines of a plugin, and at most 20 lines a second. If the call fails,
/// its error contains the last line of level err.
pub fn log(level: Level, text: []const u8) void {
    if (in_gateway) host.log(@intFromEnum(level), text.ptr, @intCast(text.len));
}

/// Writes a formatted log line. It keeps the first 1,000 bytes.
pub fn logf(level: Level, comptime format: []const u8, values: anytype) void {
    var buffer: [1000]u8 = undefined;
    log(level, std.fmt.bufPrint(&buffer, format, values) catch buffer[0..]);
}

/// Adds a value to a counter of the plugin. The value must be finite and not negative. /metrics
/// shows the counter as whirlpool_plugin_metric{plugin,name}. A name has 1 to 64 letters, digits
/// and underscores. A plugin has at most 20 metrics.
pub fn count(name: []const u8, value: f64) void {
    if (in_gateway) host.metric(0, name.ptr, @intCast(name.len), value);
}

/// Sets a gauge of the plugin to a finite value. count describes the names.
pub fn gauge(name: []const u8, value: f64) void {
    if (in_gateway) host.metric(1, name.ptr, @intCast(name.len), value);
}

/// Writes a text to the standard error. If the call fails, its error contains the first line
/// written there.
pub fn say(text: []const u8) void {
    sayAll(&.{text});
}

fn sayAll(texts: []const []const u8) void {
    if (!in_gateway) return;
    var written: u32 = 0;
    for (texts) |text| {
        const piece = [_]Text{Text.of(text)};
        _ = host.fd_write(2, &piece, 1, &written);
    }
}

/// Ends the call with an error that contains the text, the file and the line: `wp.fail(@src(), "no
/// spoon")`.
pub fn fail(at: std.builtin.SourceLocation, text: []const u8) noreturn {
    logf(.err, "panicked at {s}:{d}: {s}", .{ at.file, at.line, text });
    @trap();
}

/// Handles the panics of a plugin whose file has `pub const panic = wp.panic;`. The error of the
/// call contains their text. Without debug information Zig does not state the line of a panic;
/// `fail` does.
pub const panic = if (in_gateway) std.debug.FullPanic(panicked) else std.debug.FullPanic(std.debug.defaultPanic);

fn panicked(text: []const u8, _: ?usize) noreturn {
    logf(.err, "panicked: {s}", .{text});
    @trap();
}

// --- Hashes and random numbers ---

fn mix(x: u64) f64 {
    var h = x;
    h = (h ^ h >> 33) *% 0xff51afd7ed558ccd;
    h = (h ^ h >> 33) *% 0xc4ceb9fe1a85ec53;
    return @floatFromInt((h ^ h >> 33) >> 11);
}

/// Returns the 53-bit hash of a text: id_hash is the hash of a proxy's id, host_hash of a host (in
/// lower case, without the port), region_hash of a region (in lower case). The hash is FNV-1a with the
/// finalizer of MurmurHash3.
pub fn hash(text: []const u8) f64 {
    var h: u64 = 0xcbf29ce484222325;
    for (text) |c| h = (h ^ c) *% 0x100000001b3;
    return mix(h);
}

/// Combines two hashes into one: affinity_hash is hashPair(id_hash, host_hash).
pub fn hashPair(a: f64, b: f64) f64 {
    return mix(@as(u64, @intFromFloat(a)) *% 0x9e3779b97f4a7c15 +% @as(u64, @intFromFloat(b)));
}

/// Returns a random number in (0, 1], uniformly distributed. The same seed and i give the same
/// number: pass the request's seed and the candidate's index (SplitMix64).
pub fn uniform(seed: f64, i: usize) f64 {
    var z = @as(u64, @bitCast(seed)) +% (@as(u64, i) + 1) *% 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) *% 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) *% 0x94d049bb133111eb;
    return @as(f64, @floatFromInt(((z ^ z >> 31) >> 11) + 1)) / 9007199254740992.0;
}

test "hashes are those of sdk/ABI.md" {
    try std.testing.expectEqual(5262515118486170, hash("example.com"));
    try std.testing.expectEqual(3407491858544490, hash("US-EAST"));
    try std.testing.expectEqual(4596324399134681, hash("a"));
    try std.testing.expectEqual(1954661515094328, hashPair(hash("a"), hash("example.com")));
}

test "uniform is in (0, 1], and depends on seed and place" {
    for (0..1000) |i| {
        const x = uniform(7, i);
        try std.testing.expect(x > 0 and x <= 1);
        try std.testing.expect(x != uniform(8, i) and x != uniform(7, i + 1));
    }
}

test "texts and pairs" {
    const pairs = [_]Pair{.{ .key = Text.of("a"), .value = Text.of("1"), .number = 1 }};
    try std.testing.expectEqual(&pairs[0], find(&pairs, "a").?);
    try std.testing.expectEqual(null, find(&pairs, "b"));
    try std.testing.expect(!pairs[0].refuse("it must be 0"));
    try std.testing.expectEqual(0, (Proxy{}).metadata().len);
}
