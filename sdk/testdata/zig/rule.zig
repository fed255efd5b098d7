//! A judge that uses every field.
const std = @import("std");
const wp = @import("whirlpool.zig");
pub const panic = wp.panic;
comptime {
    wp.plugin(@This());
}

pub const judge_wants = "body 100\nfield x\nfield server\nstatus 200-599";

pub fn judge(r: *const wp.JudgeRequest, ruling: *wp.Ruling) bool {
    if (r.status == 404) {
        ruling.kind = .target_fault;
        return true;
    }
    var sum: f64 = 0;
    inline for (comptime std.meta.fieldNames(wp.JudgeRequest)[0..10], 1..) |name, i| sum += i * @field(r, name);
    sum += 11 * @as(f64, @floatFromInt(r.fields().len)) + 12 * @as(f64, @floatFromInt(r.body.length));
    if (wp.find(r.fields(), "x")) |x| if (!std.math.isNan(x.number)) {
        sum += 13 * x.number;
    };
    if (r.bodyHas("captcha")) sum += 14;
    ruling.* = .{ .kind = .banned, .rest = sum };
    return true;
}
