//! The records of the contract, laid out as the host lays them out.

use core::marker::PhantomData;
use core::{slice, str};

macro_rules! record {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $field:ident),* $(,)? } = $size:literal) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name {
            $($(#[$about])* pub $field: f64,)*
        }
        const _: () = assert!(core::mem::size_of::<$name>() == $size);
    };
}

record! {
    /// The request for which a scorer ranks the candidates.
    RankRequest {
        /// Number of candidates, at least 1.
        count,
        /// Seconds since the Unix epoch.
        now,
        /// 0 for a request's first attempt.
        attempt,
        /// A number that increases by one with each first attempt.
        turn,
        /// 53 random bits, new in each call; see [`uniform`](crate::uniform).
        seed,
        /// Hash of the target's host; see [`hash53`](crate::hash53).
        host_hash,
        /// Hash of the wanted region. If there is none: of the region of the failed proxy in a
        /// retry, otherwise 0.
        region_hash,
        /// Number of proxies in the pool, including those that are not candidates.
        pool_size,
        /// 1 if the request may be repeated.
        idempotent,
        /// 1 if the request is a CONNECT.
        connect,
    } = 80
}

record! {
    /// One proxy that a scorer may choose.
    Candidate {
        /// Success rate of the last 100 attempts, 0 to 1; 0.5 without attempts.
        success_rate,
        /// Number of attempts that `success_rate` is computed from, 0 to 100.
        samples,
        /// Mean latency of the last 100 attempts in seconds.
        latency_mean,
        /// Exponentially weighted mean latency in seconds (alpha 0.1).
        latency_ewma,
        /// (`latency_mean` + 10 ms) / (the largest `latency_mean` of all candidates + 10 ms).
        /// If `latency_mean` is 0: 0.5 without attempts, 1 if none of the attempts succeeded,
        /// otherwise 0.
        normalized_latency,
        /// Number of attempts in flight through the proxy.
        in_flight,
        /// Configured weight: above 0, default 1.
        weight,
        /// Configured cost: at least 0, default 0.
        cost,
        /// 1 if the proxy is in the wanted region, otherwise 0.
        region_match,
        /// Number of failures since the proxy's last success.
        consecutive_failures,
        /// Seconds since the proxy was chosen last; -1 if never.
        since_use,
        /// How often the proxy was chosen.
        uses,
        /// State of the breaker: 0 closed, 1 open, 2 half-open.
        breaker_state,
        /// Hash of the proxy's id. It is the same after a restart.
        id_hash,
        /// Hash of the proxy's id and the target's host together.
        affinity_hash,
        /// Number of proxies before this one in the rotation; 0 if it is this proxy's turn.
        rotation,
    } = 128
}

record! {
    /// The input of a backoff before a retry.
    BackoffRequest {
        /// 1 before the first retry.
        retry,
        /// `policy.base_delay` in seconds.
        base_delay,
        /// `policy.multiplier`.
        multiplier,
        /// `policy.max_backoff_delay` in seconds.
        cap,
        /// 1 if `policy.jitter`.
        jitter,
        /// Random number, uniform in [0, 1), new in each call.
        random,
        /// The wait before the previous retry in seconds; 0 before the first retry.
        previous_delay,
        /// Retry-After of the last response in seconds; 0 without one.
        retry_after,
        /// Status of the last response; 0 without a response.
        last_status,
        /// Seconds since the request began.
        elapsed,
        /// Seconds until the request's total timeout; -1 without one.
        remaining,
        /// `policy.max_attempts`.
        max_attempts,
        /// As [`RankRequest::host_hash`].
        host_hash,
        /// Hash of the id of the proxy that failed last.
        id_hash,
        /// Seconds since the Unix epoch.
        now,
    } = 120
}

record! {
    /// One finished attempt.
    Observation {
        /// Seconds since the Unix epoch.
        now,
        /// As [`Candidate::id_hash`].
        id_hash,
        /// As [`RankRequest::host_hash`].
        host_hash,
        /// 0 for a request's first attempt.
        attempt,
        /// 1 if the attempt was a success, otherwise 0.
        success,
        /// The attempt's latency in seconds.
        latency,
        /// Status of the response; 0 without a response.
        status,
        /// The wait before this attempt in seconds.
        delay,
    } = 64
}

impl Default for RankRequest {
    /// The first attempt of a GET, among no candidates.
    fn default() -> Self {
        RankRequest {
            count: 0.0, now: 0.0, attempt: 0.0, turn: 0.0, seed: 0.0, host_hash: 0.0, region_hash: 0.0,
            pool_size: 0.0, idempotent: 1.0, connect: 0.0,
        }
    }
}

impl Default for Candidate {
    /// A proxy that nothing is known of yet.
    fn default() -> Self {
        Candidate {
            success_rate: 0.5, samples: 0.0, latency_mean: 0.0, latency_ewma: 0.0, normalized_latency: 0.5,
            in_flight: 0.0, weight: 1.0, cost: 0.0, region_match: 0.0, consecutive_failures: 0.0,
            since_use: -1.0, uses: 0.0, breaker_state: 0.0, id_hash: 0.0, affinity_hash: 0.0, rotation: 0.0,
        }
    }
}

