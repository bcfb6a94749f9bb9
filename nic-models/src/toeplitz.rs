//! The Toeplitz hash that RSS uses (Microsoft, "RSS hashing functions"; 82599 datasheet 7.1.2.8.1).

/// Key length in bytes: enough for the longest input, IPv6 addresses and ports (36 bytes) plus 4.
pub const KEY_LEN: usize = 40;
/// The longest input.
const INPUT: usize = KEY_LEN - 4;

/// Hash of `input` under `key`. Input beyond 36 bytes has no key bits left and does not count.
///
/// The input is the concatenation of source address, destination address and, where the hash type includes them,
/// source and destination port, all in network byte order.
pub fn hash(key: &[u8; KEY_LEN], input: &[u8]) -> u32 {
    let mut window = u64::from_be_bytes([key[0], key[1], key[2], key[3], key[4], key[5], key[6], key[7]]);
    let mut result = 0u32;
    // The key byte that enters the window as each input byte leaves it; zero past the key's end.
    let entering = key[8..].iter().copied().chain(std::iter::repeat(0));
    for (&byte, next) in input.iter().take(KEY_LEN - 4).zip(entering) {
        for bit in (0..8).rev() {
            // All ones where the input bit is set.
            let on = 0u32.wrapping_sub(u32::from(byte >> bit & 1));
            result ^= (window >> 32) as u32 & on;
            window <<= 1;
        }
        window |= u64::from(next);
    }
    result
}

/// The hash with the key expanded once into tables: one load an input byte instead of eight steps.
///
/// A model hashes every frame; this is what makes that cheap (36 KiB a key).
#[derive(Clone)]
pub struct Table {
    by_byte: Box<[[u32; 256]; INPUT]>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

impl Table {
    /// Expands `key`.
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        let mut by_byte = Box::new([[0u32; 256]; INPUT]);
        let mut input = [0u8; INPUT];
        for (at, row) in by_byte.iter_mut().enumerate() {
            let mut bits = [0u32; 8];
            for (bit, value) in bits.iter_mut().enumerate() {
                input[at] = 1 << bit;
                *value = hash(key, &input[..=at]);
            }
            input[at] = 0;
            for (byte, value) in row.iter_mut().enumerate() {
                *value = (0..8)
                    .filter(|bit| byte >> bit & 1 == 1)
                    .fold(0, |acc, bit| acc ^ bits[bit]);
            }
        }
        Table { by_byte }
    }

    /// Same as [`hash`] with the key this table was built from.
    #[inline]
    pub fn hash(&self, input: &[u8]) -> u32 {
        self.hash_from(0, input)
    }

    /// The same for an input whose length is known when this is compiled; at most the 36 bytes that have key bits.
    #[inline]
    pub fn hash_fields<const N: usize>(&self, input: &[u8; N]) -> u32 {
        const { assert!(N <= INPUT) };
        let rows = self.by_byte.iter().zip(input);
        rows.fold(0, |hash, (row, &byte)| hash ^ row[usize::from(byte)])
    }

