//! Receive, swap the MAC addresses, send: on hand-built rings of the 82599, with the bench as the NIC.

use crate::BenchError;
use millrace_driver::harness::{Harness, HarnessConfig, good};
use millrace_driver::queue::{BATCH, RxBatch, RxQueue, TxMeta, TxQueue};

/// Length of every frame; the bench touches the first line of each.
const FRAME: u16 = 60;

/// All frames of a batch, by their numbers.
const ALL: [u8; BATCH] = {
    let mut all = [0; BATCH];
    let mut i = 0;
    while i < BATCH {
        all[i] = i as u8;
        i += 1;
    }
    all
};

/// The played NIC, and the driver's queue pair with a forwarder on it.
pub struct Forward {
    nic: Harness,
    rx: RxQueue,
    tx: TxQueue,
    batch: Box<RxBatch>,
}

impl Forward {
    /// Empty rings of the sizes that `config` says.
    pub fn new(config: &HarnessConfig) -> Result<Forward, BenchError> {
        let (nic, rx, tx) = Harness::new(config)?;
        Ok(Forward {
            nic,
            rx,
            tx,
            batch: Box::new(RxBatch::new()),
        })
    }

    /// The NIC's turn: takes everything that was sent, then receives `frames`. Fails if the driver had not sent all of
    /// the `before` frames it was given the last time, or has not posted buffers enough.
    pub fn supply(&mut self, before: u32, frames: u32) -> Result<(), BenchError> {
        let sent = self.nic.tx.transmit_all();
        let received = self.nic.rx.receive_same(frames, good(FRAME).encode());
        if (sent, received) == (before, frames) {
            return Ok(());
        }
        Err(BenchError::WrongOutcome {
            case: "forward",
            outcome: format!(
                "{sent} of {before} frames were sent, and room was for {received} of {frames} more"
            ),
        })
    }

    /// The driver's turn, and what is measured: polls until `frames` have come or a poll brings nothing.
    #[inline(never)]
    pub fn drain(&mut self, frames: usize) {
        let mut left = frames;
        while left > 0 {
            let n = self.rx.poll(&mut self.batch).min(BATCH);
            if n == 0 {
                break;
            }
            self.batch.for_each_head(swap_addresses);
            self.tx.push_frames(&mut self.batch, &ALL[..n], &TxMeta::NONE);
            self.tx.submit();
            left = left.saturating_sub(n);
        }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // The played NIC lets go of its buffers, so that the queues can give them back.
        self.nic.close();
    }
}

/// Destination and source of an Ethernet frame change places.
#[inline(always)]
fn swap_addresses(frame: &mut [u8]) {
    if let Some((destination, source)) = frame.first_chunk_mut::<12>().map(|macs| macs.split_at_mut(6)) {
        destination.swap_with_slice(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_driver::harness::Sent;

    #[test]
    fn every_frame_goes_back_out_with_its_addresses_swapped() {
        let mut forward = Forward::new(&HarnessConfig {
            rx_ring: 256,
            tx_ring: 256,
            forward_only: true,
            ..HarnessConfig::default()
        })
        .unwrap();
        let mut frame: Vec<u8> = (0..60).collect();
        for _ in 0..100 {
            assert!(forward.nic.rx.receive_frame(&frame, good(0)).unwrap());
        }
        forward.drain(100);
        let mut sent = Vec::new();
        assert_eq!(forward.nic.tx.transmit(256, |one| sent.push(one)).unwrap(), 100);
        frame[..12].rotate_left(6);
        for one in &sent {
            let Sent::Data(data) = one else { panic!("{one:?}") };
            assert_eq!(forward.nic.tx.sent(data).unwrap(), frame);
        }
    }

    #[test]
    fn a_round_that_did_not_send_everything_is_noticed() {
        let mut forward = Forward::new(&HarnessConfig::default()).unwrap();
        forward.supply(0, 32).unwrap();
        assert!(matches!(
            forward.supply(32, 32),
            Err(BenchError::WrongOutcome { .. })
        ));
    }
}
