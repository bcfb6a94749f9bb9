//! Counting frames into the statistics registers (datasheet 8.2.3.23). Lengths include the 4 FCS bytes, except the byte
//! counts of received frames that passed the filters while the MAC strips the FCS: there Linux's and DPDK's drivers
//! find hardware that leaves it out.

use super::file::RegFile;
use crate::ixgbe::regs::{Id, hlreg0};

/// Bytes of an Ethernet FCS, which no frame here carries but every counter counts.
pub(super) const FCS: usize = 4;

const RX_SIZES: [Id; 6] = [
    Id::PRC64,
    Id::PRC127,
    Id::PRC255,
    Id::PRC511,
    Id::PRC1023,
    Id::PRC1522,
];
const TX_SIZES: [Id; 6] = [
    Id::PTC64,
    Id::PTC127,
    Id::PTC255,
    Id::PTC511,
    Id::PTC1023,
    Id::PTC1522,
];

fn size_class(len: usize) -> usize {
    match len {
        0..=64 => 0,
        65..=127 => 1,
        128..=255 => 2,
        256..=511 => 3,
        512..=1023 => 4,
        _ => 5,
    }
}

fn is_broadcast(frame: &[u8]) -> bool {
    frame.get(..6) == Some(&[0xff; 6])
}

fn is_multicast(frame: &[u8]) -> bool {
    frame.first().is_some_and(|b| b & 1 == 1) && !is_broadcast(frame)
}

/// A frame came off the wire, good or not.
pub(super) fn rx_any(file: &mut RegFile, frame: &[u8]) {
    file.count(Id::TPR, 0, 1);
    file.count_wide(Id::TORL, Id::TORH, 0, (frame.len() + FCS) as u64);
}

/// It was a good frame, wherever it was addressed to.
pub(super) fn rx_good(file: &mut RegFile, frame: &[u8]) {
    file.count(Id::RXNFGPC, 0, 1);
    file.count_wide(Id::RXNFGBCL, Id::RXNFGBCH, 0, (frame.len() + FCS) as u64);
}

/// Bytes of a received frame as the byte counters behind the filters see it.
fn rx_bytes(file: &RegFile, frame: &[u8]) -> u64 {
    let stripped = file.get(Id::HLREG0, 0) & hlreg0::RXCRCSTRP != 0;
    (frame.len() + if stripped { 0 } else { FCS }) as u64
}

/// It passed the filters.
pub(super) fn rx_passed(file: &mut RegFile, frame: &[u8]) {
    let len = frame.len() + FCS;
    file.count(Id::GPRC, 0, 1);
    file.count_wide(Id::GORCL, Id::GORCH, 0, rx_bytes(file, frame));
    file.count(RX_SIZES[size_class(len)], 0, 1);
    if is_broadcast(frame) {
        file.count(Id::BPRC, 0, 1);
    } else if is_multicast(frame) {
        file.count(Id::MPRC, 0, 1);
    }
}

/// It reached host memory through a queue of per-queue counter `counter`.
pub(super) fn rx_delivered(file: &mut RegFile, frame: &[u8], counter: u32) {
    let len = rx_bytes(file, frame);
    file.count(Id::RXDGPC, 0, 1);
    file.count_wide(Id::RXDGBCL, Id::RXDGBCH, 0, len);
    file.count(Id::QPRC, counter, 1);
    file.count_wide(Id::QBRCL, Id::QBRCH, counter, len);
}

/// A frame went out.
pub(super) fn tx_sent(file: &mut RegFile, frame: &[u8], counter: u32) {
    let len = frame.len() + FCS;
    let bytes = len as u64;
    file.count(Id::TPT, 0, 1);
    file.count(Id::GPTC, 0, 1);
    file.count(Id::TXDGPC, 0, 1);
    file.count_wide(Id::GOTCL, Id::GOTCH, 0, bytes);
    file.count_wide(Id::TXDGBCL, Id::TXDGBCH, 0, bytes);
    file.count(TX_SIZES[size_class(len)], 0, 1);
    if is_broadcast(frame) {
        file.count(Id::BPTC, 0, 1);
    } else if is_multicast(frame) {
        file.count(Id::MPTC, 0, 1);
    }
    file.count(Id::QPTC, counter, 1);
    file.count_wide(Id::QBTCL, Id::QBTCH, counter, bytes);
}