    /// What `input` adds to the hash (by exclusive or) when it stands `at` bytes behind the input's start.
    #[inline]
    pub fn hash_from(&self, at: usize, input: &[u8]) -> u32 {
        // Four bytes a step: fields are a multiple of that.
        let mut rows = self.by_byte.get(at..).unwrap_or_default();
        let (mut input, mut hash) = (input, 0);
        while let (Some(([ra, rb, rc, rd], more_rows)), Some((&[a, b, c, d], more))) =
            (rows.split_first_chunk::<4>(), input.split_first_chunk::<4>())
        {
            hash ^= ra[usize::from(a)] ^ rb[usize::from(b)] ^ rc[usize::from(c)] ^ rd[usize::from(d)];
            (rows, input) = (more_rows, more);
        }
        rows.iter()
            .zip(input)
            .fold(hash, |hash, (row, &byte)| hash ^ row[usize::from(byte)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verification suite's key (Microsoft, "Verifying the RSS hash calculation").
    pub const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
        0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
        0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn input<const N: usize>(src: [u8; N], dst: [u8; N], ports: Option<(u16, u16)>) -> Vec<u8> {
        let mut v = [src, dst].concat();
        if let Some((s, d)) = ports {
            v.extend(s.to_be_bytes());
            v.extend(d.to_be_bytes());
        }
        v
    }

    #[test]
    fn ipv4_matches_the_published_vectors() {
        let cases = [
            (
                [66, 9, 149, 187],
                2794,
                [161, 142, 100, 80],
                1766,
                0x323e8fc2,
                0x51ccc178,
            ),
            (
                [199, 92, 111, 2],
                14230,
                [65, 69, 140, 83],
                4739,
                0xd718262a,
                0xc626b0ea,
            ),
            (
                [24, 19, 198, 95],
                12898,
                [12, 22, 207, 184],
                38024,
                0xd2d0a5de,
                0x5c2b394a,
            ),
            (
                [38, 27, 205, 30],
                48228,
                [209, 142, 163, 6],
                2217,
                0x82989176,
                0xafc7327f,
            ),
            (
                [153, 39, 163, 191],
                44251,
                [202, 188, 127, 2],
                1303,
                0x5d1809c5,
                0x10e828a2,
            ),
        ];
        let table = Table::new(&KEY);
        for (src, sport, dst, dport, two, four) in cases {
            assert_eq!(hash(&KEY, &input(src, dst, None)), two);
            assert_eq!(hash(&KEY, &input(src, dst, Some((sport, dport)))), four);
            assert_eq!(table.hash(&input(src, dst, None)), two);
            assert_eq!(table.hash(&input(src, dst, Some((sport, dport)))), four);
        }
    }

    #[test]
    fn ipv6_matches_the_published_vectors() {
        let cases = [
            (
                "3ffe:2501:200:1fff::7",
                2794,
                "3ffe:2501:200:3::1",
                1766,
                0x2cc18cd5u32,
                0x40207d3du32,
            ),
            (
                "3ffe:501:8::260:97ff:fe40:efab",
                14230,
                "ff02::1",
                4739,
                0x0f0c461c,
                0xdde51bbf,
            ),
            (
                "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
                44251,
                "fe80::200:f8ff:fe21:67cf",
                38024,
                0x4b61e985,
                0x02d1feef,
            ),
        ];
        let table = Table::new(&KEY);
        for (src, sport, dst, dport, two, four) in cases {
            let src = src.parse::<std::net::Ipv6Addr>().expect("a literal").octets();
            let dst = dst.parse::<std::net::Ipv6Addr>().expect("a literal").octets();
            assert_eq!(hash(&KEY, &input(src, dst, None)), two);
            assert_eq!(hash(&KEY, &input(src, dst, Some((sport, dport)))), four);
            assert_eq!(table.hash(&input(src, dst, Some((sport, dport)))), four);
        }
    }

    #[test]
    fn overlong_input_is_cut_where_the_key_ends() {
        let long = [0xa5; 64];
        assert_eq!(hash(&KEY, &long), hash(&KEY, &long[..36]));
        assert_eq!(Table::new(&KEY).hash(&long), hash(&KEY, &long));
    }

    #[test]
    fn a_hash_is_the_hashes_of_its_parts_wherever_the_input_is_cut() {
        let table = Table::new(&KEY);
        let input: [u8; 36] = std::array::from_fn(|i| (i * 37 + 5) as u8);
        for cut in 0..=input.len() {
            let (head, tail) = input.split_at(cut);
            assert_eq!(table.hash(head) ^ table.hash_from(cut, tail), hash(&KEY, &input));
            assert_eq!(table.hash(head), hash(&KEY, head), "{cut} bytes");
        }
        assert_eq!(table.hash_from(36, &input), 0, "no key bits are left");
    }
}