impl Default for BackoffRequest {
    /// The first retry under the default policy.
    fn default() -> Self {
        BackoffRequest {
            retry: 1.0, base_delay: 1.0, multiplier: 2.0, cap: 30.0, jitter: 0.0, random: 0.5,
            previous_delay: 0.0, retry_after: 0.0, last_status: 503.0, elapsed: 0.0, remaining: -1.0,
            max_attempts: 3.0, host_hash: 0.0, id_hash: 0.0, now: 0.0,
        }
    }
}

impl Default for Observation {
    /// A first attempt that succeeded at once.
    fn default() -> Self {
        Observation {
            now: 0.0, id_hash: 0.0, host_hash: 0.0, attempt: 0.0, success: 1.0, latency: 0.0, status: 200.0,
            delay: 0.0,
        }
    }
}

/// A text in the memory of the host's records.
#[repr(C)]
#[derive(Clone, Copy)]
struct Text<'a> {
    at: *const u8,
    length: u32,
    _of: PhantomData<&'a str>,
}

impl<'a> Text<'a> {
    fn new(s: &'a str) -> Self {
        Text { at: s.as_ptr(), length: s.len() as u32, _of: PhantomData }
    }

    fn get(&self) -> &'a str {
        // SAFETY: the host, or new, has written the address and the length of a text.
        // The contract requires UTF-8. Any other text reads as empty.
        str::from_utf8(unsafe { slice::from_raw_parts(self.at, self.length as usize) }).unwrap_or("")
    }
}

/// A key and its value: one setting, or one entry of a proxy's metadata.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    key: Text<'a>,
    value: Text<'a>,
    number: f64,
}

impl<'a> Pair<'a> {
    /// A pair for tests. Its number is read from the value as the host reads it.
    pub fn new(key: &'a str, value: &'a str) -> Self {
        let number = match value {
            "true" => 1.0,
            "false" => 0.0,
            _ => value.parse().unwrap_or(f64::NAN),
        };
        Pair { key: Text::new(key), value: Text::new(value), number }
    }

    /// Its key. A setting in a nested table has the key `TABLE.KEY`.
    pub fn key(&self) -> &'a str {
        self.key.get()
    }

    /// Its value as text.
    pub fn value(&self) -> &'a str {
        self.value.get()
    }

    /// Its value as a number (true is 1, false 0); NaN if it is not a number.
    pub fn number(&self) -> f64 {
        self.number
    }
}

/// Pairs sorted by key.
#[derive(Clone, Copy)]
pub struct Settings<'a>(&'a [Pair<'a>]);

impl<'a> Settings<'a> {
    /// The settings of a test, or of the host.
    pub fn new(pairs: &'a [Pair<'a>]) -> Self {
        Settings(pairs)
    }

    /// The pair with the given key.
    pub fn get(&self, key: &str) -> Option<&'a Pair<'a>> {
        self.0.iter().find(|p| p.key() == key)
    }

    /// The number that is set for `key`: `fallback` if the key is not set, and NaN if the value
    /// is not a number. NaN is in no range, so a check of the range refuses it.
    pub fn number(&self, key: &str, fallback: f64) -> f64 {
        self.get(key).map_or(fallback, |p| p.number())
    }

    /// The text that is set for `key`.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).map(|p| p.value())
    }

    /// All pairs.
    pub fn iter(&self) -> slice::Iter<'a, Pair<'a>> {
        self.0.iter()
    }
}

/// A response of a target.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Response<'a> {
    /// Seconds since the Unix epoch.
    pub now: f64,
    /// 0 for a request's first attempt.
    pub attempt: f64,
    /// Attempts that may follow this one; 0 if the request may not be repeated.
    pub attempts_left: f64,
    /// The status of the response.
    pub status: f64,
    /// Seconds until the response's head.
    pub latency: f64,
    /// As [`RankRequest::host_hash`].
    pub host_hash: f64,
    /// Hash of the proxy's id, as [`Candidate::id_hash`].
    pub id_hash: f64,
    /// Length of the body that the head states; -1 if it is unknown.
    pub content_length: f64,
    /// 1 if the body has a content coding other than gzip, and is not decoded.
    pub encoded: f64,
    /// 1 if the body's beginning is the whole body.
    pub whole: f64,
    fields: *const Pair<'a>,
    field_count: u32,
    body: *const u8,
    body_length: u32,
}

