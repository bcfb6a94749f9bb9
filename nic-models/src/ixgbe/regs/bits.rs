//! Bit fields, one module a register; values are masks unless a name says `SHIFT`.

/// Device control (8.2.3.1.1).
pub mod ctrl {
    /// Stop issuing PCIe requests; STATUS.MASTER_ENABLE drops once none is pending.
    pub const MASTER_DISABLE: u32 = 1 << 2;
    /// Link reset; clears itself.
    pub const LRST: u32 = 1 << 3;
    /// Device reset; clears itself.
    pub const RST: u32 = 1 << 26;
}

/// Device status (8.2.3.1.2).
pub mod status {
    /// LAN id: 0 or 1.
    pub const LAN_ID: u32 = 0x3 << 2;
    /// Link up.
    pub const LINK_UP: u32 = 1 << 7;
    /// PCIe requests may still be issued or are pending.
    pub const MASTER_ENABLE: u32 = 1 << 19;
}

/// Extended device control (8.2.3.1.3).
pub mod ctrl_ext {
    /// PF reset done.
    pub const PFRSTD: u32 = 1 << 14;
    /// No-snoop disable.
    pub const NS_DIS: u32 = 1 << 16;
    /// Relaxed ordering disable.
    pub const RO_DIS: u32 = 1 << 17;
    /// A driver has taken the port.
    pub const DRV_LOAD: u32 = 1 << 28;
}

/// Software definable pins (8.2.3.1.4).
pub mod esdp {
    /// SDP0.
    pub const SDP0: u32 = 1;
    /// SDP1.
    pub const SDP1: u32 = 1 << 1;
    /// SDP2: module present on Intel's SFP+ boards.
    pub const SDP2: u32 = 1 << 2;
    /// SDP3: transmitter off.
    pub const SDP3: u32 = 1 << 3;
}

/// Bit-banged I2C (8.2.3.1.5).
pub mod i2cctl {
    /// Clock as seen.
    pub const CLK_IN: u32 = 1;
    /// Clock as driven.
    pub const CLK_OUT: u32 = 1 << 1;
    /// Data as seen.
    pub const DATA_IN: u32 = 1 << 2;
    /// Data as driven.
    pub const DATA_OUT: u32 = 1 << 3;
}

/// EEPROM/flash control (8.2.3.2.1).
pub mod eec {
    /// SPI clock.
    pub const SK: u32 = 1;
    /// SPI chip select.
    pub const CS: u32 = 1 << 1;
    /// SPI data into the EEPROM.
    pub const DI: u32 = 1 << 2;
    /// SPI data out of the EEPROM.
    pub const DO: u32 = 1 << 3;
    /// Flash write enable.
    pub const FWE: u32 = 0x3 << 4;
    /// Software asks for the SPI bus.
    pub const REQ: u32 = 1 << 6;
    /// The bus is granted.
    pub const GNT: u32 = 1 << 7;
    /// An EEPROM is there.
    pub const PRES: u32 = 1 << 8;
    /// The automatic read after reset is done.
    pub const AUTO_RD: u32 = 1 << 9;
    /// 16-bit addresses.
    pub const ADDR_SIZE: u32 = 1 << 10;
    /// log2 of the size in words, less 6.
    pub const SIZE_SHIFT: u32 = 11;
}

/// EEPROM read (8.2.3.2.2).
pub mod eerd {
    /// Start a read.
    pub const START: u32 = 1;
    /// Data is valid.
    pub const DONE: u32 = 1 << 1;
    /// Word address.
    pub const ADDR_SHIFT: u32 = 2;
    /// Data.
    pub const DATA_SHIFT: u32 = 16;
}

/// Software semaphore (8.2.3.4.9).
pub mod swsm {
    /// Between drivers: a read that returns 0 takes it.
    pub const SMBI: u32 = 1;
    /// Between software and firmware.
    pub const SWESMBI: u32 = 1 << 1;
}

/// Firmware semaphore (8.2.3.4.10).
pub mod fwsm {
    /// Firmware mode.
    pub const MODE: u32 = 0x7 << 1;
    /// Firmware has loaded and is valid.
    pub const VALID: u32 = 1 << 15;
}

