//! SDK for plugins of the Whirlpool proxy gateway: version 1 of the contract
//! in sdk/ABI.md. A plugin is a type and one line that exports it:
//!
//! ```
//! #![cfg_attr(target_arch = "wasm32", no_std)]
//! use whirlpool::{Candidate, RankRequest, Scorer};
//!
//! #[derive(Default)]
//! struct Cheapest;
//!
//! impl Scorer for Cheapest {
//!     fn score(&mut self, _: &RankRequest, candidates: &[Candidate], scores: &mut [f64]) {
//!         for (score, candidate) in scores.iter_mut().zip(candidates) {
//!             *score = -candidate.cost;
//!         }
//!     }
//! }
//!
//! whirlpool::scorer!(Cheapest);
//! ```
//!
//! It is built as a `cdylib` for `wasm32-unknown-unknown`. For any other target
//! the same source is ordinary Rust, so `cargo test` tests it. A plugin that
//! needs the standard library omits `no_std` and enables this crate's feature
//! `std`.
//!
//! Times are seconds, rates 0 to 1, flags 0 or 1. Hashes are 53 bits, so that
//! an `f64` holds them exactly. Counts are whole numbers.
#![no_std]
#![warn(missing_docs)]

mod export;
mod hash;
mod output;
mod records;
mod say;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub use export::reserve;
#[doc(hidden)]
pub use export::{slice, Slot};
pub use hash::{hash53, pair53, uniform};
pub use output::{count, gauge, log, Level};
pub use records::{BackoffRequest, Candidate, Observation, Pair, Proxy, RankRequest, Response, Ruling, Settings};
pub use say::{say, Refused};

/// Ranks proxies. [`scorer!`] exports it.
pub trait Scorer {
    /// Sets `scores[i]` to the score of `candidates[i]`. Scores are finite; a higher score is
    /// better. There is at least one candidate, and one score for each.
    fn score(&mut self, request: &RankRequest, candidates: &[Candidate], scores: &mut [f64]);
}

/// Computes the wait before a retry. [`backoff!`] exports it.
pub trait Backoff {
    /// Returns the wait in seconds: finite and at least 0. The gateway limits it to the policy's
    /// cap.
    fn delay(&mut self, request: &BackoffRequest) -> f64;
}

/// Rules on responses before they are relayed. [`judge!`] exports it.
pub trait Judge {
    /// Returns the ruling on a response.
    fn judge(&mut self, response: &Response) -> Ruling;
}

/// The optional function `judge_wants`: for a judge that needs header fields or the body, or that
/// rules only on some statuses.
pub trait Wants {
    /// Returns the parts of a response that the judge gets. The text ends with a zero byte and has
    /// a line for each part: `body 8192` (number of bytes of the body's beginning, at most 8192) or
    /// `field server` (a header field, at most 32). With `status 403` or `status 500-599` the judge
    /// rules only on responses with these statuses.
    fn wants(&self) -> &[u8];
}

/// The optional function `configure`: for a plugin with settings. Without it the host refuses all
/// settings.
pub trait Configure {
    /// Receives the settings of `[plugins.NAME.config]` before all other calls, or refuses one of
    /// them ([`Pair::refuse`]).
    fn configure<'a>(&mut self, settings: Settings<'a>) -> Result<(), Refused<'a>>;
}

/// The optional function `pool_changed`: for a plugin that needs the proxies of the pool.
pub trait PoolChanged {
    /// Receives the proxies of the pool, before the first call and before the next call after a
    /// change of the pool.
    fn pool_changed(&mut self, proxies: &[Proxy]);
}

/// The optional function `observe`: for a plugin that learns. Such a plugin has one instance, and
/// its calls run one after the other.
pub trait Observe {
    /// Receives a finished attempt.
    fn observe(&mut self, observation: &Observation);
}

/// The optional function `tolerance`: for a scorer for which nearly equal scores are equal.
pub trait Tolerance {
    /// Returns a fraction, 0 to 1. Scores within this fraction of the best score count as equal.
    fn tolerance(&self) -> f64;
}

/// A panic ends the call, and the built-in is called instead. The error of the call contains the
/// message, the file and the line.
#[cfg(all(target_arch = "wasm32", not(feature = "std")))]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    output::panicked(info);
    core::arch::wasm32::unreachable()
}
