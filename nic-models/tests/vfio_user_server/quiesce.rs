//! After the answer to an unmap, a reset or a bus-master-off, and after a disconnect, no write lands.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use millrace_nic_models::device::exerciser::*;
use millrace_nic_models::vfio_user::wire::{self, Command, DmaUnmap};

use crate::Rig;
use crate::client::{Client, memfd};

const IOVA: u64 = 0x7_0000_0000;
const LEN: usize = 0x2000;
const CANARY: u8 = 0xc5;

/// Client memory that the engine writes to.
struct Memory(OwnedFd);

impl Memory {
    fn fill(&self, byte: u8) {
        assert_eq!(rustix::io::pwrite(&self.0, &[byte; LEN], 0), Ok(LEN));
    }

    fn is_all(&self, byte: u8) -> bool {
        let mut all = [0; LEN];
        assert_eq!(rustix::io::pread(&self.0, &mut all, 0), Ok(LEN));
        all.iter().all(|&b| b == byte)
    }

    /// Waits until the engine has overwritten the canary.
    fn wait_for_traffic(&self, pattern: u8) {
        let began = Instant::now();
        let mut last = [0; 1];
        while last[0] != pattern {
            assert!(began.elapsed() < Duration::from_secs(10), "no traffic");
            rustix::io::pread(&self.0, &mut last, LEN as u64 - 1).unwrap();
        }
    }
}

fn start(client: &mut Client, pattern: u8) {
    client.bus_master(true);
    client.write32(0, BASE_LOW, IOVA as u32);
    client.write32(0, BASE_HIGH, (IOVA >> 32) as u32);
    client.write32(0, LENGTH, LEN as u32);
    client.write32(0, PATTERN, u32::from(pattern));
    client.write32(0, CONTROL, 1);
}

#[test]
fn ten_thousand_unmaps_and_resets_under_traffic_and_no_write_lands_after_the_answer() {
    let rig = Rig::new();
    let memory = Memory(memfd(LEN as u64, true));
    let mut client = rig.client();
    let mut running = false;
    let mut mapped = false;
    for round in 0..10_000u32 {
        let pattern = (round % 100) as u8 + 1;
        if !mapped {
            client.dma_map(memory.0.as_fd(), 0, IOVA, LEN as u64).accepted();
            mapped = true;
        }
        if running {
            client.write32(0, PATTERN, u32::from(pattern));
        } else {
            start(&mut client, pattern);
            running = true;
        }
        memory.wait_for_traffic(pattern);
        match round % 8 {
            0..=2 => {
                client.dma_unmap(IOVA, LEN as u64).accepted();
                mapped = false;
            }
            3 => {
                // In two halves.
                client.dma_unmap(IOVA, 0x1000).accepted();
                client.dma_unmap(IOVA + 0x1000, 0x1000).accepted();
                mapped = false;
            }
            4 => {
                let all = DmaUnmap {
                    argsz: 24,
                    flags: wire::DMA_UNMAP_ALL,
                    address: 0,
                    size: 0,
                };
                client.ask(Command::DmaUnmap, &all).accepted();
                mapped = false;
            }
            5 | 6 => {
                client.reset();
                running = false;
            }
            _ => {
                client.bus_master(false);
                running = false;
            }
        }
        memory.fill(CANARY);
        // Give a late write every chance, sometimes with a further round trip.
        if round % 16 == 0 {
            client.read32(0, ROUNDS);
        }
        std::thread::yield_now();
        assert!(
            memory.is_all(CANARY),
            "round {round}: a write landed after the answer"
        );
    }
}

#[test]
fn nothing_is_written_after_the_client_has_gone() {
    let rig = Rig::new();
    let memory = Memory(memfd(LEN as u64, true));
    for round in 0..50 {
        let pattern = round + 1;
        let mut client = rig.client();
        assert_eq!(
            client.read32(0, CONTROL),
            0,
            "the last client's engine still runs"
        );
        client.dma_map(memory.0.as_fd(), 0, IOVA, LEN as u64).accepted();
        start(&mut client, pattern);
        memory.wait_for_traffic(pattern);
        drop(client);
        // The next one is welcome only after the last one's memory is unmapped.
        let mut next = rig.client();
        memory.fill(CANARY);
        next.bus_master(true);
        next.write32(0, BASE_LOW, IOVA as u32);
        next.write32(0, BASE_HIGH, (IOVA >> 32) as u32);
        next.write32(0, LENGTH, 64);
        next.write32(0, CONTROL, 1);
        while next.read32(0, FAULTS) == 0 {}
        assert!(memory.is_all(CANARY), "round {round}");
    }
}
