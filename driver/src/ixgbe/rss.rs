//! Receive-side scaling: key, fields, indirection table (7.1.2.8).

use millrace_nic_models::ixgbe::regs::{self, mrqc};

use crate::bus::BusError;
use crate::port::{PortError, RssConfig, RssFields};

use super::{Ixgbe, RETA_SIZE};

impl Ixgbe {
    /// Writes all three. While key and fields change, some frames are hashed the old way and some the new.
    pub(super) fn write_rss(&mut self, rss: &RssConfig, queues: u16) -> Result<(), PortError> {
        for (i, entry) in self.reta.iter_mut().enumerate() {
            *entry = match rss.reta.len() {
                0 => i % usize::from(queues.max(1)),
                n => usize::from(rss.reta[i % n]),
            } as u8;
        }
        for (i, bytes) in rss.key.chunks_exact(4).enumerate() {
            let word = bytes.iter().rev().fold(0, |acc, b| acc << 8 | u32::from(*b));
            self.step("RSS key", self.write(&regs::RSSRK, i as u32, word))?;
        }
        self.write_reta()?;
        let fields = field_bits(&rss.fields);
        // Also with one queue: programs want the hash.
        let mode = if fields == 0 { 0 } else { mrqc::MRQE_RSS };
        self.step("RSS fields", self.write(&regs::MRQC, 0, fields | mode))
    }

    /// The indirection table, with entries of stopped queues pointing at running ones, so that no frame is steered to a
    /// queue that is off.
    pub(super) fn write_reta(&mut self) -> Result<(), PortError> {
        let entries = effective(&self.reta, self.running);
        let write = || -> Result<(), BusError> {
            for (i, four) in entries.chunks_exact(4).enumerate() {
                let word = four.iter().rev().fold(0, |acc, b| acc << 8 | u32::from(*b));
                self.write(&regs::RETA, i as u32, word)?;
            }
            Ok(())
        };
        self.step("RSS indirection table", write())
    }
}

/// Replaces each entry whose queue is not in `running` by a running one, in turn.
fn effective(reta: &[u8; RETA_SIZE], running: u16) -> [u8; RETA_SIZE] {
    let mut out = *reta;
    let on: Vec<u8> = (0..16).filter(|q| running & 1 << q != 0).collect();
    if on.is_empty() {
        return out;
    }
    let mut turn = on.iter().cycle();
    for entry in out.iter_mut().filter(|q| running & 1 << (**q & 15) == 0) {
        if let Some(queue) = turn.next() {
            *entry = *queue;
        }
    }
    out
}

fn field_bits(fields: &RssFields) -> u32 {
    [
        (fields.ipv4, mrqc::IPV4),
        (fields.tcp4, mrqc::TCP_IPV4),
        (fields.udp4, mrqc::UDP_IPV4),
        (fields.ipv6, mrqc::IPV6),
        (fields.tcp6, mrqc::TCP_IPV6),
        (fields.udp6, mrqc::UDP_IPV6),
    ]
    .into_iter()
    .filter(|(on, _)| *on)
    .fold(0, |acc, (_, bit)| acc | bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_stopped_queue_are_shared_among_the_running_ones() {
        let mut reta = [0; RETA_SIZE];
        reta.iter_mut().enumerate().for_each(|(i, e)| *e = (i % 4) as u8);
        assert_eq!(effective(&reta, 0b1111), reta);
        let without_2 = effective(&reta, 0b1011);
        for queue in [0, 1, 3] {
            let n = without_2.iter().filter(|e| **e == queue).count();
            assert!((42..=43).contains(&n), "queue {queue} has {n} entries");
        }
        for (i, (now, was)) in without_2.iter().zip(&reta).enumerate() {
            assert!(*was == 2 || now == was, "entry {i} moved without need");
        }
        assert_eq!(effective(&reta, 0), reta);
    }
}
