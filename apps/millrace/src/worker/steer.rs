//! A steering program in front of a queue's TX queue choice: the XPS hook.

use millrace_driver::steering::{TxChooser, TxFrame, flow_hash};
use millrace_ebpf::{HintKind, HintLayout, Instance, SkbInfo, XdpBuff};

/// A worker's own instance of a steering program, as the driver's TX steering calls it.
pub(crate) struct SteeringProgram {
    pub(crate) instance: Instance,
    /// The port that it chooses a queue of; also the one that frames came in on.
    pub(crate) ifindex: u32,
    /// Where the queue's write-backs have hash and mark.
    pub(crate) hints: HintLayout,
    /// Toeplitz key for frames whose hash the device did not give.
    pub(crate) key: [u8; 40],
}

impl TxChooser for SteeringProgram {
    fn choose(&mut self, frame: TxFrame<'_>) -> Option<i32> {
        let hint = |kind| self.hints.read(kind, frame.raw).map(|hint| hint as u32);
        let hash = hint(HintKind::RxHash).or_else(|| flow_hash(&self.key, frame.data));
        let ether_type = frame.data.get(12..14).map_or([0; 2], |b| [b[0], b[1]]);
        let info = SkbInfo {
            len: u32::try_from(frame.len).unwrap_or(u32::MAX),
            mark: hint(HintKind::Mark).unwrap_or(0),
            queue_mapping: frame.rxq.map_or(0, |rxq| u32::from(rxq) + 1),
            protocol: u32::from(u16::from_ne_bytes(ether_type)),
            ingress_ifindex: if frame.rxq.is_some() { self.ifindex } else { 0 },
            ifindex: self.ifindex,
            hash: hash.unwrap_or(0),
        };
        let (len, rxq) = (frame.data.len(), u32::from(frame.rxq.unwrap_or(0)));
        let mut buff = XdpBuff::new(frame.data, 0, len, rxq, frame.raw);
        self.instance.steer(&mut buff, &info)
    }
}