/// Software-firmware synchronisation (8.2.3.4.11); firmware's bits are these shifted left by 5.
pub mod sw_fw_sync {
    /// EEPROM.
    pub const EEP: u32 = 1;
    /// PHY 0.
    pub const PHY0: u32 = 1 << 1;
    /// PHY 1.
    pub const PHY1: u32 = 1 << 2;
    /// MAC registers shared between functions.
    pub const MAC_CSR: u32 = 1 << 3;
    /// Flash.
    pub const FLASH: u32 = 1 << 4;
}

/// Interrupt causes (8.2.3.5.1), the same bits in EICS, EIMS, EIMC, EIAC and EIAM.
pub mod eicr {
    /// Queue vectors.
    pub const RTX_QUEUE: u32 = 0xffff;
    /// Flow director exception.
    pub const FLOW_DIR: u32 = 1 << 16;
    /// Packet buffer overrun.
    pub const RX_MISS: u32 = 1 << 17;
    /// PCI exception.
    pub const PCI: u32 = 1 << 18;
    /// Mailbox.
    pub const MAILBOX: u32 = 1 << 19;
    /// Link status change.
    pub const LSC: u32 = 1 << 20;
    /// LinkSec.
    pub const LINKSEC: u32 = 1 << 21;
    /// Manageability.
    pub const MNG: u32 = 1 << 22;
    /// SDP0.
    pub const GPI_SDP0: u32 = 1 << 24;
    /// SDP1.
    pub const GPI_SDP1: u32 = 1 << 25;
    /// SDP2.
    pub const GPI_SDP2: u32 = 1 << 26;
    /// ECC error.
    pub const ECC: u32 = 1 << 28;
    /// TCP timer.
    pub const TCP_TIMER: u32 = 1 << 30;
    /// Other causes.
    pub const OTHER: u32 = 1 << 31;
    /// Causes that IVAR_MISC's second entry routes.
    pub const OTHER_CAUSES: u32 = 0x3fff_0000;
}

/// Interrupt throttle (8.2.3.5.12).
pub mod eitr {
    /// Minimum gap between two interrupts, in units of 2.048 us (10 Gb/s and 1 Gb/s).
    pub const INTERVAL: u32 = 0x0ff8;
    /// Where the interval starts.
    pub const INTERVAL_SHIFT: u32 = 3;
    /// Low latency moderation.
    pub const LLI_MOD: u32 = 1 << 15;
    /// The write leaves the running counter alone.
    pub const CNT_WDIS: u32 = 1 << 31;
    /// Length of an interval unit, nanoseconds.
    pub const UNIT_NS: u64 = 2048;
}

/// Interrupt vector allocation (8.2.3.5.16): an entry is a byte.
pub mod ivar {
    /// Vector, or EICR bit where MSI-X is off.
    pub const VECTOR: u32 = 0x3f;
    /// Entry valid.
    pub const VALID: u32 = 0x80;
}

/// General purpose interrupt enable (8.2.3.5.18).
pub mod gpie {
    /// SDP0 interrupt enable.
    pub const SDP0: u32 = 1;
    /// MSI-X with several vectors.
    pub const MULTIPLE_MSIX: u32 = 1 << 4;
    /// A read of EICR clears bits 29:16 only.
    pub const OCD: u32 = 1 << 5;
    /// Interrupt at once when EICS is written.
    pub const EIMEN: u32 = 1 << 6;
    /// Auto mask on the MSI-X message.
    pub const EIAME: u32 = 1 << 30;
    /// PBA support: MSI-X pending bits are per vector.
    pub const PBA_SUPPORT: u32 = 1 << 31;
}

/// Filter control (8.2.3.7.1).
pub mod fctrl {
    /// Store bad packets.
    pub const SBP: u32 = 1 << 1;
    /// Multicast promiscuous.
    pub const MPE: u32 = 1 << 8;
    /// Unicast promiscuous.
    pub const UPE: u32 = 1 << 9;
    /// Broadcast accept.
    pub const BAM: u32 = 1 << 10;
}

/// VLAN control (8.2.3.7.2).
pub mod vlnctrl {
    /// Ether type of a VLAN tag.
    pub const VET: u32 = 0xffff;
    /// Value of CFI that passes.
    pub const CFI: u32 = 1 << 28;
    /// CFI filter enable.
    pub const CFIEN: u32 = 1 << 29;
    /// VLAN filter enable.
    pub const VFE: u32 = 1 << 30;
    /// The 82598's global strip; on the 82599 stripping is per queue.
    pub const VME: u32 = 1 << 31;
}

