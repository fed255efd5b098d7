//! A scorer that chooses the cheapest proxy that works.
//!
//! A proxy does not work if it has failed `failures` times in a row, if its success
//! rate over at least ten attempts is below `success`, or if it is slower than
//! `latency`. After `rest` seconds without an attempt it counts as working again,
//! because without attempts it could not show that it has recovered.
//!
//! A proxy that works has the score 1 + 1/(1 + cost): cheaper proxies score higher.
//! The score of any other proxy is its success rate, which is at most 1.
#![cfg_attr(target_arch = "wasm32", no_std)]

use whirlpool::{Candidate, Configure, RankRequest, Refused, Scorer, Settings};

/// The success rate counts if it is computed from at least this number of attempts.
const JUDGED_BY: f64 = 10.0;

struct CheapestThatWorks {
    success: f64,  // 0 to 1
    failures: f64, // number in a row
    latency: f64,  // s; 0 for no limit
    rest: f64,     // s
}

impl Default for CheapestThatWorks {
    fn default() -> Self {
        CheapestThatWorks { success: 0.8, failures: 3.0, latency: 0.0, rest: 60.0 }
    }
}

impl CheapestThatWorks {
    fn works(&self, c: &Candidate) -> bool {
        let succeeds = c.consecutive_failures < self.failures && (c.samples < JUDGED_BY || c.success_rate >= self.success);
        let fast = self.latency == 0.0 || c.latency_ewma <= self.latency;
        succeeds && fast || c.since_use >= self.rest
    }
}

impl Scorer for CheapestThatWorks {
    fn score(&mut self, _: &RankRequest, candidates: &[Candidate], scores: &mut [f64]) {
        for (score, c) in scores.iter_mut().zip(candidates) {
            *score = if self.works(c) { 1.0 + 1.0 / (1.0 + c.cost) } else { c.success_rate };
        }
    }
}

impl Configure for CheapestThatWorks {
    fn configure<'a>(&mut self, settings: Settings<'a>) -> Result<(), Refused<'a>> {
        for setting in settings.iter() {
            let n = setting.number();
            let (field, in_range, must) = match setting.key() {
                "success" => (&mut self.success, (0.0..=1.0).contains(&n), "it must be 0 to 1"),
                "failures" => (&mut self.failures, n >= 1.0, "it must be a number of failures, 1 or more"),
                "latency" => (&mut self.latency, n >= 0.0, "it must be seconds, 0 for any"),
                "rest" => (&mut self.rest, n > 0.0, "it must be seconds, more than 0"),
                _ => return Err(setting.refuse("there are success, failures, latency and rest")),
            };
            if !in_range {
                return Err(setting.refuse(must));
            }
            *field = n;
        }
        Ok(())
    }
}

whirlpool::scorer!(CheapestThatWorks, configure);

#[cfg(test)]
mod tests {
    use super::*;
    use whirlpool::Pair;

    /// Returns a proxy with a hundred attempts, the last one a second ago.
    fn proxy(cost: f64, success_rate: f64) -> Candidate {
        Candidate { cost, success_rate, samples: 100.0, since_use: 1.0, ..Candidate::default() }
    }

    fn best(plugin: &mut CheapestThatWorks, candidates: &[Candidate]) -> usize {
        let mut scores = [0.0; 8];
        plugin.score(&RankRequest::default(), candidates, &mut scores[..candidates.len()]);
        (0..candidates.len()).max_by(|&a, &b| scores[a].partial_cmp(&scores[b]).unwrap()).unwrap()
    }

    #[test]
    fn the_cheapest_first() {
        let mut p = CheapestThatWorks::default();
        assert_eq!(best(&mut p, &[proxy(3.0, 1.0), proxy(1.0, 0.9), proxy(2.0, 1.0)]), 1);
    }

    #[test]
    fn but_only_while_it_works() {
        let mut p = CheapestThatWorks::default();
        let dear = proxy(9.0, 0.95);
        assert_eq!(best(&mut p, &[proxy(1.0, 0.5), dear]), 1);
        assert_eq!(best(&mut p, &[Candidate { consecutive_failures: 3.0, ..proxy(1.0, 0.9) }, dear]), 1);
        p.latency = 2.0;
        assert_eq!(best(&mut p, &[Candidate { latency_ewma: 2.5, ..proxy(1.0, 1.0) }, dear]), 1);
    }

    #[test]
    fn and_again_when_it_has_rested() {
        let mut p = CheapestThatWorks::default();
        let tired = Candidate { consecutive_failures: 3.0, since_use: 59.0, ..proxy(1.0, 0.5) };
        let dear = proxy(9.0, 0.95);
        assert_eq!(best(&mut p, &[tired, dear]), 1);
        assert_eq!(best(&mut p, &[Candidate { since_use: 60.0, ..tired }, dear]), 0);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        fn refusal(pairs: &[Pair]) -> String {
            let mut p = CheapestThatWorks::default();
            p.configure(Settings::new(pairs)).unwrap_err().to_string()
        }
        assert!(refusal(&[Pair::new("success", "60")]).contains("it must be 0 to 1"));
        assert!(refusal(&[Pair::new("rest", "soon")]).contains("it must be seconds"));
        assert!(refusal(&[Pair::new("rest", "10"), Pair::new("sucess", "0.6")]).contains("the setting sucess"));

        let mut p = CheapestThatWorks::default();
        assert!(p.configure(Settings::new(&[Pair::new("failures", "5"), Pair::new("success", "0.6")])).is_ok());
        assert_eq!((p.failures, p.success), (5.0, 0.6));
    }
}
