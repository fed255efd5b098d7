//! A backoff that uses every field, as everything.zig does. It also writes log lines and declares settings.
const std = @import("std");
const wp = @import("whirlpool.zig");
pub const panic = wp.panic;
comptime {
    wp.plugin(@This());
}

pub const describe =
    "margin\tnumber\t0..1\t0.25\thow near is equal\n" ++
    "steps\tinteger\t1..9\t3\n" ++
    "eager\tboolean\t\ttrue\n" ++
    "mode\ttext\tfast|slow\tfast\n";

pub fn backoff(r: *const wp.BackoffRequest) f64 {
    if (r.retry == -1) {
        wp.say("to the standard error");
        wp.log(.info, "waiting");
        wp.count("waits_total", 2);
        wp.gauge("level", 0.5);
    }
    if (r.retry == -2) wp.fail(@src(), "no spoon");
    if (r.retry == -3) @panic("no fork");
    var total: f64 = 0;
    inline for (comptime std.meta.fieldNames(wp.BackoffRequest), 1..) |name, i| total += i * @field(r, name);
    return total;
}
