//! What a plugin writes: log lines and metrics.

#[cfg(target_arch = "wasm32")]
#[link(wasm_import_module = "whirlpool")]
extern "C" {
    #[link_name = "log"]
    fn host_log(level: i32, text: *const u8, length: usize);
    #[link_name = "metric"]
    fn host_metric(kind: i32, name: *const u8, length: usize, value: f64);
}

/// How important a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For those who look for an error in the plugin.
    Debug,
    /// Something normal.
    Info,
    /// Something that should be looked at.
    Warn,
    /// Something that went wrong.
    Error,
}

/// Writes a log line, of which the host keeps the last 100, and at most 20 a second.
/// The last one of [`Level::Error`] in a call that fails is in its error, unless the
/// call panics. (Without a host it goes nowhere.)
#[cfg_attr(not(target_arch = "wasm32"), allow(unused_variables))]
pub fn log(level: Level, text: &str) {
    #[cfg(target_arch = "wasm32")]
    // SAFETY: address and length of a text.
    unsafe {
        host_log(level as i32, text.as_ptr(), text.len())
    };
}

/// Adds a finite value that is not negative to a counter of the plugin, on /metrics as
/// `whirlpool_plugin_metric{plugin,name}`. A name has 1 to 64 letters, digits and _; a
/// plugin has at most 20.
pub fn count(name: &str, value: f64) {
    metric(0, name, value);
}

/// Sets a gauge of the plugin to a finite value; for its name see [`count`].
pub fn gauge(name: &str, value: f64) {
    metric(1, name, value);
}

#[cfg_attr(not(target_arch = "wasm32"), allow(unused_variables))]
fn metric(kind: i32, name: &str, value: f64) {
    #[cfg(target_arch = "wasm32")]
    // SAFETY: address and length of a text.
    unsafe {
        host_metric(kind, name.as_ptr(), name.len(), value)
    };
}

/// Writes where a panic was, and its message.
#[cfg(all(target_arch = "wasm32", not(feature = "std")))]
pub(crate) fn panicked(info: &core::panic::PanicInfo) {
    use core::fmt::Write;

    /// The beginning of a text: what does not fit is left out.
    struct Line([u8; 400], usize);

    impl Write for Line {
        fn write_str(&mut self, s: &str) -> core::fmt::Result {
            let room = self.0.len() - self.1;
            let n = s.len().min(room);
            self.0[self.1..self.1 + n].copy_from_slice(&s.as_bytes()[..n]);
            self.1 += n;
            Ok(())
        }
    }

    let mut line = Line([0; 400], 0);
    let _ = write!(line, "{}", info);
    // SAFETY: the bytes come from texts; the last character may be cut, which the host mends.
    log(Level::Error, unsafe { core::str::from_utf8_unchecked(&line.0[..line.1]) });
}
