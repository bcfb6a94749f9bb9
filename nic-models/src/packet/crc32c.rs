//! CRC-32C (Castagnoli), the checksum of SCTP (RFC 9260 appendix A).

const POLY: u32 = 0x82f6_3b78; // 0x1edc6f41 with its bits reversed

const TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { (crc >> 1) ^ POLY } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// Continues a CRC register over `data`; start with `!0`, and invert the last value.
pub(crate) fn update(mut crc: u32, data: &[u8]) -> u32 {
    for byte in data {
        crc = (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)];
    }
    crc
}

#[cfg(test)]
mod tests {
    #[test]
    fn matches_the_check_value_of_the_crc_catalogue() {
        assert_eq!(!super::update(!0, b"123456789"), 0xe306_9283);
    }
}
