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
//! It is built as a `cdylib` for `wasm32-unknown-unknown`; on any other target
//! the same source is ordinary Rust, so `cargo test` tests it. A plugin that
//! wants the standard library leaves `no_std` out and asks for this crate's
//! feature `std`.
//!
//! Times are seconds, rates 0 to 1, flags 0 or 1. Hashes are 53 bits, so that
//! an `f64` holds them exactly. Numbers that count are whole.
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
    /// Sets `scores[i]` for `candidates[i]`: finite, higher is better. There
    /// is at least one candidate, and as many scores.
    fn score(&mut self, request: &RankRequest, candidates: &[Candidate], scores: &mut [f64]);
}

/// Says how long to wait before a retry. [`backoff!`] exports it.
pub trait Backoff {
    /// The wait in seconds: finite, 0 or more. The gateway cuts it to the
    /// policy's cap.
    fn delay(&mut self, request: &BackoffRequest) -> f64;
}

/// Rules on responses before they are relayed. [`judge!`] exports it.
pub trait Judge {
    /// The ruling on a response.
    fn judge(&mut self, response: &Response) -> Ruling;
}

/// The hook `judge_wants`: a judge that gets header fields or the beginning of the
/// body, or rules on some statuses only.
pub trait Wants {
    /// The parts of a response that the judge gets: a text that a zero byte ends, with
    /// a line for each. `body 8192` are bytes of the body's beginning, at most 8192,
    /// `field server` is a header field, of which there are at most 32, and with
    /// `status 403` or `status 500-599` the judge rules on such responses only.
    fn wants(&self) -> &[u8];
}

/// The hook `configure`: a plugin with settings. One without refuses them all.
pub trait Configure {
    /// Takes the settings of `[plugins.NAME.config]`, before anything else, or
    /// refuses one of them ([`Pair::refuse`]).
    fn configure<'a>(&mut self, settings: Settings<'a>) -> Result<(), Refused<'a>>;
}

/// The hook `pool_changed`: a plugin that knows the pool.
pub trait PoolChanged {
    /// Hears of the pool as it is now, before the first call that follows a
    /// change.
    fn pool_changed(&mut self, proxies: &[Proxy]);
}

/// The hook `observe`: a plugin that learns. It has one instance, whose calls
/// take turns.
pub trait Observe {
    /// Hears of one finished attempt.
    fn observe(&mut self, observation: &Observation);
}

/// The hook `tolerance`: a scorer to which near is equal.
pub trait Tolerance {
    /// Scores within this fraction of the best count as equal, 0 to 1.
    fn tolerance(&self) -> f64;
}

/// A panic ends the call: the built-in plugin answers in its place. Its place and
/// its message are in the error that is shown.
#[cfg(all(target_arch = "wasm32", not(feature = "std")))]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    output::panicked(info);
    core::arch::wasm32::unreachable()
}
