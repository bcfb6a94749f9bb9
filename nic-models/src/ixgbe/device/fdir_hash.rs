//! The hash of flow director's signature filters (datasheet 7.1.2.7.3).
//!
//! It is defined over a stream of 351 bits in which a flow's fields stand next to each other, each result bit the parity
//! of some of them. As the key is one of 32 bits used over and over, bits that are 32 apart meet the same key bit: the
//! stream folds into two dwords, and a key bit adds one of them, shifted. Drivers use this form.

/// A flow's fields, numbers as they are in network order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    /// L4 type in bits 1:0, IPv6 in bit 2.
    pub flow_type: u32,
    /// VLAN tag.
    pub tci: u16,
    /// Source and destination address, all dwords folded into one.
    pub addresses: u32,
    pub src_port: u16,
    pub dst_port: u16,
    /// Two bytes of the frame's.
    pub flex: u16,
}

impl Flow {
    /// The 15 bits that a key makes of the flow: FDIRHKEY the bucket, FDIRSKEY the signature.
    pub fn hash(&self, key: u32) -> u32 {
        let flow = self.flow_type << 16 | u32::from(self.tci);
        let common = self.addresses ^ (u32::from(self.src_port ^ self.flex) << 16 | u32::from(self.dst_port));
        let high = common ^ flow ^ flow >> 16;
        // Bit 0 of the key meets the stream's start, where type and tag are not yet in it.
        let start = common.rotate_left(16);
        let low = start ^ flow ^ flow << 16;
        let mut hash = 0;
        for bit in 0..16 {
            if key >> bit & 1 == 1 {
                hash ^= if bit == 0 { start } else { low >> bit };
            }
            if key >> (bit + 16) & 1 == 1 {
                hash ^= high >> bit;
            }
        }
        hash & 0x7fff
    }
}
