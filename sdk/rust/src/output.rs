//! The output of a plugin: log lines and metrics.

#[cfg(target_arch = "wasm32")]
#[link(wasm_import_module = "whirlpool")]
extern "C" {
    #[link_name = "log"]
    fn host_log(level: i32, text: *const u8, length: usize);
    #[link_name = "metric"]
    fn host_metric(kind: i32, name: *const u8, length: usize, value: f64);
}

/// The severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A line for debugging the plugin.
    Debug,
    /// A line about a normal event.
    Info,
    /// A line about a possible problem.
    Warn,
    /// A line about an error.
    Error,
}

/// Writes a log line. The host keeps the last 100 lines of a plugin, and at most 20 lines a second.
/// If the call fails without a panic, its error contains the last line of [`Level::Error`]. In a
/// native build, `log` does nothing.
#[cfg_attr(not(target_arch = "wasm32"), allow(unused_variables))]
pub fn log(level: Level, text: &str) {
    #[cfg(target_arch = "wasm32")]
    // SAFETY: the address and the length are those of a text.
    unsafe {
        host_log(level as i32, text.as_ptr(), text.len())
    };
}

/// Adds a value to a counter of the plugin. The value must be finite and not negative. /metrics
/// shows the counter as `whirlpool_plugin_metric{plugin,name}`. A name has 1 to 64 letters, digits
/// and underscores. A plugin has at most 20 metrics.
pub fn count(name: &str, value: f64) {
    metric(0, name, value);
}

/// Sets a gauge of the plugin to a finite value. [`count`] describes the names.
pub fn gauge(name: &str, value: f64) {
    metric(1, name, value);
}

#[cfg_attr(not(target_arch = "wasm32"), allow(unused_variables))]
fn metric(kind: i32, name: &str, value: f64) {
    #[cfg(target_arch = "wasm32")]
    // SAFETY: the address and the length are those of a text.
    unsafe {
        host_metric(kind, name.as_ptr(), name.len(), value)
    };
}

/// Writes the place and the message of a panic to the log.
#[cfg(all(target_arch = "wasm32", not(feature = "std")))]
pub(crate) fn panicked(info: &core::panic::PanicInfo) {
    use core::fmt::Write;

    /// The beginning of a text. It keeps the first 400 bytes.
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
    // SAFETY: the bytes come from texts. The last character may be incomplete; the host replaces
    // it.
    log(Level::Error, unsafe { core::str::from_utf8_unchecked(&line.0[..line.1]) });
}
