//! Device strings.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::{BusError, Device, vfio, vfio_user};

/// A parsed device string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSpec {
    /// `vfio:0000:17:00.0`, `0000:17:00.0` or `17:00.0`: a PCI device through the kernel's VFIO. The address is complete.
    Vfio(String),
    /// `vfio-user:PATH`: the server that listens there.
    VfioUser(PathBuf),
    /// `model:FAMILY?key=value&...`: a model inside this process. Without the `model:`.
    Model(String),
}

impl FromStr for DeviceSpec {
    type Err = BusError;

    fn from_str(spec: &str) -> Result<Self, BusError> {
        let bad = |reason: &str| {
            Err(BusError::Spec {
                spec: spec.to_owned(),
                reason: reason.to_owned(),
            })
        };
        if let Some(path) = spec.strip_prefix("vfio-user:") {
            if path.is_empty() {
                return bad("the socket's path is missing");
            }
            // sun_path has room for 107 bytes and a zero (unix(7)).
            if path.len() > 107 {
                return bad("the socket's path is longer than the 107 bytes that the system allows");
            }
            return Ok(DeviceSpec::VfioUser(Path::new(path).to_owned()));
        }
        if let Some(model) = spec.strip_prefix("model:") {
            let family = model.split('?').next().unwrap_or_default();
            if family.is_empty() {
                return bad("the family is missing");
            }
            return Ok(DeviceSpec::Model(model.to_owned()));
        }
        if let Some(bdf) = spec.strip_prefix("vfio:") {
            return match full_bdf(bdf) {
                Some(bdf) => Ok(DeviceSpec::Vfio(bdf)),
                None => bad("the PCI address should look like 0000:17:00.0, as `lspci -D` prints it"),
            };
        }
        match full_bdf(spec) {
            Some(bdf) => Ok(DeviceSpec::Vfio(bdf)),
            None if spec.is_empty() => bad("it is empty"),
            None => match spec.split_once(':') {
                Some((scheme, _)) if !scheme.contains('/') => {
                    bad(&format!("there is no kind of device `{scheme}:`"))
                }
                _ => bad("it is neither a PCI address nor one of the three kinds"),
            },
        }
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceSpec::Vfio(bdf) => write!(f, "vfio:{bdf}"),
            DeviceSpec::VfioUser(path) => write!(f, "vfio-user:{}", path.display()),
            DeviceSpec::Model(model) => write!(f, "model:{model}"),
        }
    }
}

/// `DDDD:BB:DD.F` in lower case, from an address with or without its domain.
pub(super) fn full_bdf(text: &str) -> Option<String> {
    let (domain, rest) = match text.matches(':').count() {
        1 => ("0000", text),
        2 => text.split_once(':')?,
        _ => return None,
    };
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let hex = |s: &str, width: usize, max: u32| {
        let fits = s.len() == width && s.bytes().all(|b| b.is_ascii_hexdigit());
        fits.then(|| u32::from_str_radix(s, 16).ok())
            .flatten()
            .filter(|v| *v <= max)
    };
    let domain = hex(domain, 4, 0xffff)?;
    let (bus, device, function) = (hex(bus, 2, 0xff)?, hex(device, 2, 0x1f)?, hex(function, 1, 7)?);
    Some(format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"))
}

/// Opens the device that `spec` names: `vfio:BDF` (or a bare BDF), `vfio-user:PATH` or `model:FAMILY?key=value`.
///
/// # Errors
/// Each names what is wrong with the string or the host, and what to do about it.
pub fn open(spec: &str) -> Result<Arc<dyn Device>, BusError> {
    match spec.parse()? {
        DeviceSpec::Vfio(bdf) => vfio::open(&bdf),
        DeviceSpec::VfioUser(path) => vfio_user::connect(&path),
        #[cfg(feature = "models")]
        DeviceSpec::Model(model) => super::model::spawn(&model),
        #[cfg(not(feature = "models"))]
        DeviceSpec::Model(_) => Err(BusError::NoModels {
            spec: spec.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(spec: &str) -> String {
        spec.parse::<DeviceSpec>().unwrap_err().to_string()
    }

    #[test]
    fn each_kind_of_device_string_is_understood() {
        let same = |spec: &str| assert_eq!(spec.parse::<DeviceSpec>().unwrap().to_string(), spec);
        same("vfio:0000:17:00.0");
        same("vfio-user:/run/nic.sock");
        same("model:ixgbe?wire=tap:mr0&queues=4");
        same("model:ixgbe");
        let bare = |spec: &str| spec.parse::<DeviceSpec>().unwrap().to_string();
        assert_eq!(bare("17:00.1"), "vfio:0000:17:00.1");
        assert_eq!(bare("0001:AF:1f.7"), "vfio:0001:af:1f.7");
        assert_eq!(bare("vfio:17:00.1"), "vfio:0000:17:00.1");
    }

    #[test]
    fn each_bad_device_string_says_what_is_wrong_and_what_to_write() {
        for (spec, says) in [
            ("", "it is empty"),
            ("eth0", "neither a PCI address"),
            ("dpdk:eth0", "no kind of device `dpdk:`"),
            ("vfio:", "should look like 0000:17:00.0"),
            ("vfio:17:00", "should look like 0000:17:00.0"),
            ("vfio:0000:17:20.0", "should look like 0000:17:00.0"),
            ("vfio:0000:17:00.8", "should look like 0000:17:00.0"),
            ("vfio:../../etc", "should look like 0000:17:00.0"),
            ("vfio-user:", "path is missing"),
            ("model:", "family is missing"),
            ("model:?wire=null", "family is missing"),
        ] {
            let message = message(spec);
            assert!(message.contains(says), "{spec:?}: {message}");
            assert!(message.contains("write vfio:0000:17:00.0"), "{spec:?}: {message}");
            assert!(!message.contains('\n'));
        }
        assert!(message(&format!("vfio-user:/{}", "a".repeat(107))).contains("107 bytes"));
    }

    #[cfg(not(feature = "models"))]
    #[test]
    fn a_program_without_models_says_how_to_get_them() {
        let message = open("model:ixgbe?wire=null").unwrap_err().to_string();
        assert!(
            message.contains("feature `models`") && message.contains("vfio-user:PATH"),
            "{message}"
        );
    }
}