/// Multicast control (8.2.3.7.3).
pub mod mcstctrl {
    /// Which 12 bits of the address index MTA: 47:36, 46:35, 45:34 or 43:32.
    pub const MO: u32 = 0x3;
    /// Multicast filter enable.
    pub const MFE: u32 = 1 << 2;
}

/// Receive checksum control (8.2.3.7.5).
pub mod rxcsum {
    /// IP payload checksum enable.
    pub const IPPCSE: u32 = 1 << 12;
    /// Descriptors carry the RSS hash rather than the fragment checksum.
    pub const PCSD: u32 = 1 << 13;
}

/// Receive filter control (8.2.3.7.6).
pub mod rfctl {
    /// RSC disable.
    pub const RSC_DIS: u32 = 1 << 5;
    /// NFS write disable.
    pub const NFSW_DIS: u32 = 1 << 6;
    /// NFS read disable.
    pub const NFSR_DIS: u32 = 1 << 7;
    /// IPv6 parsing disable: as the 82598.
    pub const IPV6_DIS: u32 = 1 << 10;
}

/// Receive address high (8.2.3.7.9).
pub mod rah {
    /// Entry valid.
    pub const AV: u32 = 1 << 31;
}

/// Multiple receive queues (8.2.3.7.12).
pub mod mrqc {
    /// Mode.
    pub const MRQE: u32 = 0xf;
    /// Mode: RSS only.
    pub const MRQE_RSS: u32 = 1;
    /// Mode: RSS with 8 traffic classes.
    pub const MRQE_RSS_8TC: u32 = 4;
    /// Mode: RSS with 4 traffic classes.
    pub const MRQE_RSS_4TC: u32 = 5;
    /// TCP over IPv4.
    pub const TCP_IPV4: u32 = 1 << 16;
    /// IPv4.
    pub const IPV4: u32 = 1 << 17;
    /// IPv6.
    pub const IPV6: u32 = 1 << 20;
    /// TCP over IPv6.
    pub const TCP_IPV6: u32 = 1 << 21;
    /// UDP over IPv4.
    pub const UDP_IPV4: u32 = 1 << 22;
    /// UDP over IPv6.
    pub const UDP_IPV6: u32 = 1 << 23;
    /// All of the fields.
    pub const FIELDS: u32 = 0xffff_0000;
}

/// Five tuple filter (8.2.3.7.19).
pub mod ftqf {
    /// Protocol: 0 TCP, 1 UDP, 2 SCTP, 3 other.
    pub const PROTOCOL: u32 = 0x3;
    /// Priority, 7 the highest.
    pub const PRIORITY_SHIFT: u32 = 2;
    /// A one ignores: source address, destination address, source port, destination port, protocol.
    pub const MASK_SHIFT: u32 = 25;
    /// Pool is ignored.
    pub const POOL_MASK: u32 = 1 << 30;
    /// Filter enable.
    pub const QUEUE_ENABLE: u32 = 1 << 31;
}

/// Five tuple filter target (8.2.3.5.13).
pub mod l34timir {
    /// Receive queue.
    pub const QUEUE_SHIFT: u32 = 21;
}

/// SYN filter (8.2.3.7.20).
pub mod synqf {
    /// Enable.
    pub const ENABLE: u32 = 1;
    /// Receive queue.
    pub const QUEUE_SHIFT: u32 = 1;
    /// Wins over the five tuple filters.
    pub const HIGH_PRIORITY: u32 = 1 << 31;
}

/// Ether type filter (8.2.3.7.21).
pub mod etqf {
    /// Ether type.
    pub const TYPE: u32 = 0xffff;
    /// Time stamp matching frames.
    pub const IEEE1588: u32 = 1 << 30;
    /// Filter enable.
    pub const ENABLE: u32 = 1 << 31;
}

/// Ether type queue select (8.2.3.7.22).
pub mod etqs {
    /// Receive queue.
    pub const QUEUE_SHIFT: u32 = 16;
    /// The queue is valid.
    pub const QUEUE_ENABLE: u32 = 1 << 31;
}

/// Receive descriptor control (8.2.3.8.6).
pub mod rxdctl {
    /// Queue enable; reads back as 1 once the queue runs.
    pub const ENABLE: u32 = 1 << 25;
    /// Software flush.
    pub const SWFLSH: u32 = 1 << 26;
    /// VLAN strip.
    pub const VME: u32 = 1 << 30;
}

