//! The outer source address of tunnels.

use std::net::IpAddr;

use toml::Spanned;

use super::{Complaint, complain};

/// An address, or a prefix: then the bits below it come from the flow hash, so that a backend's NIC spreads the balancer's
/// tunnels over its receive queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceAddress {
    /// The address, host bits zero for a prefix.
    pub address: IpAddr,
    /// Leading bits that are the same for every flow; all of them for a fixed address.
    pub prefix: u8,
}

impl SourceAddress {
    /// The bits that come from the hash, as a mask over the address in network byte order (IPv4 in the first four bytes).
    pub fn hashed_bits(&self) -> [u8; 16] {
        let mut mask = [0; 16];
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        for bit in usize::from(self.prefix)..bits {
            mask[bit / 8] |= 0x80 >> (bit % 8);
        }
        mask
    }
}

pub(super) fn parse(text: &Spanned<String>, v4: bool) -> Result<SourceAddress, Complaint> {
    let bits: u8 = if v4 { 32 } else { 128 };
    let (address, prefix) = text.get_ref().split_once('/').unwrap_or((text.get_ref(), ""));
    let address: Option<IpAddr> = address
        .parse()
        .ok()
        .filter(|address: &IpAddr| address.is_ipv4() == v4);
    let prefix = if prefix.is_empty() {
        Some(bits)
    } else {
        prefix.parse().ok().filter(|prefix| (8..=bits).contains(prefix))
    };
    let Some((address, prefix)) = address.zip(prefix) else {
        let what = format!(
            "\"{}\" is neither an IPv{} address nor a prefix of 8 bits or more",
            text.get_ref(),
            if v4 { 4 } else { 6 }
        );
        return complain(text.span(), what);
    };
    let source = SourceAddress { address, prefix };
    let host = source.hashed_bits();
    if crate::layout::address_bytes(address)
        .iter()
        .zip(host)
        .any(|(byte, mask)| byte & mask != 0)
    {
        return complain(
            text.span(),
            format!("\"{}\" has bits set below its prefix", text.get_ref()),
        );
    }
    Ok(source)
}
