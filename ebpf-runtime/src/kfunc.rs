//! Kernel functions that programs may call by name: the kernel's own for metadata, and further ones of this runtime in
//! the same style (README, "Kernel functions").

/// The kfuncs this runtime has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Kfunc {
    /// A weak reference to a function that is not here; calling it ends the run.
    Missing = 0,
    /// `bpf_xdp_metadata_rx_hash(ctx, u32 *hash, enum xdp_rss_hash_type *type)`.
    RxHash,
    /// `bpf_xdp_metadata_rx_timestamp(ctx, u64 *timestamp)`.
    RxTimestamp,
    /// `bpf_xdp_metadata_rx_vlan_tag(ctx, __be16 *proto, u16 *tci)`.
    RxVlanTag,
    /// `bpf_xdp_metadata_rx_ptype(ctx, u32 *ptype)`.
    RxPtype,
    /// `bpf_xdp_metadata_rx_mark(ctx, u32 *mark)`.
    RxMark,
    /// `bpf_xdp_metadata_rx_csum(ctx, u32 *status)`.
    RxCsum,
    /// `bpf_xdp_metadata_rx_header_len(ctx, u32 *len)`.
    RxHeaderLen,
    /// `bpf_xdp_metadata_rx_extracted(ctx, u32 *word)`.
    RxExtracted,
    /// `bpf_rss_hash_toeplitz(const void *data, u32 data__sz, const void *key, u32 key__sz)`.
    HashToeplitz,
    /// `bpf_rss_hash_crc(const void *data, u32 data__sz, u32 seed)`.
    HashCrc,
    /// `bpf_rss_hash_xor(const void *data, u32 data__sz)`.
    HashXor,
}

/// All that can be called.
const ALL: [(Kfunc, &str); 11] = [
    (Kfunc::RxHash, "bpf_xdp_metadata_rx_hash"),
    (Kfunc::RxTimestamp, "bpf_xdp_metadata_rx_timestamp"),
    (Kfunc::RxVlanTag, "bpf_xdp_metadata_rx_vlan_tag"),
    (Kfunc::RxPtype, "bpf_xdp_metadata_rx_ptype"),
    (Kfunc::RxMark, "bpf_xdp_metadata_rx_mark"),
    (Kfunc::RxCsum, "bpf_xdp_metadata_rx_csum"),
    (Kfunc::RxHeaderLen, "bpf_xdp_metadata_rx_header_len"),
    (Kfunc::RxExtracted, "bpf_xdp_metadata_rx_extracted"),
    (Kfunc::HashToeplitz, "bpf_rss_hash_toeplitz"),
    (Kfunc::HashCrc, "bpf_rss_hash_crc"),
    (Kfunc::HashXor, "bpf_rss_hash_xor"),
];

impl Kfunc {
    /// Whether it tells what the device said about a received frame.
    pub fn reads_metadata(self) -> bool {
        !matches!(
            self,
            Kfunc::Missing | Kfunc::HashToeplitz | Kfunc::HashCrc | Kfunc::HashXor
        )
    }

    /// By the name an object asks for.
    pub fn by_name(name: &str) -> Option<Kfunc> {
        ALL.iter().find(|(_, n)| *n == name).map(|(k, _)| *k)
    }

    /// By the number that linking put into the call.
    #[inline]
    pub fn by_id(id: i64) -> Kfunc {
        match id {
            1 => Kfunc::RxHash,
            2 => Kfunc::RxTimestamp,
            3 => Kfunc::RxVlanTag,
            4 => Kfunc::RxPtype,
            5 => Kfunc::RxMark,
            6 => Kfunc::RxCsum,
            7 => Kfunc::RxHeaderLen,
            8 => Kfunc::RxExtracted,
            9 => Kfunc::HashToeplitz,
            10 => Kfunc::HashCrc,
            11 => Kfunc::HashXor,
            _ => Kfunc::Missing,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        let known = ALL.iter().find(|(k, _)| *k == self);
        known.map_or("a kernel function that is not here", |(_, n)| n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_by_their_numbers_and_others_are_missing() {
        for (kfunc, name) in ALL {
            assert_eq!(Kfunc::by_id(kfunc as i64), kfunc, "{name}");
            assert_eq!(Kfunc::by_name(name), Some(kfunc));
        }
        for id in [0, -1, ALL.len() as i64 + 1, i64::MIN, i64::MAX] {
            assert_eq!(Kfunc::by_id(id), Kfunc::Missing, "{id}");
        }
    }
}
