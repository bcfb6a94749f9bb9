//! Kernel functions that programs may call by name.

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
}

impl Kfunc {
    /// By the name an object asks for.
    pub fn by_name(name: &str) -> Option<Kfunc> {
        match name {
            "bpf_xdp_metadata_rx_hash" => Some(Kfunc::RxHash),
            "bpf_xdp_metadata_rx_timestamp" => Some(Kfunc::RxTimestamp),
            "bpf_xdp_metadata_rx_vlan_tag" => Some(Kfunc::RxVlanTag),
            _ => None,
        }
    }

    /// By the number that linking put into the call.
    pub fn by_id(id: i64) -> Kfunc {
        [Kfunc::RxHash, Kfunc::RxTimestamp, Kfunc::RxVlanTag]
            .into_iter()
            .find(|k| *k as i64 == id)
            .unwrap_or(Kfunc::Missing)
    }
}
