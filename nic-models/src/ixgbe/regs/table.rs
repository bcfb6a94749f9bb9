//! One row a register: `NAME: offset [count x stride] high first @ offset x stride, Access = reset & writable, section`.

use crate::regs::register_table;

register_table! {
    // General control (8.2.3.1)
    /// Device control.
    CTRL: 0x00000, Rw, "8.2.3.1.1";
    /// Device control, the copy at 0x4.
    CTRL_COPY: 0x00004, Rw, "8.2.3.1.1";
    /// Device status.
    STATUS: 0x00008, Ro = 0x0008_0000, "8.2.3.1.2";
    /// Extended device control.
    CTRL_EXT: 0x00018, Rw, "8.2.3.1.3";
    /// Software definable pins.
    ESDP: 0x00020, Rw, "8.2.3.1.4";
    /// Bit-banged I2C to the SFP+ module.
    I2CCTL: 0x00028, Rw = 0xf, "8.2.3.1.5";
    /// Free running timer, microseconds.
    FRTIMER: 0x00048, Ro, "8.2.3.15";
    /// TCP timer.
    TCPTIMER: 0x0004c, Rw, "8.2.3.15";
    /// LEDs.
    LEDCTL: 0x00200, Rw, "8.2.3.1.6";
    /// Extended VLAN ether type.
    EXVET: 0x05078, Rw = 0x8100_0000, "8.2.3.1.7";

    // EEPROM and flash (8.2.3.2)
    /// EEPROM/flash control: bit-banged SPI, presence, size.
    EEC: 0x10010, Rw, "8.2.3.2.1";
    /// EEPROM read.
    EERD: 0x10014, Ws, "8.2.3.2.2";
    /// Flash access.
    FLA: 0x1001c, Rw, "8.2.3.2.3";
    /// Manageability EEPROM control.
    EEMNGCTL: 0x10110, Ro = 0x8000_0000, "8.2.3.2.4";
    /// Flash opcode.
    FLOP: 0x1013c, Rw, "8.2.3.2.9";
    /// General receive control.
    GRC: 0x10200, Rw, "8.2.3.2.10";

    // Flow control (8.2.3.3)
    /// Priority flow control type opcode.
    PFCTOP: 0x03008, Rw = 0x0001_0101, "8.2.3.3.1";
    /// Flow control transmit timer.
    FCTTV: 0x03200 [4 x 4], Rw, "8.2.3.3.2";
    /// Flow control receive threshold low.
    FCRTL: 0x03220 [8 x 4], Rw & 0x8007_fff0, "8.2.3.3.3";
    /// Flow control receive threshold high.
    FCRTH: 0x03260 [8 x 4], Rw & 0x8007_fff0, "8.2.3.3.4";
    /// Flow control refresh threshold.
    FCRTV: 0x032a0, Rw, "8.2.3.3.5";
    /// Transmit flow control status.
    TFCS: 0x0ce00, Ro, "8.2.3.3.6";
    /// Flow control configuration.
    FCCFG: 0x03d00, Rw, "8.2.3.3.7";

    // PCIe (8.2.3.4)
    /// PCIe control.
    GCR: 0x11000, Rw = 0x0004_0000, "8.2.3.4.1";
    /// PCIe statistic control.
    GSCL: 0x11010 [4 x 4], Rw, "8.2.3.4.2";
    /// PCIe counters.
    GSCN: 0x11020 [4 x 4], Ro, "8.2.3.4.4";
    /// Function active and power state.
    FACTPS: 0x10150, Ro, "8.2.3.4.7";
    /// PCIe PHY address.
    PCIEPHYADR: 0x11040, Rw, "8.2.3.4";
    /// PCIe PHY data.
    PCIEPHYDAT: 0x11044, Rw, "8.2.3.4";
    /// Software semaphore: reading it sets SMBI.
    SWSM: 0x10140, Rw, "8.2.3.4.9";
    /// Firmware semaphore.
    FWSM: 0x10148, Ro = 0x0000_8000, "8.2.3.4.10";
    /// Software-firmware synchronisation (Linux: GSSR).
    SW_FW_SYNC: 0x10160, Rw, "8.2.3.4.11";
    /// PCIe control extended.
    GCR_EXT: 0x11050, Rw, "8.2.3.4.12";
    /// Mirrored revision id.
    MREVID: 0x11064, Ro = 0x0000_0001, "8.2.3.4.13";
    /// PBA clear.
    PBACL: 0x11068 [1 x 4], Rw1c, "8.2.3.6";
    /// PBA clear for vectors from 32 on.
    PBACL_EX: 0x110c4 [7 x 4], Rw1c, "8.2.3.6";
    /// PCIe interrupt cause.
    PICAUSE: 0x110b0, Rw1c, "8.2.3.4.14";
    /// PCIe interrupt enable.
    PIENA: 0x110b8, Rw, "8.2.3.4.15";
    /// PCIe configuration access (address).
    CIAA: 0x11088, Rw, "8.2.3.4";
    /// PCIe configuration access (data).
    CIAD: 0x1108c, Rw, "8.2.3.4";

    // Interrupts (8.2.3.5)
    /// Extended interrupt cause.
    EICR: 0x00800, Rw1c, "8.2.3.5.1";
    /// Extended interrupt cause set.
    EICS: 0x00808, Rw, "8.2.3.5.2";
    /// Extended interrupt mask set/read.
    EIMS: 0x00880, Rw, "8.2.3.5.3";
    /// Extended interrupt mask clear.
    EIMC: 0x00888, Rw, "8.2.3.5.4";
    /// Extended interrupt auto clear.
    EIAC: 0x00810, Rw, "8.2.3.5.5";
    /// Extended interrupt auto mask.
    EIAM: 0x00890, Rw, "8.2.3.5.6";
    /// Extended interrupt cause set, vectors 0-63 one bit each.
    EICS_EX: 0x00a90 [2 x 4], Rw, "8.2.3.5.7";
    /// Extended interrupt mask set/read, vectors 0-63.
    EIMS_EX: 0x00aa0 [2 x 4], Rw, "8.2.3.5.8";
    /// Extended interrupt mask clear, vectors 0-63.
    EIMC_EX: 0x00ab0 [2 x 4], Rw, "8.2.3.5.9";
    /// Extended interrupt auto mask, vectors 0-63.
    EIAM_EX: 0x00ad0 [2 x 4], Rw, "8.2.3.5.10";
    /// MSI-X to EITR select.
    EITRSEL: 0x00894, Rw, "8.2.3.5.11";
    /// Interrupt throttle per vector.
    EITR: 0x00820 [129 x 4] high 24 @ 0x12300 x 4, Rw, "8.2.3.5.12";
    /// Interrupt vector allocation: two queues an entry, RX and TX.
    IVAR: 0x00900 [64 x 4], Rw, "8.2.3.5.16";
    /// Interrupt vector allocation of the TCP timer and of other causes.
    IVAR_MISC: 0x00a00, Rw, "8.2.3.5.17";
    /// General purpose interrupt enable.
    GPIE: 0x00898, Rw, "8.2.3.5.18";

    // Receive filters (8.2.3.7)
    /// Filter control.
    FCTRL: 0x05080, Rw, "8.2.3.7.1";
    /// VLAN control.
    VLNCTRL: 0x05088, Rw = 0x0000_8100, "8.2.3.7.2";
    /// Multicast control.
    MCSTCTRL: 0x05090, Rw, "8.2.3.7.3";
    /// Packet split type, per pool.
    PSRTYPE: 0x0ea00 [64 x 4], Rw, "8.2.3.7.4";
    /// Packet split type, the 82598's place for pools 0-15.
    PSRTYPE_COPY: 0x05480 [16 x 4], Rw, "8.2.3.7.4";
    /// Receive checksum control.
    RXCSUM: 0x05000, Rw, "8.2.3.7.5";
    /// Receive filter control.
    RFCTL: 0x05008, Rw, "8.2.3.7.6";
    /// Multicast table array.
    MTA: 0x05200 [128 x 4], Rw, "8.2.3.7.7";
    /// Receive address low.
    RAL: 0x0a200 [128 x 8], Rw, "8.2.3.7.8";
    /// Receive address high.
    RAH: 0x0a204 [128 x 8], Rw & 0x8000_ffff, "8.2.3.7.9";
    /// Receive address low, the 82598's place for entries 0-15.
    RAL_COPY: 0x05400 [16 x 8], Rw, "8.2.3.7.8";
    /// Receive address high, the 82598's place for entries 0-15.
    RAH_COPY: 0x05404 [16 x 8], Rw & 0x8000_ffff, "8.2.3.7.9";
    /// Pool select of each receive address.
    MPSAR: 0x0a600 [256 x 4], Rw, "8.2.3.7.10";
    /// VLAN filter table.
    VFTA: 0x0a000 [128 x 4], Rw, "8.2.3.7.11";
    /// Multiple receive queues: RSS mode and fields.
    MRQC: 0x05818, Rw, "8.2.3.7.12";
    /// RSS queues per traffic class.
    RQTC: 0x0ec70, Rw, "8.2.3.7.13";
    /// RSS key.
    RSSRK: 0x05c80 [10 x 4], Rw, "8.2.3.7.14";
    /// RSS redirection table, four 8-bit entries a register.
    RETA: 0x05c00 [32 x 4], Rw, "8.2.3.7.15";
    /// Source address queue filter.
    SAQF: 0x0e000 [128 x 4], Rw, "8.2.3.7.16";
    /// Destination address queue filter.
    DAQF: 0x0e200 [128 x 4], Rw, "8.2.3.7.17";
    /// Source and destination port queue filter.
    SDPQF: 0x0e400 [128 x 4], Rw, "8.2.3.7.18";
    /// Five tuple queue filter.
    FTQF: 0x0e600 [128 x 4], Rw, "8.2.3.7.19";
    /// Five tuple filter: queue and low latency.
    L34TIMIR: 0x0e800 [128 x 4], Rw, "8.2.3.5.13";
    /// SYN packet queue filter.
    SYNQF: 0x0ec30, Rw, "8.2.3.7.20";
    /// Ether type queue filter.
    ETQF: 0x05128 [8 x 4], Rw, "8.2.3.7.21";
    /// Ether type queue select.
    ETQS: 0x0ec00 [8 x 4], Rw, "8.2.3.7.22";

    // Receive DMA (8.2.3.8)
    /// Receive descriptor base low.
    RDBAL: 0x01000 [128 x 0x40] high 64 @ 0x0d000 x 0x40, Rw & 0xffff_ff80, "8.2.3.8.1";
    /// Receive descriptor base high.
    RDBAH: 0x01004 [128 x 0x40] high 64 @ 0x0d004 x 0x40, Rw, "8.2.3.8.2";
    /// Receive descriptor ring length, bytes.
    RDLEN: 0x01008 [128 x 0x40] high 64 @ 0x0d008 x 0x40, Rw & 0x000f_ff80, "8.2.3.8.3";
    /// Receive descriptor head.
    RDH: 0x01010 [128 x 0x40] high 64 @ 0x0d010 x 0x40, Rw & 0x0000_ffff, "8.2.3.8.4";
    /// Receive descriptor tail.
    RDT: 0x01018 [128 x 0x40] high 64 @ 0x0d018 x 0x40, Rw & 0x0000_ffff, "8.2.3.8.5";
    /// Receive descriptor control.
    RXDCTL: 0x01028 [128 x 0x40] high 64 @ 0x0d028 x 0x40, Rw & 0x4600_0000, "8.2.3.8.6";
    /// Split receive control: buffer sizes, descriptor type, drop enable.
    SRRCTL: 0x01014 [128 x 0x40] high 64 @ 0x0d014 x 0x40, Rw = 0x0000_0402, "8.2.3.8.7";
    /// Split receive control, the 82598's place for queues 0-15.
    SRRCTL_COPY: 0x02100 [16 x 4], Rw = 0x0000_0402, "8.2.3.8.7";
    /// Receive DMA control.
    RDRXCTL: 0x02f00, Rw = 0x0010_0008, "8.2.3.8.8";
    /// Receive packet buffer size.
    RXPBSIZE: 0x03c00 [8 x 4], Rw & 0x000f_fc00, "8.2.3.8.9";
    /// Receive control.
    RXCTRL: 0x03000, Rw & 0x0000_0001, "8.2.3.8.10";
    /// Packet buffer wrap and free marks.
    RXMEMWRAP: 0x03190, Ro, "8.2.3.8.11";
    /// RSC data buffer control.
    RSCDBU: 0x03028, Rw, "8.2.3.8.12";
    /// Receive side coalescing control.
    RSCCTL: 0x0102c [128 x 0x40] high 64 @ 0x0d02c x 0x40, Rw, "8.2.3.8.13";

    // Transmit (8.2.3.9)
    /// Maximum outstanding TX bytes.
    DTXMXSZRQ: 0x08100, Rw = 0x0000_0010, "8.2.3.9.1";
    /// DMA transmit control.
    DMATXCTL: 0x04a80, Rw = 0x8100_0000, "8.2.3.9.2";
    /// TCP flags of a segmented packet's first and middle segments.
    DTXTCPFLGL: 0x04a88, Rw = 0x0ff6_0ff6, "8.2.3.9.3";
    /// TCP flags of its last segment.
    DTXTCPFLGH: 0x04a8c, Rw = 0x0000_0f7f, "8.2.3.9.4";
    /// Transmit descriptor base low.
    TDBAL: 0x06000 [128 x 0x40], Rw & 0xffff_ff80, "8.2.3.9.5";
    /// Transmit descriptor base high.
    TDBAH: 0x06004 [128 x 0x40], Rw, "8.2.3.9.6";
    /// Transmit descriptor ring length, bytes.
    TDLEN: 0x06008 [128 x 0x40], Rw & 0x000f_ff80, "8.2.3.9.7";
    /// Transmit descriptor head.
    TDH: 0x06010 [128 x 0x40], Rw & 0x0000_ffff, "8.2.3.9.8";
    /// Transmit descriptor tail.
    TDT: 0x06018 [128 x 0x40], Rw & 0x0000_ffff, "8.2.3.9.9";
    /// Transmit descriptor control.
    TXDCTL: 0x06028 [128 x 0x40], Rw & 0x067f_7f7f, "8.2.3.9.10";
    /// Head write-back address low.
    TDWBAL: 0x06038 [128 x 0x40], Rw & 0xffff_fffd, "8.2.3.9.11";
    /// Head write-back address high.
    TDWBAH: 0x0603c [128 x 0x40], Rw, "8.2.3.9.12";
    /// Transmit packet buffer size.
    TXPBSIZE: 0x0cc00 [8 x 4], Rw & 0x000f_fc00, "8.2.3.9.13";
    /// Multiple transmit queues command.
    MTQC: 0x08120, Rw, "8.2.3.9.15";
    /// Transmit packet buffer threshold.
    TXPBTHRESH: 0x04950 [8 x 4], Rw, "8.2.3.9.16";

    // Data centre bridging (8.2.3.10)
    /// Receive packet plane control.
    RTRPCS: 0x02430, Rw, "8.2.3.10.1";
    /// Transmit descriptor plane control.
    RTTDCS: 0x04900, Rw, "8.2.3.10.2";
    /// Transmit packet plane control.
    RTTPCS: 0x0cd00, Rw, "8.2.3.10.3";
    /// Receive user priority to traffic class.
    RTRUP2TC: 0x03020, Rw, "8.2.3.10.4";
    /// Transmit user priority to traffic class.
    RTTUP2TC: 0x0c800, Rw, "8.2.3.10.5";
    /// Receive packet plane T4 configuration.
    RTRPT4C: 0x02140 [8 x 4], Rw, "8.2.3.10.6";
    /// Transmit descriptor plane T2 configuration.
    RTTDT2C: 0x04910 [8 x 4], Rw, "8.2.3.10.8";
    /// Transmit packet plane T2 configuration.
    RTTPT2C: 0x0cd20 [8 x 4], Rw, "8.2.3.10.10";
    /// Transmit descriptor plane queue select.
    RTTDQSEL: 0x04904, Rw, "8.2.3.10.13";
    /// Transmit descriptor plane T1 configuration, of the selected queue.
    RTTDT1C: 0x04908, Rw, "8.2.3.10.14";
    /// Transmit rate-scheduler memory.
    RTTBCNRM: 0x04980, Rw, "8.2.3.10";
    /// Transmit rate-scheduler, of the selected queue.
    RTTBCNRC: 0x04984, Rw, "8.2.3.10";

    // Direct cache access (8.2.3.11)
    /// Receive DCA control.
    DCA_RXCTRL: 0x0100c [128 x 0x40] high 64 @ 0x0d00c x 0x40, Rw = 0x0000_b200, "8.2.3.11.1";
    /// Receive DCA control, the 82598's place for queues 0-15.
    DCA_RXCTRL_COPY: 0x02200 [16 x 4], Rw = 0x0000_b200, "8.2.3.11.1";
    /// Transmit DCA control.
    DCA_TXCTRL: 0x0600c [128 x 0x40], Rw = 0x0000_2a00, "8.2.3.11.2";
    /// DCA requester id.
    DCA_ID: 0x11070, Ro, "8.2.3.11.3";
    /// DCA control.
    DCA_CTRL: 0x11074, Rw = 0x0000_0001, "8.2.3.11.4";

    // Security (8.2.3.12)
    /// Security transmit control.
    SECTXCTRL: 0x08800, Rw = 0x0000_0004, "8.2.3.12.1";
    /// Security transmit status.
    SECTXSTAT: 0x08804, Ro = 0x0000_0001, "8.2.3.12.2";
    /// Security transmit buffer almost full.
    SECTXBUFFAF: 0x08808, Rw = 0x0000_0250, "8.2.3.12.3";
    /// Security transmit buffer minimum inter-frame gap.
    SECTXMINIFG: 0x08810, Rw = 0x0000_1001, "8.2.3.12.4";
    /// Security receive control.
    SECRXCTRL: 0x08d00, Rw, "8.2.3.12.5";
    /// Security receive status.
    SECRXSTAT: 0x08d04, Ro = 0x0000_0001, "8.2.3.12.6";

    // Flow director (8.2.3.21)
    /// Flow director control.
    FDIRCTRL: 0x0ee00, Rw, "8.2.3.21.1";
    /// Flow director source IPv6.
    FDIRSIPV6: 0x0ee0c [3 x 4], Rw, "8.2.3.21.12";
    /// Flow director source IPv4.
    FDIRIPSA: 0x0ee18, Rw, "8.2.3.21.13";
    /// Flow director destination IPv4.
    FDIRIPDA: 0x0ee1c, Rw, "8.2.3.21.14";
    /// Flow director ports.
    FDIRPORT: 0x0ee20, Rw, "8.2.3.21.15";
    /// Flow director VLAN and flexible bytes.
    FDIRVLAN: 0x0ee24, Rw, "8.2.3.21.16";
    /// Flow director hash signature and index.
    FDIRHASH: 0x0ee28, Rw, "8.2.3.21.17";
    /// Flow director command.
    FDIRCMD: 0x0ee2c, Rw, "8.2.3.21.18";
    /// Free filters.
    FDIRFREE: 0x0ee38, Ro, "8.2.3.21.6";
    /// Destination IPv4 mask: a one ignores the bit.
    FDIRDIP4M: 0x0ee3c, Rw, "8.2.3.21.4";
    /// Source IPv4 mask.
    FDIRSIP4M: 0x0ee40, Rw, "8.2.3.21.5";
    /// TCP port mask.
    FDIRTCPM: 0x0ee44, Rw, "8.2.3.21.7";
    /// UDP port mask.
    FDIRUDPM: 0x0ee48, Rw, "8.2.3.21.8";
    /// Longest hash chain.
    FDIRLEN: 0x0ee4c, Ro, "8.2.3.21.9";
    /// Filters added and removed.
    FDIRUSTAT: 0x0ee50, Rc, "8.2.3.21.10";
    /// Failed additions and removals.
    FDIRFSTAT: 0x0ee54, Rc, "8.2.3.21.10";
    /// Frames that matched a filter.
    FDIRMATCH: 0x0ee58, Rc, "8.2.3.21.11";
    /// Frames that matched none.
    FDIRMISS: 0x0ee5c, Rc, "8.2.3.21.11";
    /// Bucket hash key.
    FDIRHKEY: 0x0ee68, Rw = 0x8000_0001, "8.2.3.21.2";
    /// Signature hash key.
    FDIRSKEY: 0x0ee6c, Rw = 0x8000_0001, "8.2.3.21.3";
    /// Other masks.
    FDIRM: 0x0ee70, Rw, "8.2.3.21.20";
    /// IPv6 mask.
    FDIRIP6M: 0x0ee74, Rw, "8.2.3.21.19";

    // MAC (8.2.3.22)
    /// 1G PCS configuration.
    PCS1GCFIG: 0x04200, Rw = 0x0000_0008, "8.2.3.22.1";
    /// 1G PCS link control.
    PCS1GLCTL: 0x04208, Rw, "8.2.3.22.2";
    /// 1G PCS link status.
    PCS1GLSTA: 0x0420c, Ro, "8.2.3.22.3";
    /// 1G PCS advertisement.
    PCS1GANA: 0x04218, Rw = 0x0000_0020, "8.2.3.22.4";
    /// 1G PCS link partner ability.
    PCS1GANLP: 0x0421c, Ro, "8.2.3.22.5";
    /// MAC core control 0.
    HLREG0: 0x04240, Rw = 0x0801_0403, "8.2.3.22.8";
    /// MAC core status 1.
    HLREG1: 0x04244, Ro = 0x0000_0001, "8.2.3.22.9";
    /// Pause and pace.
    PAP: 0x04248, Rw, "8.2.3.22.10";
    /// MDI single command and address.
    MSCA: 0x0425c, Rw, "8.2.3.22.11";
    /// MDI single read and write data.
    MSRWD: 0x04260, Rw, "8.2.3.22.12";
    /// Maximum frame size, bytes including FCS, in the high half (Linux: MHADD).
    MAXFRS: 0x04268, Rw = 0x05ee_0000 & 0xffff_0000, "8.2.3.22.13";
    /// XGXS status.
    XPCSS: 0x04290, Ro = 0x0000_1001, "8.2.3.22.15";
    /// MAC flow control.
    MFLCN: 0x04294, Rw, "8.2.3.22.34";
    /// SerDes interface control.
    SERDESC: 0x04298, Rw = 0x0000_1000, "8.2.3.22.16";
    /// FIFO status.
    MACS: 0x0429c, Rw, "8.2.3.22.17";
    /// Auto negotiation control; loaded from the EEPROM, here for an SFP+ cage (SFI, no auto negotiation).
    AUTOC: 0x042a0, Rw = 0xc09c_6004, "8.2.3.22.19";
    /// Link status.
    LINKS: 0x042a4, Ro, "8.2.3.22.20";
    /// Link status 2.
    LINKS2: 0x04324, Ro, "8.2.3.22.21";
    /// Auto negotiation control 2.
    AUTOC2: 0x042a8, Rw = 0x000a_0000, "8.2.3.22.22";
    /// Auto negotiation control 3.
    AUTOC3: 0x042ac, Rw, "8.2.3.22.22";
    /// Auto negotiation link partner word 1.
    ANLP1: 0x042b0, Ro = 0x0001_0000, "8.2.3.22.23";
    /// Auto negotiation link partner word 2.
    ANLP2: 0x042b4, Ro, "8.2.3.22.24";
    /// MAC manageability control.
    MMNGC: 0x042d0, Rw = 0x0000_0001, "8.2.3.22.25";
    /// MAC control.
    MACC: 0x04330, Rw, "8.2.3.22.33";
    /// Core analog configuration.
    CORECTL: 0x14f00, Rw, "8.2.3.22.32";

    // Time synchronisation (8.2.3.26)
    /// Receive time stamp control.
    TSYNCRXCTL: 0x05188, Rw, "8.2.3.26.1";
    /// Transmit time stamp control.
    TSYNCTXCTL: 0x08c00, Rw, "8.2.3.26.7";
    /// System time low.
    SYSTIML: 0x08c0c, Rw, "8.2.3.26.10";
    /// System time high.
    SYSTIMH: 0x08c10, Rw, "8.2.3.26.11";
    /// System time increment.
    TIMINCA: 0x08c14, Rw, "8.2.3.26.12";
    /// Time sync auxiliary control.
    TSAUXC: 0x08c20, Rw, "8.2.3.26.15";

    // Virtualization (8.2.3.27)
    /// Virtual control.
    VT_CTL: 0x051b0, Rw, "8.2.3.27.1";
    /// Pool receive enable.
    VFRE: 0x051e0 [2 x 4], Rw, "8.2.3.27.5";
    /// Pool transmit enable.
    VFTE: 0x08110 [2 x 4], Rw, "8.2.3.27.6";
    /// Pool queue drop enable.
    QDE: 0x02f04, Ws, "8.2.3.27.7";
    /// Loopback between pools.
    PFDTXGSWC: 0x08220, Rw, "8.2.3.27.10";
    /// Pool L2 control.
    VMOLR: 0x0f000 [64 x 4], Rw, "8.2.3.27.14";
    /// Pool VLAN filter.
    VLVF: 0x0f100 [64 x 4], Rw, "8.2.3.27.15";
    /// Pool VLAN filter bitmap.
    VLVFB: 0x0f200 [128 x 4], Rw, "8.2.3.27.16";
    /// Unicast table array.
    UTA: 0x0f400 [128 x 4], Rw, "8.2.3.27.17";
    /// Mirror rules.
    MRCTL: 0x0f600 [4 x 4], Rw, "8.2.3.27.18";

    // Wake up (8.2.3.24)
    /// Wake up control.
    WUC: 0x05800, Rw, "8.2.3.24.1";
    /// Wake up filter control.
    WUFC: 0x05808, Rw, "8.2.3.24.2";
    /// Wake up status.
    WUS: 0x05810, Rw1c, "8.2.3.24.3";
    /// Manageability control.
    MANC: 0x05820, Ro, "8.2.3.25.3";

    // Statistics (8.2.3.23): read to clear; counters stick at their maximum
    /// Frames with a CRC error.
    CRCERRS: 0x04000, Rc, "8.2.3.23.1";
    /// Illegal bytes.
    ILLERRC: 0x04004, Rc, "8.2.3.23.2";
    /// Error bytes.
    ERRBC: 0x04008, Rc, "8.2.3.23.3";
    /// MAC short packets discarded.
    MSPDC: 0x04010, Rc, "8.2.3.23";
    /// MAC local faults.
    MLFC: 0x04034, Rc, "8.2.3.23.11";
    /// MAC remote faults.
    MRFC: 0x04038, Rc, "8.2.3.23.12";
    /// Receive length errors.
    RLEC: 0x04040, Rc, "8.2.3.23.13";
    /// XON frames sent.
    LXONTXC: 0x03f60, Rc, "8.2.3.23.24";
    /// XOFF frames sent.
    LXOFFTXC: 0x03f68, Rc, "8.2.3.23.26";
    /// XON frames received.
    LXONRXCNT: 0x041a4, Rc, "8.2.3.23.25";
    /// XOFF frames received.
    LXOFFRXCNT: 0x041a8, Rc, "8.2.3.23.27";
    /// Priority XON frames received.
    PXONRXCNT: 0x04140 [8 x 4], Rc, "8.2.3.23.29";
    /// Priority XOFF frames received.
    PXOFFRXCNT: 0x04160 [8 x 4], Rc, "8.2.3.23.31";
    /// Priority XON frames sent.
    PXONTXC: 0x03f00 [8 x 4], Rc, "8.2.3.23.28";
    /// Priority XOFF frames sent.
    PXOFFTXC: 0x03f20 [8 x 4], Rc, "8.2.3.23.30";
    /// Priority XON to XOFF transitions.
    PXON2OFFCNT: 0x03240 [8 x 4], Rc, "8.2.3.23";
    /// Frames missed because the packet buffer was full, per packet buffer (Linux: MPC).
    RXMPC: 0x03fa0 [8 x 4], Rc, "8.2.3.23.4";
    /// Frames received, 64 bytes.
    PRC64: 0x0405c, Rc, "8.2.3.23.14";
    /// Frames received, 65 to 127 bytes.
    PRC127: 0x04060, Rc, "8.2.3.23.15";
    /// Frames received, 128 to 255 bytes.
    PRC255: 0x04064, Rc, "8.2.3.23.16";
    /// Frames received, 256 to 511 bytes.
    PRC511: 0x04068, Rc, "8.2.3.23.17";
    /// Frames received, 512 to 1023 bytes.
    PRC1023: 0x0406c, Rc, "8.2.3.23.18";
    /// Frames received, 1024 bytes and more.
    PRC1522: 0x04070, Rc, "8.2.3.23.19";
    /// Good frames received.
    GPRC: 0x04074, Rc, "8.2.3.23.22";
    /// Broadcast frames received.
    BPRC: 0x04078, Rc, "8.2.3.23.20";
    /// Multicast frames received.
    MPRC: 0x0407c, Rc, "8.2.3.23.21";
    /// Good frames sent.
    GPTC: 0x04080, Rc, "8.2.3.23.35";
    /// Good bytes received, low 32 bits.
    GORCL: 0x04088, Rc, "8.2.3.23.23";
    /// Good bytes received, high 4 bits; reading clears both halves.
    GORCH: 0x0408c, Rc, "8.2.3.23.23";
    /// Good bytes sent, low.
    GOTCL: 0x04090, Rc, "8.2.3.23.36";
    /// Good bytes sent, high.
    GOTCH: 0x04094, Rc, "8.2.3.23.36";
    /// Good frames, whether they passed the filters or not.
    RXNFGPC: 0x041b0, Rc, "8.2.3.23.5";
    /// Their bytes, low.
    RXNFGBCL: 0x041b4, Rc, "8.2.3.23.6";
    /// Their bytes, high.
    RXNFGBCH: 0x041b8, Rc, "8.2.3.23.6";
    /// Good frames handed to the host's DMA.
    RXDGPC: 0x02f50, Rc, "8.2.3.23.7";
    /// Their bytes, low.
    RXDGBCL: 0x02f54, Rc, "8.2.3.23.8";
    /// Their bytes, high.
    RXDGBCH: 0x02f58, Rc, "8.2.3.23.8";
    /// Good frames taken from the host by transmit DMA.
    TXDGPC: 0x087a0, Rc, "8.2.3.23.32";
    /// Their bytes, low.
    TXDGBCL: 0x087a4, Rc, "8.2.3.23.33";
    /// Their bytes, high.
    TXDGBCH: 0x087a8, Rc, "8.2.3.23.34";
    /// Undersized frames.
    RUC: 0x040a4, Rc, "8.2.3.23.38";
    /// Fragments: undersized with a bad CRC.
    RFC: 0x040a8, Rc, "8.2.3.23.39";
    /// Oversized frames.
    ROC: 0x040ac, Rc, "8.2.3.23.40";
    /// Jabbers: oversized with a bad CRC.
    RJC: 0x040b0, Rc, "8.2.3.23.41";
    /// Management frames received.
    MNGPRC: 0x040b4, Rc, "8.2.3.23.42";
    /// Management frames dropped.
    MNGPDC: 0x040b8, Rc, "8.2.3.23.43";
    /// Bytes received, good or not, low.
    TORL: 0x040c0, Rc, "8.2.3.23.44";
    /// Bytes received, good or not, high.
    TORH: 0x040c4, Rc, "8.2.3.23.44";
    /// Frames received, good or not.
    TPR: 0x040d0, Rc, "8.2.3.23.45";
    /// Frames sent.
    TPT: 0x040d4, Rc, "8.2.3.23.46";
    /// Frames sent, 64 bytes.
    PTC64: 0x040d8, Rc, "8.2.3.23.47";
    /// Frames sent, 65 to 127 bytes.
    PTC127: 0x040dc, Rc, "8.2.3.23.48";
    /// Frames sent, 128 to 255 bytes.
    PTC255: 0x040e0, Rc, "8.2.3.23.49";
    /// Frames sent, 256 to 511 bytes.
    PTC511: 0x040e4, Rc, "8.2.3.23.50";
    /// Frames sent, 512 to 1023 bytes.
    PTC1023: 0x040e8, Rc, "8.2.3.23.51";
    /// Frames sent, 1024 bytes and more.
    PTC1522: 0x040ec, Rc, "8.2.3.23.52";
    /// Multicast frames sent.
    MPTC: 0x040f0, Rc, "8.2.3.23.53";
    /// Broadcast frames sent.
    BPTC: 0x040f4, Rc, "8.2.3.23.54";
    /// Frames whose IPv4, TCP or UDP checksum was wrong.
    XEC: 0x04120, Rc, "8.2.3.23.55";
    /// Frames dropped by the switch's security (anti-spoofing).
    SSVPC: 0x08780, Rc, "8.2.3.23";
    /// Maps receive queues to the per-queue counters, one byte a queue.
    RQSMR: 0x02300 [32 x 4], Rw, "8.2.3.23.56";
    /// Maps transmit queues to the per-queue counters (Linux: TQSM).
    TQSM: 0x08600 [32 x 4], Rw, "8.2.3.23.58";
    /// Frames received, per counter.
    QPRC: 0x01030 [16 x 0x40], Rc, "8.2.3.23.59";
    /// Frames dropped for want of descriptors, per counter.
    QPRDC: 0x01430 [16 x 0x40], Rc, "8.2.3.23.60";
    /// Bytes received, per counter, low.
    QBRCL: 0x01034 [16 x 0x40], Rc, "8.2.3.23.61";
    /// Bytes received, per counter, high.
    QBRCH: 0x01038 [16 x 0x40], Rc, "8.2.3.23.61";
    /// Frames sent, per counter.
    QPTC: 0x08680 [16 x 4], Rc, "8.2.3.23.62";
    /// Frames sent, the 82598's place.
    QPTC_COPY: 0x06030 [16 x 0x40], Rc, "8.2.3.23.62";
    /// Bytes sent, per counter, low.
    QBTCL: 0x08700 [16 x 8], Rc, "8.2.3.23.63";
    /// Bytes sent, per counter, high.
    QBTCH: 0x08704 [16 x 8], Rc, "8.2.3.23.63";
    /// FCoE CRC errors.
    FCCRC: 0x05118, Rc, "8.2.3.23";
    /// FCoE frames dropped.
    FCOERPDC: 0x0241c, Rc, "8.2.3.23";
    /// FCoE last error.
    FCLAST: 0x02424, Rc, "8.2.3.23";
    /// FCoE frames received.
    FCOEPRC: 0x02428, Rc, "8.2.3.23";
    /// FCoE dwords received.
    FCOEDWRC: 0x0242c, Rc, "8.2.3.23";
    /// FCoE frames sent.
    FCOEPTC: 0x08784, Rc, "8.2.3.23";
    /// FCoE dwords sent.
    FCOEDWTC: 0x08788, Rc, "8.2.3.23";
}
