//! A backoff that uses every field, as lib.rs does. It also writes log lines and
//! declares settings.
#![no_std]

use whirlpool::{count, gauge, log, say, Backoff, BackoffRequest, Level};

#[derive(Default)]
struct Wait;

impl Backoff for Wait {
    fn delay(&mut self, r: &BackoffRequest) -> f64 {
        if r.retry == -1.0 {
            say("to the standard error");
            log(Level::Info, "waiting");
            count("waits_total", 2.0);
            gauge("level", 0.5);
        }
        if r.retry == -2.0 {
            panic!("no {}", "spoon");
        }
        r.retry + 2.0 * r.base_delay + 3.0 * r.multiplier + 4.0 * r.cap + 5.0 * r.jitter + 6.0 * r.random
            + 7.0 * r.previous_delay + 8.0 * r.retry_after + 9.0 * r.last_status + 10.0 * r.elapsed
            + 11.0 * r.remaining + 12.0 * r.max_attempts + 13.0 * r.host_hash + 14.0 * r.id_hash + 15.0 * r.now
    }
}

whirlpool::backoff!(Wait);
whirlpool::settings!(
    "margin\tnumber\t0..1\t0.25\thow near is equal",
    "steps\tinteger\t1..9\t3",
    "eager\tboolean\t\ttrue",
    "mode\ttext\tfast|slow\tfast",
);