/// Split receive control (8.2.3.8.7).
pub mod srrctl {
    /// Packet buffer size, KiB.
    pub const BSIZEPACKET: u32 = 0x1f;
    /// Header buffer size, 64 bytes.
    pub const BSIZEHEADER_SHIFT: u32 = 8;
    /// Descriptor type.
    pub const DESCTYPE: u32 = 0x7 << 25;
    /// Legacy.
    pub const DESCTYPE_LEGACY: u32 = 0;
    /// Advanced, one buffer.
    pub const DESCTYPE_ADV_ONE: u32 = 1 << 25;
    /// Advanced, header split.
    pub const DESCTYPE_ADV_SPLIT: u32 = 2 << 25;
    /// Advanced, header split always.
    pub const DESCTYPE_ADV_SPLIT_ALWAYS: u32 = 5 << 25;
    /// Drop when no descriptor is free, instead of waiting in the packet buffer.
    pub const DROP_EN: u32 = 1 << 28;
}

/// Receive DMA control (8.2.3.8.8).
pub mod rdrxctl {
    /// CRC strip; must agree with HLREG0.
    pub const CRCSTRIP: u32 = 1 << 1;
    /// DMA initialisation done.
    pub const DMAIDONE: u32 = 1 << 3;
    /// Set by software for RSC.
    pub const RSCACKC: u32 = 1 << 25;
    /// Set by software.
    pub const FCOE_WRFIX: u32 = 1 << 26;
}

/// Receive control (8.2.3.8.10).
pub mod rxctrl {
    /// Receive enable.
    pub const RXEN: u32 = 1;
}

/// DMA transmit control (8.2.3.9.2).
pub mod dmatxctl {
    /// Transmit enable.
    pub const TE: u32 = 1;
    /// Ether type of an inserted VLAN tag.
    pub const VT_SHIFT: u32 = 16;
}

/// Transmit descriptor control (8.2.3.9.10).
pub mod txdctl {
    /// Prefetch threshold.
    pub const PTHRESH: u32 = 0x7f;
    /// Host threshold.
    pub const HTHRESH_SHIFT: u32 = 8;
    /// Write-back threshold.
    pub const WTHRESH_SHIFT: u32 = 16;
    /// Queue enable; reads back as 1 once the queue runs, as 0 once it has stopped.
    pub const ENABLE: u32 = 1 << 25;
    /// Software flush.
    pub const SWFLSH: u32 = 1 << 26;
}

/// Head write-back (8.2.3.9.11).
pub mod tdwbal {
    /// Head write-back enable.
    pub const HEAD_WB_EN: u32 = 1;
}

/// Transmit descriptor plane control (8.2.3.10.2).
pub mod rttdcs {
    /// Arbiter disable.
    pub const ARBDIS: u32 = 1 << 6;
}

/// Security receive control (8.2.3.12.5).
pub mod secrxctrl {
    /// Receive path stop.
    pub const RX_DIS: u32 = 1 << 1;
}

/// Flow director control (8.2.3.21.1).
pub mod fdirctrl {
    /// Memory for filters: 0 none, 1 64 KB, 2 128 KB, 3 256 KB.
    pub const PBALLOC: u32 = 0x3;
    /// Initialisation done.
    pub const INIT_DONE: u32 = 1 << 3;
    /// Perfect match filters rather than hashes.
    pub const PERFECT_MATCH: u32 = 1 << 4;
    /// Report matches in the descriptor.
    pub const REPORT_STATUS: u32 = 1 << 5;
    /// Report always.
    pub const REPORT_STATUS_ALWAYS: u32 = 1 << 7;
    /// Queue of dropped frames.
    pub const DROP_Q_SHIFT: u32 = 8;
    /// Offset of the flexible bytes, in words.
    pub const FLEX_SHIFT: u32 = 16;
}

