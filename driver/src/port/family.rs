//! What a family gives to a [`Port`](super::Port): the control plane. Called by the port's one control thread, never
//! per packet.

use std::fmt::Debug;
use std::sync::Arc;

use crate::hint::HintLayout;
use crate::mem::{DescriptorRing16, Region};
use crate::queue::{PortShared, RxQueue, TxQueue};

use super::{DriverInfo, LinkStatus, PortConfig, PortError, PortStats, RssConfig};

/// Rings of one queue pair, ready to be given to the device.
pub(crate) struct QueueRings {
    pub rx: DescriptorRing16,
    pub tx: DescriptorRing16,
    /// I/O addresses of the rings.
    pub rx_iova: u64,
    pub tx_iova: u64,
    pub region: Arc<Region>,
    /// I/O address of the region's memory.
    pub region_iova: u64,
    pub shared: Arc<PortShared>,
}

/// One register as a dump shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterValue {
    /// Name, with the index in an array.
    pub name: String,
    /// Offset in BAR 0.
    pub offset: u32,
    /// Value read.
    pub value: u32,
}

/// A family's control plane.
pub(crate) trait Family: Debug + Send {
    /// Resets and initialises the device up to the point where queues can be started.
    fn bring_up(&mut self, config: &PortConfig) -> Result<(), PortError>;

    /// Stops all DMA: queues off, bus mastering off. Goes on after errors and gives the first.
    fn quiesce(&mut self) -> Result<(), PortError>;

    /// Starts both halves of a queue on fresh rings. A failed step rolls back: the device's queue is off again.
    fn start_queue(
        &mut self,
        id: u16,
        rings: QueueRings,
        config: &PortConfig,
    ) -> Result<(RxQueue, TxQueue), PortError>;

    /// Stops both halves. When it returns the device touches neither rings nor buffers, and this is known by a read.
    fn stop_queue(&mut self, id: u16) -> Result<(), PortError>;

    /// Lets frames in and brings the link up; called once all queues of the port run.
    fn start_traffic(&mut self) -> Result<(), PortError>;

    fn info(&self) -> DriverInfo;
    fn mac(&self) -> [u8; 6];
    fn hint_layout(&self) -> &HintLayout;
    fn link(&mut self) -> Result<LinkStatus, PortError>;
    fn stats(&mut self) -> Result<PortStats, PortError>;
    fn xstats(&mut self) -> Result<Vec<(&'static str, u64)>, PortError>;
    fn registers(&mut self) -> Result<Vec<RegisterValue>, PortError>;

    fn set_promiscuous(&mut self, on: bool) -> Result<(), PortError>;
    fn set_all_multicast(&mut self, on: bool) -> Result<(), PortError>;
    fn add_mac(&mut self, mac: [u8; 6]) -> Result<(), PortError>;
    fn remove_mac(&mut self, mac: [u8; 6]) -> Result<(), PortError>;
    fn set_vlan(&mut self, vlan: u16, on: bool) -> Result<(), PortError>;
    fn set_vlan_offload(&mut self, strip: bool, filter: bool) -> Result<(), PortError>;
    fn set_rss(&mut self, rss: &RssConfig, queues: u16) -> Result<(), PortError>;
    fn set_mtu(&mut self, mtu: u16) -> Result<(), PortError>;

    /// Connects vector `queue` of each queue and, behind them, one for the link.
    fn setup_interrupts(&mut self, config: &PortConfig) -> Result<(), PortError>;
    /// Acknowledges a link interrupt and lets it fire again.
    fn ack_link_interrupt(&mut self) -> Result<(), PortError>;
}
