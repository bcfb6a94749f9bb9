//! `extern ... __kconfig`: variables that hold the kernel's configuration (libbpf's "extern Kconfig variables").
//!
//! They become one read-only data map, `.kconfig`. Their values come from [`crate::Loader::global`], else from what is known of
//! the host: its version, and the configuration that distributions put into `/boot`.

use std::collections::HashMap;

use super::btf::{Btf, Kind};
use crate::LoadError;
use crate::insn;
use crate::program::Body;

/// One variable.
#[derive(Debug, Clone)]
pub(crate) struct Variable {
    pub name: String,
    pub offset: usize,
    pub size: usize,
    /// Weak ones are 0 when nobody knows a value.
    pub weak: bool,
    form: Form,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// 1 for `y` and `m`.
    Bool,
    /// `enum libbpf_tristate`, or a number.
    Number,
    /// The letter.
    Char,
    Text,
}

/// The variables that the BTF of an object lists, laid out one after the other; `weak` tells of each symbol. With it the
/// bytes they take together.
pub(crate) fn variables(btf: &Btf, weak: impl Fn(&str) -> Option<bool>) -> (Vec<Variable>, usize) {
    let mut out = Vec::new();
    let mut end = 0usize;
    for (name, ty) in btf.section_vars(".kconfig") {
        let (Some(weak), Some(size)) = (weak(&name), btf.size_of(ty)) else {
            continue;
        };
        let size = size as usize;
        // Larger ones would be no configuration.
        if size == 0 || size > 1 << 12 || out.len() > 1 << 10 {
            continue;
        }
        let form = match btf.resolve(ty) {
            Some(t) => match &t.kind {
                Kind::Array { .. } => Form::Text,
                _ if btf.string(t.name) == "_Bool" => Form::Bool,
                _ if btf.string(t.name) == "char" => Form::Char,
                _ => Form::Number,
            },
            None => continue,
        };
        let align = if form == Form::Text {
            1
        } else {
            size.next_power_of_two().min(8)
        };
        let offset = end.next_multiple_of(align);
        end = offset + size;
        out.push(Variable {
            name,
            offset,
            size,
            weak,
            form,
        });
    }
    (out, end)
}

/// Refuses a program that names a variable which must have a value and has none. `map` is the index of `.kconfig`.
pub(crate) fn check(body: &Body, map: usize, unknown: &[&Variable]) -> Result<(), LoadError> {
    if unknown.is_empty() {
        return Ok(());
    }
    for pair in body.insns.windows(2) {
        let [insn, second] = pair else { continue };
        if !insn.is_wide() || insn.src != insn::IMM_MAP_VALUE || insn.imm != map as i32 {
            continue;
        }
        let names = |v: &&&Variable| (v.offset..v.offset + v.size).contains(&(second.imm as usize));
        if let Some(variable) = unknown.iter().find(names) {
            return Err(LoadError::Unsupported(format!(
                "program `{}` wants `{}` of the kernel's configuration, which is not known here; give it a value \
                 (Loader::global), or declare it __weak",
                body.name, variable.name
            )));
        }
    }
    Ok(())
}

/// What is known of the host.
#[derive(Default)]
pub(crate) struct Host {
    version: u32,
    settings: HashMap<String, String>,
}

impl Host {
    /// Asks it.
    pub fn ask() -> Host {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(format!("/boot/config-{release}")).unwrap_or_default();
        Host::of(&release, &text)
    }