impl<'a> Response<'a> {
    /// A response for tests.
    pub fn new(status: f64, fields: &'a [Pair<'a>], body: &'a [u8]) -> Self {
        Response {
            now: 0.0,
            attempt: 0.0,
            attempts_left: 2.0,
            status,
            latency: 0.0,
            host_hash: 0.0,
            id_hash: 0.0,
            content_length: body.len() as f64,
            encoded: 0.0,
            whole: 1.0,
            fields: fields.as_ptr(),
            field_count: fields.len() as u32,
            body: body.as_ptr(),
            body_length: body.len() as u32,
        }
    }

    /// The header fields that `judge_wants` names, in the order of the response, with
    /// their names in lower case. A value that is not UTF-8 reads as empty.
    pub fn fields(&self) -> Settings<'a> {
        // SAFETY: the host, or new, has written the address of this number of pairs.
        Settings(unsafe { slice::from_raw_parts(self.fields, self.field_count as usize) })
    }

    /// The beginning of the body.
    pub fn body(&self) -> &'a [u8] {
        // SAFETY: as fields.
        unsafe { slice::from_raw_parts(self.body, self.body_length as usize) }
    }

    /// Reports whether the beginning of the body contains the text `lower`, which must be in
    /// lower case. The letters of the body may be of any case.
    pub fn body_has(&self, lower: &str) -> bool {
        let wanted = lower.as_bytes();
        wanted.is_empty()
            || self.body().windows(wanted.len()).any(|w| w.iter().zip(wanted).all(|(a, b)| a.to_ascii_lowercase() == *b))
    }
}

/// A judge's ruling on a response.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ruling {
    kind: f64,
    rest: f64,
}

impl Ruling {
    /// The policy decides as without a judge.
    pub fn fine() -> Self {
        Ruling { kind: 0.0, rest: 0.0 }
    }

    /// A retry, as after a status in `retry_status_codes`.
    pub fn retry() -> Self {
        Ruling { kind: 1.0, rest: 0.0 }
    }

    /// A retry at once, through another proxy.
    pub fn other_proxy() -> Self {
        Ruling { kind: 2.0, rest: 0.0 }
    }

    /// A retry at once, through another proxy. The proxy is banned for the target's host for `rest`
    /// seconds; 0 stands for 600.
    pub fn banned(rest: f64) -> Self {
        Ruling { kind: 3.0, rest }
    }

    /// The response is final, and the target is charged with it.
    pub fn target_fault() -> Self {
        Ruling { kind: 4.0, rest: 0.0 }
    }
}

/// One proxy of the pool.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Proxy<'a> {
    /// As [`Candidate::id_hash`].
    pub id_hash: f64,
    /// As [`RankRequest::region_hash`]; 0 without a region.
    pub region_hash: f64,
    /// Configured weight, above 0.
    pub weight: f64,
    /// Configured cost, at least 0.
    pub cost: f64,
    id: Text<'a>,
    region: Text<'a>,
    metadata: *const Pair<'a>,
    metadata_count: u32,
}

impl<'a> Proxy<'a> {
    /// A proxy for tests.
    pub fn new(id: &'a str, region: &'a str, metadata: &'a [Pair<'a>]) -> Self {
        Proxy {
            id_hash: crate::hash53(id),
            region_hash: if region.is_empty() { 0.0 } else { crate::hash53(region) },
            weight: 1.0,
            cost: 0.0,
            id: Text::new(id),
            region: Text::new(region),
            metadata: metadata.as_ptr(),
            metadata_count: metadata.len() as u32,
        }
    }

    /// Its id.
    pub fn id(&self) -> &'a str {
        self.id.get()
    }

    /// Its region; empty without one.
    pub fn region(&self) -> &'a str {
        self.region.get()
    }

    /// Its metadata.
    pub fn metadata(&self) -> Settings<'a> {
        // SAFETY: the host, or new, has written the address of this number of pairs.
        Settings(unsafe { slice::from_raw_parts(self.metadata, self.metadata_count as usize) })
    }
}

#[cfg(target_arch = "wasm32")]
const _: () = {
    use core::mem::size_of;
    assert!(size_of::<Text>() == 8);
    assert!(size_of::<Pair>() == 24);
    assert!(size_of::<Proxy>() == 56);
    assert!(size_of::<Response>() == 96);
    assert!(size_of::<Ruling>() == 16);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_by_key() {
        let pairs = [Pair::new("low", "0.5"), Pair::new("on", "true"), Pair::new("region", "eu")];
        let settings = Settings::new(&pairs);
        assert_eq!(settings.number("low", 9.0), 0.5);
        assert_eq!(settings.number("on", 9.0), 1.0);
        assert_eq!(settings.number("high", 9.0), 9.0);
        assert!(settings.number("region", 9.0).is_nan());
        assert_eq!(settings.text("region"), Some("eu"));
        assert_eq!(settings.text("lo"), None);
        assert_eq!(settings.iter().count(), 3);
    }

    #[test]
    fn a_response_has_fields_and_a_body() {
        let fields = [Pair::new("retry-after", "90"), Pair::new("server", "nginx")];
        let r = Response::new(403.0, &fields, b"<h1>CAPTcha</h1>");
        assert_eq!(r.fields().number("retry-after", 0.0), 90.0);
        assert_eq!(r.fields().text("server"), Some("nginx"));
        assert!(r.body_has("captcha") && r.body_has("") && !r.body_has("captchas"));
    }

    #[test]
    fn a_proxy_tells_its_texts() {
        let metadata = [Pair::new("tier", "gold")];
        let p = Proxy::new("p1", "eu", &metadata);
        assert_eq!((p.id(), p.region()), ("p1", "eu"));
        assert_eq!(p.metadata().text("tier"), Some("gold"));
        assert_eq!(Proxy::new("p2", "", &[]).region_hash, 0.0);
    }
}
