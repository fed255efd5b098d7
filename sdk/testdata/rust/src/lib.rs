//! A scorer that uses every hook and every field, for the tests of the SDK. Each
//! score is a sum: of each field times its index in its record.
#![no_std]

use whirlpool::*;

struct Everything {
    near: f64,
    seen: f64,
    pool: f64,
}

impl Default for Everything {
    fn default() -> Self {
        Everything { near: 0.25, seen: 0.0, pool: 0.0 }
    }
}

impl Configure for Everything {
    fn configure<'a>(&mut self, settings: Settings<'a>) -> Result<(), Refused<'a>> {
        if let Some(other) = settings.iter().find(|s| s.key() != "near") {
            return Err(other.refuse("there is near"));
        }
        self.near = settings.number("near", self.near);
        match settings.get("near") {
            Some(near) if !(0.0..=1.0).contains(&self.near) => Err(near.refuse("it must be 0 to 1")),
            _ => Ok(()),
        }
    }
}

impl Tolerance for Everything {
    fn tolerance(&self) -> f64 {
        self.near
    }
}

impl PoolChanged for Everything {
    fn pool_changed(&mut self, proxies: &[Proxy]) {
        self.pool = 0.0;
        for p in proxies {
            self.pool += p.id_hash + 2.0 * p.region_hash + 3.0 * p.weight + 4.0 * p.cost;
            self.pool += 5.0 * p.id().len() as f64 + 6.0 * p.region().len() as f64;
            self.pool += 7.0 * p.metadata().number("rank", 1.0);
            if p.id() == "second" && p.region() == "eu" {
                self.pool += 8.0;
            }
        }
    }
}

impl Observe for Everything {
    fn observe(&mut self, o: &Observation) {
        self.seen = o.now + 2.0 * o.id_hash + 3.0 * o.host_hash + 4.0 * o.attempt + 5.0 * o.success
            + 6.0 * o.latency + 7.0 * o.status + 8.0 * o.delay;
    }
}

impl Scorer for Everything {
    fn score(&mut self, r: &RankRequest, candidates: &[Candidate], scores: &mut [f64]) {
        assert!(r.attempt >= 0.0, "a panic");
        let request = r.count + 2.0 * r.now + 3.0 * r.attempt + 4.0 * r.turn + 5.0 * r.seed + 6.0 * r.host_hash
            + 7.0 * r.region_hash + 8.0 * r.pool_size + 9.0 * r.idempotent + 10.0 * r.connect;
        let hashes = hash53("example.com") + pair53(hash53("a"), r.host_hash);
        for (i, c) in candidates.iter().enumerate() {
            scores[i] = request + self.seen + self.pool + hashes + uniform(r.seed, i) + c.success_rate
                + 2.0 * c.samples + 3.0 * c.latency_mean + 4.0 * c.latency_ewma + 5.0 * c.normalized_latency
                + 6.0 * c.in_flight + 7.0 * c.weight + 8.0 * c.cost + 9.0 * c.region_match
                + 10.0 * c.consecutive_failures + 11.0 * c.since_use + 12.0 * c.uses + 13.0 * c.breaker_state
                + 14.0 * c.id_hash + 15.0 * c.affinity_hash + 16.0 * c.rotation;
        }
    }
}

whirlpool::scorer!(Everything, configure, tolerance, pool_changed, observe);
