//! The families of NICs and the device ids that belong to them.

/// A family: devices that share a register file and a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// 82599, X540, X550.
    Ixgbe,
    /// X710, XL710, XXV710.
    I40e,
    /// E810.
    Ice,
}

impl Family {
    /// The name that users type: `ixgbe`, `i40e` or `ice`.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Ixgbe => "ixgbe",
            Family::I40e => "i40e",
            Family::Ice => "ice",
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One PCI device id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceId {
    /// PCI vendor id.
    pub vendor: u16,
    /// PCI device id.
    pub device: u16,
    /// Family whose driver takes it.
    pub family: Family,
    /// Marketing name.
    pub name: &'static str,
    /// Whether foreign drivers have been seen working on our model of it, and our driver on it. Others are taken only
    /// when the user says that an untested device is fine.
    pub judged: bool,
}

/// Intel's PCI vendor id.
pub const INTEL: u16 = 0x8086;

const fn id(device: u16, family: Family, name: &'static str, judged: bool) -> DeviceId {
    DeviceId {
        vendor: INTEL,
        device,
        family,
        name,
        judged,
    }
}

/// Every device we know, whether judged or not.
pub const fn device_table() -> &'static [DeviceId] {
    const TABLE: &[DeviceId] = &[
        id(0x10fb, Family::Ixgbe, "82599ES 10-Gigabit SFI/SFP+", true),
        id(0x1528, Family::Ixgbe, "X540-AT2 10GBASE-T", false),
        id(0x1563, Family::Ixgbe, "X550-T2 10GBASE-T", false),
        id(0x15d1, Family::Ixgbe, "X550-T1 10GBASE-T", false),
        id(0x1572, Family::I40e, "X710 10GbE SFP+", false),
        id(0x1583, Family::I40e, "XL710 40GbE QSFP+", false),
        id(0x1584, Family::I40e, "XL710 40GbE QSFP+", false),
        id(0x158b, Family::I40e, "XXV710 25GbE SFP28", false),
        id(0x1592, Family::Ice, "E810-C 100GbE QSFP", false),
        id(0x1593, Family::Ice, "E810-C 100GbE SFP", false),
        id(0x159b, Family::Ice, "E810-XXV 25GbE SFP", false),
    ];
    TABLE
}

/// Looks a device up by its PCI ids.
pub fn lookup(vendor: u16, device: u16) -> Option<&'static DeviceId> {
    device_table()
        .iter()
        .find(|id| id.vendor == vendor && id.device == device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_device_is_listed_twice_and_only_the_82599_is_judged() {
        let table = device_table();
        for (n, id) in table.iter().enumerate() {
            assert!(
                table[..n]
                    .iter()
                    .all(|other| (other.vendor, other.device) != (id.vendor, id.device))
            );
        }
        let judged: Vec<u16> = table.iter().filter(|id| id.judged).map(|id| id.device).collect();
        assert_eq!(judged, [0x10fb]);
        assert_eq!(lookup(0x8086, 0x10fb).map(|id| id.family), Some(Family::Ixgbe));
        assert_eq!(lookup(0x1af4, 0x1000), None);
    }
}
