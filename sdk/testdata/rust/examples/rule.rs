//! A judge that uses every field.
#![no_std]

use whirlpool::{Judge, Response, Ruling, Wants};

#[derive(Default)]
struct Rule;

impl Wants for Rule {
    fn wants(&self) -> &'static [u8] {
        b"body 100\nfield x\nfield server\nstatus 200-599\0"
    }
}

impl Judge for Rule {
    fn judge(&mut self, r: &Response) -> Ruling {
        if r.status == 404.0 {
            return Ruling::target_fault();
        }
        let number = r.fields().number("x", 0.0);
        let number = if number.is_nan() { 0.0 } else { number };
        let has = if r.body_has("captcha") { 1.0 } else { 0.0 };
        Ruling::banned(
            r.now + 2.0 * r.attempt + 3.0 * r.attempts_left + 4.0 * r.status + 5.0 * r.latency + 6.0 * r.host_hash
                + 7.0 * r.id_hash + 8.0 * r.content_length + 9.0 * r.encoded + 10.0 * r.whole
                + 11.0 * r.fields().iter().count() as f64 + 12.0 * r.body().len() as f64 + 13.0 * number + 14.0 * has,
        )
    }
}

whirlpool::judge!(Rule, judge_wants);
