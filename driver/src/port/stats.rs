//! What a port counts. Every counter of the driver is listed here, once, with its unit.

/// Counters of a whole port, from the device's statistics registers; they never go backwards, also over a reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames that the device stored into receive queues. Frames.
    pub rx_packets: u64,
    /// Bytes of them as stored, without FCS and stripped tags.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes of them, without FCS.
    pub tx_bytes: u64,
    /// Frames dropped because the packet buffer was full (the host was too slow). Frames.
    pub rx_missed: u64,
    /// Frames dropped because a queue had no descriptors. Frames.
    pub rx_no_descriptors: u64,
    /// Frames dropped by the MAC for bad CRC. Frames.
    pub rx_crc_errors: u64,
    /// Frames dropped by the MAC for wrong length: undersize, oversize, fragments, jabber, length field. Frames.
    pub rx_length_errors: u64,
    /// Frames with a wrong IPv4, TCP or UDP checksum; they are delivered all the same. Frames.
    pub rx_checksum_errors: u64,
    /// Broadcast frames received. Frames.
    pub rx_broadcast: u64,
    /// Multicast frames received. Frames.
    pub rx_multicast: u64,
}

/// Counters of one RX queue, kept by the driver. Unit: frames unless the name says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxStats {
    /// Frames handed to the caller.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Polls that found at least one frame. Polls.
    pub bursts: u64,
    /// Descriptors whose length was zero or more than the buffer; their frame was dropped. Descriptors.
    pub bad_length: u64,
    /// Frames that the device marked as received with an error (RXE, CRC, ...); dropped.
    pub device_errors: u64,
    /// Frames that needed more buffers than a run may have; dropped.
    pub oversize: u64,
    /// Times a refill found no free buffer. Refills.
    pub no_buffers: u64,
}

/// Counters of one TX queue, kept by the driver. Unit: frames unless the name says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxStats {
    /// Frames handed to the device.
    pub frames: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Doorbells. Submits.
    pub doorbells: u64,
    /// Context descriptors written. Descriptors.
    pub contexts: u64,
    /// Frames refused because the ring was full.
    pub full: u64,
    /// Frames refused because they could never be sent (no bytes, too long, too many buffers, foreign buffer).
    pub invalid: u64,
    /// Buffers that came back from the device. Buffers.
    pub completed: u64,
}

/// The link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// Carrier.
    pub up: bool,
    /// Speed in Mbit/s; 0 while the link is down.
    pub speed_mbps: u32,
    /// Full duplex; these families know nothing else.
    pub full_duplex: bool,
}

/// Where a port's buffers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferStats {
    /// Buffers of the pool.
    pub total: usize,
    /// At home in the depot or in a queue's or batch's free stack.
    pub home: usize,
    /// Out: in a ring, a batch or a frame.
    pub in_flight: usize,
}

/// Who drives a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverInfo {
    /// The family's driver.
    pub driver: &'static str,
    /// Marketing name of the device.
    pub device_name: &'static str,
    /// Device string.
    pub bus: String,
    /// PCI vendor id.
    pub vendor: u16,
    /// PCI device id.
    pub device: u16,
    /// EEPROM version, as the device tells it.
    pub firmware: String,
    /// MSI-X vectors.
    pub vectors: u32,
    /// Most queue pairs a port of this family can have here.
    pub max_queues: u16,
}
