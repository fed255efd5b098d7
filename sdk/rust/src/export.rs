//! The exports of a module: the macros that a plugin calls, and their parts.

use core::cell::UnsafeCell;

/// The place of a module's plugin. It is made at its first use.
#[doc(hidden)]
pub struct Slot<T>(UnsafeCell<Option<T>>);

// SAFETY: a module has one thread.
unsafe impl<T> Sync for Slot<T> {}

impl<T> Slot<T> {
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Slot(UnsafeCell::new(None))
    }
}

impl<T: Default> Slot<T> {
    /// # Safety
    /// The result of the previous call must no longer be in use.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn get(&self) -> &mut T {
        (*self.0.get()).get_or_insert_with(T::default)
    }
}

/// # Safety
/// `at` must be the address of `count` records of type `T`.
#[doc(hidden)]
#[inline]
pub unsafe fn slice<'a, T>(at: *const T, count: i32) -> &'a [T] {
    core::slice::from_raw_parts(at, count as usize)
}

/// Returns the address of a region for the host's records, or 0 if the memory cannot grow
/// enough. The region consists of new pages (memory.grow), so it disturbs no allocator.
#[doc(hidden)]
#[cfg(target_arch = "wasm32")]
pub fn reserve(bytes: u32) -> u32 {
    use core::arch::wasm32::{memory_grow, memory_size};
    struct Region(UnsafeCell<(u64, u64)>); // address, bytes
    unsafe impl Sync for Region {} // a module has one thread
    static REGION: Region = Region(UnsafeCell::new((0, 0)));

    // SAFETY: a module has one thread, and nothing else refers to REGION.
    let (base, room) = unsafe { &mut *REGION.0.get() };
    let bytes = bytes as u64;
    if bytes > *room {
        let end = (memory_size(0) as u64) << 16;
        let start = if *base + *room == end { *base } else { end };
        let pages = (start + bytes - end + 0xffff) >> 16;
        if memory_grow(0, pages as usize) == usize::MAX {
            return 0;
        }
        *base = start;
        *room = end + (pages << 16) - start;
    }
    *base as u32
}

/// Exports a type as a scorer: `scorer!(T)`. The type implements [`Scorer`](crate::Scorer)
/// and `Default`. The optional functions that it implements are named after it:
/// `scorer!(T, configure, pool_changed, observe, tolerance)`. Each of them is a trait with
/// that name.
#[macro_export]
macro_rules! scorer {
    ($plugin:ty $(, $hook:ident)* $(,)?) => {
        $crate::__export!($plugin, score $(, $hook)*);
    };
}

/// Exports a type as a backoff, as [`scorer!`] does. The type implements
/// [`Backoff`](crate::Backoff) and `Default`.
#[macro_export]
macro_rules! backoff {
    ($plugin:ty $(, $hook:ident)* $(,)?) => {
        $crate::__export!($plugin, backoff $(, $hook)*);
    };
}

