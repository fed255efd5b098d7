//! Texts that explain why a call failed.

use crate::Pair;
use core::fmt;

/// Writes a text to the standard error. If the call fails, its error contains the first line
/// written there. In a native build, `say` does nothing.
#[cfg_attr(not(target_arch = "wasm32"), allow(unused_variables))]
pub fn say(text: &str) {
    #[cfg(target_arch = "wasm32")]
    {
        #[link(wasm_import_module = "wasi_snapshot_preview1")]
        extern "C" {
            fn fd_write(file: i32, pieces: *const [usize; 2], count: i32, written: *mut u32) -> i32;
        }
        let mut written = 0;
        // SAFETY: the call passes one piece with the address and the length of the text.
        unsafe { fd_write(2, &[text.as_ptr() as usize, text.len()], 1, &mut written) };
    }
}

/// A setting that a plugin refuses; [`Pair::refuse`] makes it.
#[derive(Clone, Copy)]
pub struct Refused<'a> {
    setting: Pair<'a>,
    why: &'a str,
}

impl<'a> Pair<'a> {
    /// Refuses a setting. `why` completes the error, for example "it must be 0 to 1".
    pub fn refuse(&self, why: &'a str) -> Refused<'a> {
        Refused { setting: *self, why }
    }
}

impl Refused<'_> {
    fn pieces(&self) -> [&str; 6] {
        ["the setting ", self.setting.key(), " is \"", self.setting.value(), "\"; ", self.why]
    }

    /// Writes the error to the standard error of the module.
    #[doc(hidden)]
    pub fn say(&self) {
        self.pieces().iter().for_each(|piece| say(piece));
    }
}

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.pieces().iter().try_for_each(|piece| f.write_str(piece))
    }
}

impl fmt::Debug for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_refusal_names_the_setting() {
        let pair = Pair::new("limits.near", "2");
        assert_eq!(pair.refuse("it must be 0 to 1").to_string(), r#"the setting limits.near is "2"; it must be 0 to 1"#);
    }
}
