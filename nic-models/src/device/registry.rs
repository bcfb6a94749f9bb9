//! Models by name: `ixgbe?wire=tap:mr0&mac=52:54:00:00:00:01&queues=4&map-doorbells`.

use std::sync::atomic::{AtomicU32, Ordering};

use super::Model;
use super::exerciser::Exerciser;
use crate::ixgbe::device::{Ixgbe82599, IxgbeConfig};
use crate::wire::{self, WireError};

/// What a model string says, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelSpec {
    pub family: String,
    /// What the port is plugged into; `null` when not said.
    pub wire: Option<String>,
    pub mac: Option<[u8; 6]>,
    pub queues: Option<u16>,
    pub map_doorbells: bool,
    /// Log register accesses.
    pub trace: bool,
}

/// Why there is no such model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("model `{0}`: no such family; there are: {families}", families = FAMILIES.join(", "))]
    UnknownFamily(String),
    #[error(
        "model string `{spec}`: `{key}` is not known; write FAMILY?wire=SPEC&mac=M&queues=N&map-doorbells&trace"
    )]
    UnknownKey { spec: String, key: String },
    #[error("model string `{spec}`: {why}")]
    BadValue { spec: String, why: String },
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("cannot make the {family} model: {why}")]
    Make { family: &'static str, why: String },
}

/// Families that have a model.
pub const FAMILIES: &[&str] = &["ixgbe", "exerciser"];

impl ModelSpec {
    /// Takes a model string apart. A `&` ends a value, so a wire that needs one cannot be written here.
    pub fn parse(spec: &str) -> Result<ModelSpec, ModelError> {
        let (family, options) = spec.split_once('?').unwrap_or((spec, ""));
        let mut out = ModelSpec {
            family: family.into(),
            ..ModelSpec::default()
        };
        for option in options.split('&').filter(|o| !o.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let bad = |why: String| ModelError::BadValue {
                spec: spec.into(),
                why,
            };
            match key {
                "wire" => out.wire = Some(value.into()),
                "mac" => out.mac = Some(parse_mac(value).map_err(bad)?),
                "queues" => out.queues = Some(parse_queues(value).map_err(bad)?),
                "map-doorbells" => out.map_doorbells = parse_switch(key, value).map_err(bad)?,
                "trace" => out.trace = parse_switch(key, value).map_err(bad)?,
                _ => {
                    return Err(ModelError::UnknownKey {
                        spec: spec.into(),
                        key: key.into(),
                    });
                }
            }
        }
        Ok(out)
    }

    /// Makes the model and plugs it into its wire.
    pub fn open(&self) -> Result<Box<dyn Model>, ModelError> {
        match self.family.as_str() {
            "ixgbe" => {
                let mac = self.mac.unwrap_or_else(|| self.default_mac());
                let mut config = IxgbeConfig::new(mac, self.open_wire()?);
                config.queues = self.queues.unwrap_or(config.queues);
                config.map_doorbells = self.map_doorbells;
                config.trace = self.trace;
                match Ixgbe82599::new(config) {
                    Ok(model) => Ok(Box::new(model)),
                    Err(e) => Err(ModelError::Make {
                        family: "ixgbe",
                        why: e.to_string(),
                    }),
                }
            }
            "exerciser" => match Exerciser::new() {
                Ok(model) => Ok(Box::new(model)),
                Err(e) => Err(ModelError::Make {
                    family: "exerciser",
                    why: e.to_string(),
                }),
            },
            _ => Err(ModelError::UnknownFamily(self.family.clone())),
        }
    }

    /// A locally administered address for a port that was given none: by its wire, and different for each model of a
    /// process.
    fn default_mac(&self) -> [u8; 6] {
        static MODELS: AtomicU32 = AtomicU32::new(0);
        let wire = self.wire.as_deref().unwrap_or("null");
        // FNV-1a.
        let hash = wire.bytes().fold(0x811c_9dc5u32, |h, b| {
            (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
        });
        let [_, a, b, c] = hash
            .wrapping_add(MODELS.fetch_add(1, Ordering::Relaxed))
            .to_be_bytes();
        [0x02, 0x6d, 0x72, a, b, c]
    }

    /// Opens the wire alone.
    pub fn open_wire(&self) -> Result<Box<dyn wire::Wire>, WireError> {
        wire::open(self.wire.as_deref().unwrap_or("null"))
    }
}

/// Makes the model that `spec` names, plugged into its wire.
pub fn open(spec: &str) -> Result<Box<dyn Model>, ModelError> {
    ModelSpec::parse(spec)?.open()
}

/// Six pairs of hexadecimal digits with colons; a station's address, so not a group's and not zero.
pub fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let bad = || format!("`{text}` is not a MAC address; write six pairs like 52:54:00:00:00:01");
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|p| p.len() == 2).ok_or_else(bad)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
    }
    if parts.next().is_some() {
        return Err(bad());
    }
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(format!(
            "`{text}` is a group or zero address; a port needs a unicast one"
        ));
    }
    Ok(mac)
}

/// A number of queue pairs.
pub fn parse_queues(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(n @ 1..=128) => Ok(n),
        _ => Err(format!("`{text}` is not a number of queues; write 1 to 128")),
    }
}

fn parse_switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "true" | "on" | "yes" => Ok(true),
        "0" | "false" | "off" | "no" => Ok(false),
        _ => Err(format!(
            "`{key}={value}`: write {key} alone, or {key}=on or {key}=off"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_string_is_taken_apart() {
        let spec =
            ModelSpec::parse("ixgbe?wire=packet:veth0&mac=52:54:00:aB:00:01&queues=4&map-doorbells").unwrap();
        assert_eq!(spec.family, "ixgbe");
        assert_eq!(spec.wire.as_deref(), Some("packet:veth0"));
        assert_eq!(spec.mac, Some([0x52, 0x54, 0, 0xab, 0, 1]));
        assert_eq!(
            (spec.queues, spec.map_doorbells, spec.trace),
            (Some(4), true, false)
        );
        assert_eq!(ModelSpec::parse("ixgbe").unwrap().wire, None);
    }

    #[test]
    fn bad_model_strings_say_what_is_wrong() {
        let why = |spec: &str| match open(spec) {
            Ok(_) => panic!("{spec} was accepted"),
            Err(e) => e.to_string(),
        };
        assert!(why("e1000").contains("no such family"));
        assert!(why("exerciser?speed=9").contains("`speed` is not known"));
        for mac in [
            "",
            "1",
            "52:54:00:00:00",
            "52:54:00:00:00:01:02",
            "52:54:00:00:00:0g",
            "525400000001",
        ] {
            assert!(
                why(&format!("exerciser?mac={mac}")).contains("not a MAC address"),
                "{mac}"
            );
        }
        for mac in ["01:00:5e:00:00:01", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"] {
            assert!(why(&format!("exerciser?mac={mac}")).contains("unicast"), "{mac}");
        }
        for queues in ["0", "129", "-1", "x"] {
            assert!(
                why(&format!("exerciser?queues={queues}")).contains("1 to 128"),
                "{queues}"
            );
        }
    }
}