/// Exports a type as a judge, as [`scorer!`] does: `judge!(T, configure, judge_wants)`. The type
/// implements [`Judge`](crate::Judge) and `Default`.
#[macro_export]
macro_rules! judge {
    ($plugin:ty $(, $hook:ident)* $(,)?) => {
        $crate::__export!($plugin, judge $(, $hook)*);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    ($plugin:ty, $($hook:ident),*) => {
        const _: () = {
            #[allow(dead_code)]
            static PLUGIN: $crate::Slot<$plugin> = $crate::Slot::new();

            #[cfg(target_arch = "wasm32")]
            #[no_mangle]
            extern "C" fn whirlpool_abi_v1() {}

            #[cfg(target_arch = "wasm32")]
            #[no_mangle]
            extern "C" fn reserve(bytes: u32) -> u32 {
                $crate::reserve(bytes)
            }

            $($crate::__hook!($hook, PLUGIN);)*
        };
    };
}

/// Declares the settings of the plugin, so that the host can check and show them. There is
/// a text for each setting. It consists of name, type (number, integer, boolean or text),
/// range (`0..1`, `0..`, or for a text `fast|slow`), default and description, separated by
/// tabs. The last ones may be missing.
///
/// ```
/// whirlpool::settings!("margin\tnumber\t0..1\t0.25\tscores within this fraction are equal");
/// ```
#[macro_export]
macro_rules! settings {
    ($($line:literal),+ $(,)?) => {
        #[cfg_attr(target_arch = "wasm32", no_mangle)]
        #[allow(dead_code)]
        extern "C" fn describe() -> *const u8 {
            concat!($($line, "\n",)+ "\0").as_ptr()
        }
    };
}

// SAFETY of each function: calls run one after the other, so the plugin is borrowed only once. The
// addresses from the host point to as many records as the host states.
#[doc(hidden)]
#[macro_export]
macro_rules! __hook {
    (score, $plugin:ident) => {
        #[cfg_attr(target_arch = "wasm32", no_mangle)]
        #[allow(dead_code)]
        unsafe extern "C" fn score(
            request: *const $crate::RankRequest,
            candidates: *const $crate::Candidate,
            scores: *mut f64,
            count: i32,
        ) -> i32 {
            let scores = ::core::slice::from_raw_parts_mut(scores, count as usize);
            $crate::Scorer::score($plugin.get(), &*request, $crate::slice(candidates, count), scores);
            0
        }
    };
    (backoff, $plugin:ident) => {
        #[cfg_attr(target_arch = "wasm32", no_mangle)]
        #[allow(dead_code)]
        unsafe extern "C" fn backoff(request: *const $crate::BackoffRequest) -> f64 {
            $crate::Backoff::delay($plugin.get(), &*request)
        }
    };
    (judge, $plugin:ident) => {
        #[cfg_attr(target_arch = "wasm32", no_mangle)]
        #[allow(dead_code)]
        unsafe extern "C" fn judge(request: *const $crate::Response<'static>, ruling: *mut $crate::Ruling) -> i32 {
            *ruling = $crate::Judge::judge($plugin.get(), &*request);
            0
        }
    };
    (judge_wants, $plugin:ident) => {
        #[cfg_attr(target_arch = "wasm32", no_mangle)]
        #[allow(dead_code)]
        unsafe extern "C" fn judge_wants() -> *const u8 {
            $crate::Wants::wants($plugin.get()).as_ptr()
        }
    };
    (configure, $plugin:ident) => {
        #[cfg_attr(target_arch = "wasm32", no_mangle)]
        #[allow(dead_code)]
        unsafe extern "C" fn configure(settings: *const $crate::Pair<'static>, count: i32) -> i32 {
            let settings = $crate::Settings::new($crate::slice(settings, count));
            match $crate::Configure::configure($plugin.get(), settings) {
                Ok(()) => 0,
                Err(refused) => {
                    refused.say();
                    1
                }
            }
        }
    };
    (pool_changed, $plugin:ident) => {
        #[cfg_attr(target_arch = "wasm32", no_mangle)]
        #[allow(dead_code)]
        unsafe extern "C" fn pool_changed(proxies: *const $crate::Proxy<'static>, count: i32) {
            $crate::PoolChanged::pool_changed($plugin.get(), $crate::slice(proxies, count))
        }
    };
    (observe, $plugin:ident) => {
        #[cfg_attr(target_arch = "wasm32", no_mangle)]
        #[allow(dead_code)]
        unsafe extern "C" fn observe(observation: *const $crate::Observation) {
            $crate::Observe::observe($plugin.get(), &*observation)
        }
    };
    (tolerance, $plugin:ident) => {
        #[cfg_attr(target_arch = "wasm32", no_mangle)]
        #[allow(dead_code)]
        unsafe extern "C" fn tolerance() -> f64 {
            $crate::Tolerance::tolerance($plugin.get())
        }
    };
}