/// Flow director command (8.2.3.21.18).
pub mod fdircmd {
    /// Command.
    pub const CMD: u32 = 0x3;
    /// Command: add.
    pub const CMD_ADD: u32 = 1;
    /// Command: remove.
    pub const CMD_REMOVE: u32 = 2;
    /// Command: query.
    pub const CMD_QUERY: u32 = 3;
    /// The queried filter is valid.
    pub const FILTER_VALID: u32 = 1 << 2;
    /// Update an existing filter.
    pub const FILTER_UPDATE: u32 = 1 << 3;
    /// L4 type: 1 UDP, 2 TCP, 3 SCTP, 0 others.
    pub const L4TYPE_SHIFT: u32 = 5;
    /// IPv6.
    pub const IPV6: u32 = 1 << 7;
    /// Matching frames are dropped.
    pub const DROP: u32 = 1 << 9;
    /// Last filter of a list.
    pub const LAST: u32 = 1 << 11;
    /// Queue below is valid.
    pub const QUEUE_EN: u32 = 1 << 15;
    /// Receive queue.
    pub const QUEUE_SHIFT: u32 = 16;
}

/// Flow director masks (8.2.3.21.20): a one ignores.
pub mod fdirm {
    /// VLAN id.
    pub const VLANID: u32 = 1;
    /// VLAN priority.
    pub const VLANP: u32 = 1 << 1;
    /// Pool.
    pub const POOL: u32 = 1 << 2;
    /// L4 protocol.
    pub const L4P: u32 = 1 << 3;
    /// Flexible bytes.
    pub const FLEX: u32 = 1 << 4;
    /// Destination IPv6.
    pub const DIPV6: u32 = 1 << 5;
}

/// MAC core control (8.2.3.22.8).
pub mod hlreg0 {
    /// Append CRC on transmit.
    pub const TXCRCEN: u32 = 1;
    /// Strip CRC on receive.
    pub const RXCRCSTRP: u32 = 1 << 1;
    /// Frames up to MAXFRS rather than 1518.
    pub const JUMBOEN: u32 = 1 << 2;
    /// Pad short frames.
    pub const TXPADEN: u32 = 1 << 10;
    /// MAC loopback, transmit to receive.
    pub const LPBK: u32 = 1 << 15;
    /// MDC speed.
    pub const MDCSPD: u32 = 1 << 16;
    /// Receive length errors are errors.
    pub const RXLNGTHERREN: u32 = 1 << 27;
}

/// MDI command (8.2.3.22.11).
pub mod msca {
    /// Register address.
    pub const MDIADD: u32 = 0xffff;
    /// Operation: 0 address, 1 write, 2 read and increment, 3 read.
    pub const OPCODE_SHIFT: u32 = 26;
    /// Command in progress; clears itself.
    pub const MDICMD: u32 = 1 << 30;
    /// MDI in progress enable.
    pub const MDIINPROGEN: u32 = 1 << 31;
}

/// Maximum frame size (8.2.3.22.13).
pub mod maxfrs {
    /// Bytes, FCS included.
    pub const MFS_SHIFT: u32 = 16;
}

/// Auto negotiation control (8.2.3.22.19).
pub mod autoc {
    /// Force link up.
    pub const FLU: u32 = 1;
    /// Restart auto negotiation; clears itself.
    pub const RESTART_AN: u32 = 1 << 12;
    /// Link mode select.
    pub const LMS_SHIFT: u32 = 13;
    /// Link mode: 10G serial (SFI).
    pub const LMS_10G_SERIAL: u32 = 3 << 13;
}

/// Link status (8.2.3.22.20).
pub mod links {
    /// What a running 10 Gb/s link reads as.
    pub const UP_10G: u32 = 0xf000_0040;
    /// Link up.
    pub const UP: u32 = 1 << 30;
    /// Speed.
    pub const SPEED: u32 = 0x3 << 28;
    /// Speed: 10 Gb/s.
    pub const SPEED_10G: u32 = 0x3 << 28;
    /// Speed: 1 Gb/s.
    pub const SPEED_1G: u32 = 0x2 << 28;
    /// Speed: 100 Mb/s.
    pub const SPEED_100M: u32 = 0x1 << 28;
}

/// VLAN pool filters (8.2.3.27.15).
pub mod vlvf {
    /// Entry valid.
    pub const VIEN: u32 = 1 << 31;
}

/// Pool queue drop enable (8.2.3.27.7).
pub mod qde {
    /// Drop enable for the queue.
    pub const ENABLE: u32 = 1;
    /// Queue index.
    pub const IDX_SHIFT: u32 = 8;
    /// Write.
    pub const WRITE: u32 = 1 << 16;
}

/// Receive time stamp control (8.2.3.26.1).
pub mod tsyncrxctl {
    /// A time stamp is latched.
    pub const VALID: u32 = 1;
    /// Enable.
    pub const ENABLED: u32 = 1 << 4;
}