    fn of(release: &str, config: &str) -> Host {
        let mut parts = release
            .split(|c: char| !c.is_ascii_digit())
            .map(|p| p.parse::<u32>().unwrap_or(0));
        let mut part = || parts.next().unwrap_or(0);
        let settings = config
            .lines()
            .filter_map(|l| l.trim().split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        Host {
            // KERNEL_VERSION() of linux/version.h.
            version: part() << 16 | part() << 8 | part().min(255),
            settings: settings.collect(),
        }
    }

    /// Writes a variable's value into its place, if there is one.
    pub fn put(&self, variable: &Variable, contents: &mut [u8]) {
        let place = contents.get_mut(variable.offset..variable.offset + variable.size);
        if let Some((bytes, place)) = self.value(variable).zip(place) {
            place.copy_from_slice(&bytes);
        }
    }

    /// Whether there is a value that fits.
    pub fn knows(&self, variable: &Variable) -> bool {
        self.value(variable).is_some()
    }

    /// As many bytes as the variable has.
    fn value(&self, variable: &Variable) -> Option<Vec<u8>> {
        self.bytes(variable).filter(|v| v.len() == variable.size)
    }

    fn bytes(&self, variable: &Variable) -> Option<Vec<u8>> {
        let number = |n: u64| {
            let bytes = n.to_le_bytes();
            let fits = variable.size >= 8 || n >> (8 * variable.size) == 0;
            let mut out = bytes.get(..variable.size.min(8))?.to_vec();
            out.resize(variable.size, 0);
            fits.then_some(out)
        };
        if variable.name == "LINUX_KERNEL_VERSION" {
            return number(self.version.into());
        }
        let text = self.settings.get(&variable.name)?;
        match (variable.form, text.as_str()) {
            (Form::Bool, "y" | "m") => number(1),
            (Form::Number, "y") => number(1),
            (Form::Number, "m") => number(2),
            (Form::Char, letter) => number(u64::from(*letter.as_bytes().first()?)),
            (Form::Number, text) => {
                let parsed = match text.strip_prefix("0x") {
                    Some(hex) => u64::from_str_radix(hex, 16),
                    None => text.parse(),
                };
                number(parsed.ok()?)
            }
            (Form::Text, text) => {
                let inner = text.strip_prefix('"')?.strip_suffix('"')?;
                let mut out = inner.as_bytes().to_vec();
                // Cut to fit, with the final zero that a string has.
                out.truncate(variable.size.saturating_sub(1));
                out.resize(variable.size, 0);
                Some(out)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, size: usize, form: Form) -> Variable {
        Variable {
            name: name.into(),
            offset: 0,
            size,
            weak: false,
            form,
        }
    }

    #[test]
    fn values_are_written_as_their_variable_s_type_wants() {
        let config = "# comment\nCONFIG_HZ=250\nCONFIG_NET=y\nCONFIG_VETH=m\nCONFIG_NAME=\"long name\"\nCONFIG_BASE=0xff00\n";
        let host = Host::of("6.12.9-amd64", config);
        let value = |name, size, form| host.value(&variable(name, size, form));
        assert_eq!(
            value("LINUX_KERNEL_VERSION", 4, Form::Number).unwrap(),
            [9, 12, 6, 0]
        );
        assert_eq!(value("CONFIG_HZ", 8, Form::Number).unwrap(), 250u64.to_le_bytes());
        assert_eq!(value("CONFIG_NET", 1, Form::Bool).unwrap(), [1]);
        assert_eq!(value("CONFIG_NET", 1, Form::Char).unwrap(), [b'y']);
        assert_eq!(value("CONFIG_VETH", 4, Form::Number).unwrap(), [2, 0, 0, 0]);
        assert_eq!(value("CONFIG_NAME", 5, Form::Text).unwrap(), *b"long\0");
        assert_eq!(value("CONFIG_BASE", 2, Form::Number).unwrap(), [0, 0xff]);
        assert_eq!(value("CONFIG_BASE", 1, Form::Number), None, "it does not fit");
        assert_eq!(value("CONFIG_NOT_THERE", 4, Form::Number), None);
        let mut out = [7; 4];
        host.put(&variable("CONFIG_NOT_THERE", 4, Form::Number), &mut out);
        assert_eq!(out, [7; 4], "left as it was");
        host.put(&variable("CONFIG_HZ", 4, Form::Number), &mut out);
        assert_eq!(out, [250, 0, 0, 0]);
    }
}
